// SPDX-License-Identifier: Apache-2.0
// Calibrates the time-stamp counter once.
#include "libos/base/clock.h"

namespace spiritos {

double NsPerTick() noexcept {
  static const double ns_per_tick = [] {
    const uint64_t ns_begin = NowNs();
    const uint64_t tsc_begin = Tsc();
    uint64_t ns_end = ns_begin;
    while (ns_end - ns_begin < 5'000'000) ns_end = NowNs();
    return static_cast<double>(ns_end - ns_begin) / static_cast<double>(Tsc() - tsc_begin);
  }();
  return ns_per_tick;
}

}  // namespace spiritos
