// SPDX-License-Identifier: Apache-2.0
// FollowTrend: the majority distance among the last faults.
//
// Leap (Al Maruf and Chowdhury, "Effectively Prefetching Remote Memory with
// Leap", ATC 2020), algorithm 1: a Boyer-Moore vote over the last H/4 distances,
// then twice as many, up to H; a distance that holds more than half of a window
// is the trend, so that noise of other accesses in between does not hide it.
#pragma once

#include <cstdint>

#include "libos/prefetch/governor.h"
#include "libos/prefetch/history.h"
#include "libos/prefetch/plan.h"

namespace spiritos {

// The majority distance, or 0 when there is none.
int64_t FindTrend(const FaultHistory& history) noexcept;

PrefetchPlan FollowTrend(Vpn vpn, const FaultHistory& history, PrefetchGovernor& governor,
                         uint32_t max_window) noexcept;

}  // namespace spiritos
