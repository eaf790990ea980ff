// SPDX-License-Identifier: Apache-2.0
// Prefetcher: which pages next? Strategies answer and do no I/O.
//
// One per core, asked at every fault that goes to the pool. It learns from the
// faults alone: pages that read-ahead brought do not fault, so reaching the page
// after a window, its marker, is what a hit looks like here.
//
// Not synchronised: the pager lets one fault at a time into a core's prefetcher.
// Context: signal.
#pragma once

#include <cstdint>

#include "libos/base/units.h"
#include "libos/prefetch/governor.h"
#include "libos/prefetch/history.h"
#include "libos/prefetch/sequential.h"
#include "libos/prefetch/trend.h"

namespace spiritos {

class Prefetcher {
 public:
  Prefetcher() = default;

  // What to bring along with `vpn`, which is being fetched. `max_window` bounds
  // the pages, `vpn` included.
  PrefetchPlan OnFault(Vpn vpn, uint32_t max_window, bool use_trend) noexcept {
    PrefetchPlan plan = streams_.OnFault(vpn, history_, governor_, max_window);
    if (plan.count <= 1 && use_trend) plan = FollowTrend(vpn, history_, governor_, max_window);
    history_.Add(vpn);
    return plan;
  }
  // The pager brought `count` pages of the plan, the demanded one included.
  void Brought(const PrefetchPlan& plan, uint32_t count) noexcept { streams_.Brought(plan, count); }

  // Windows whose marker was reached, and windows given up, since the start.
  uint64_t hits() const { return governor_.hits(); }
  uint64_t wasted() const { return governor_.wasted(); }

 private:
  FaultHistory history_;
  SequentialStreams streams_;
  PrefetchGovernor governor_;
};

}  // namespace spiritos
