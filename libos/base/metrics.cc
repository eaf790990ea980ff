// SPDX-License-Identifier: Apache-2.0
// The table of metric names.
#include "libos/base/metrics.h"

namespace spiritos {

const std::array<MetricInfo, kMetricCount>& MetricTable() {
  static constexpr std::array<MetricInfo, kMetricCount> table = {{
#define SPIRITOS_METRIC_ROW(id, name, help) {name, help},
      SPIRITOS_METRICS(SPIRITOS_METRIC_ROW)
#undef SPIRITOS_METRIC_ROW
  }};
  return table;
}

}  // namespace spiritos
