// SPDX-License-Identifier: Apache-2.0
// The other side of a metrics endpoint: asks it, and reads the answer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/cli/host_port.h"

namespace spiritos::cli {

struct MetricSample {
  std::string name;
  std::string tenant;  // The label of that name, or empty.
  double value = 0;
};

// The samples of an exposition in Prometheus' text format. Lines that are none are left out.
std::vector<MetricSample> ParseMetrics(std::string_view text);

// Asks http://PLACE/metrics.
absl::StatusOr<std::vector<MetricSample>> FetchMetrics(const HostPort& place, uint64_t deadline_ns);

}  // namespace spiritos::cli
