// SPDX-License-Identifier: Apache-2.0
// SequentialStreams: runs of pages at equal distances, several at a time.
//
// A stream begins when a fault is the neighbour of a recent one (stride +1 or
// -1), or repeats the last distance (a constant stride). It expects its marker,
// the first page after its window; a fault there is a hit: the window doubles
// and moves on. Eight streams per core, the least recently hit gives way.
#pragma once

#include <array>
#include <cstdint>

#include "libos/prefetch/governor.h"
#include "libos/prefetch/history.h"
#include "libos/prefetch/plan.h"

namespace spiritos {

class SequentialStreams {
 public:
  PrefetchPlan OnFault(Vpn vpn, const FaultHistory& history, PrefetchGovernor& governor,
                       uint32_t max_window) noexcept;
  // Moves the plan's marker behind the pages that were really brought.
  void Brought(const PrefetchPlan& plan, uint32_t count) noexcept;

 private:
  static constexpr uint32_t kStreams = 8;
  struct Stream {
    uint64_t marker = 0;  // 0 = unused.
    int64_t stride = 0;
    uint32_t window = 0;
    uint64_t used_at = 0;
  };

  std::array<Stream, kStreams> streams_{};
  uint64_t clock_ = 0;
};

}  // namespace spiritos
