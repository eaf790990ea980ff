// SPDX-License-Identifier: Apache-2.0
// AheadStreams: runs of established streams, for whoever has time to fill them.
//
// Filling costs more than the program needs to read a page, so a thread that
// reads a sequence is bound by its own faults. A fault that goes on an established
// stream therefore says how far the stream may be filled beyond it; helpers take
// runs from there, and so does the reader's next fault when it meets a page that a
// helper has in hand:
//
//   read so far | in hand of reader and helpers | next ... end |
//                                               ^ a fault here goes on the stream
//
// A stream that nobody reads on costs what lies up to its end, once. Threads: any.
// Context: signal; a call that meets another one finds nothing to do.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "libos/base/lock.h"
#include "libos/base/units.h"

namespace spiritos {

class AheadStreams {
 public:
  // Pages from `first` on in direction +1 or -1; count 0 = none. In one zone.
  struct Run {
    Vpn first;
    int32_t direction = 1;
    uint32_t count = 0;
  };
  // Pages of one run.
  static constexpr uint32_t kRun = 16;

  // The direction of the stream that a fault at `vpn` goes on; 0 = of none.
  int32_t DirectionAt(Vpn vpn) const noexcept;
  // A fault brings `run`: its stream goes on behind it, and up to `most` pages
  // there may be filled ahead, twice as many as last time. False when that is none.
  bool GoOn(const Run& run, uint32_t most) noexcept;
  // The next run of any stream.
  Run Take() noexcept;
  // The next run of the stream that has the page at `vpn` in hand.
  Run TakeBeyond(Vpn vpn) noexcept;

  // Seq_cst: GoOn() sets it before it wakes; who goes to sleep looks at it last.
  bool pending() const noexcept { return pending_.load(std::memory_order_seq_cst); }

 private:
  static constexpr uint32_t kStreams = 8;
  // Page numbers; `next` is 0 in a stream that is not in use.
  struct Stream {
    std::atomic<uint64_t> next{0};
    std::atomic<int64_t> direction{1};
    uint64_t end = 0;
    uint32_t window = 0;  // From the last fault to `end`.
    uint64_t used_at = 0;

    int64_t PagesTo(uint64_t page) const noexcept {
      return static_cast<int64_t>(page - next.load(std::memory_order_relaxed)) *
             direction.load(std::memory_order_relaxed);
    }
  };

  Run TakeFrom(Stream& stream) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void UpdatePending() noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  SpinLock lock_{LockRank::kAheadStreams};
  std::array<Stream, kStreams> streams_;
  uint64_t clock_ ABSL_GUARDED_BY(lock_) = 0;
  std::atomic<bool> pending_{false};
};

}  // namespace spiritos
