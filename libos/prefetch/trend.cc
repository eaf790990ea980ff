// SPDX-License-Identifier: Apache-2.0
// The vote.
#include "libos/prefetch/trend.h"

#include <algorithm>

namespace spiritos {
namespace {

// A trend without a stream of its own is weak: a few pages only.
constexpr uint32_t kTrendWindow = 4;

}  // namespace

int64_t FindTrend(const FaultHistory& history) noexcept {
  // More than half of a row cannot be alike without two neighbours that are.
  if (history.since_repeat() + 1 >= FaultHistory::kSize / 2) return 0;
  for (uint32_t window = FaultHistory::kSize / 4; window < FaultHistory::kSize; window *= 2) {
    int64_t candidate = 0;
    uint32_t votes = 0;
    for (uint32_t i = 0; i < window; ++i) {
      const int64_t delta = history.DeltaAt(i);
      if (votes == 0) candidate = delta;
      votes += delta == candidate ? 1u : ~0u;
    }
    uint32_t count = 0;
    for (uint32_t i = 0; i < window; ++i) count += history.DeltaAt(i) == candidate;
    if (count > window / 2) return candidate;
  }
  return 0;
}

PrefetchPlan FollowTrend(Vpn vpn, const FaultHistory& history, PrefetchGovernor& governor,
                         uint32_t max_window) noexcept {
  PrefetchPlan plan{.first = vpn};
  const int64_t trend = FindTrend(history);
  if (trend == 0) return plan;
  plan.stride = trend;
  plan.count = std::min({governor.FirstWindow(max_window), kTrendWindow, max_window});
  return plan;
}

}  // namespace spiritos
