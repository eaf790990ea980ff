// SPDX-License-Identifier: Apache-2.0
// Epoch: readers that may be in signal handlers, writers that wait for them.
//
// Sleepable RCU after McKenney ("Sleepable Read-Copy Update", 2006): a reader
// adds itself to its core's counter of the current phase and takes itself off
// the same counter at the end, wherever it runs by then. Synchronize() flips
// the phase and waits until the old one is empty, twice, so that a reader that
// picked its phase just before a flip is waited for too.
//
// No thread registers and nothing is thread-local, so a thread's first fault is
// like any other. Reading costs two atomic additions on a line of the core.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "libos/base/core.h"
#include "libos/base/units.h"

namespace spiritos {

class Epoch {
 public:
  // A reader's stay. What it finds through pointers stays alive until its end.
  // Context: signal.
  class Guard {
   public:
    explicit Guard(Epoch& epoch) noexcept
        : counter_(epoch.cells_[CurrentCore()]
                       .readers[epoch.phase_.load(std::memory_order_relaxed) & 1]) {
      // Seq_cst: counted before anything is read under the guard. Pairs with
      // the sum taken in Synchronize().
      counter_.fetch_add(1, std::memory_order_seq_cst);
    }
    ~Guard() { counter_.fetch_sub(1, std::memory_order_release); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    std::atomic<int64_t>& counter_;
  };

  // Returns when every reader that began before the call has ended.
  // REQUIRES: one caller at a time, not inside a Guard. Context: any.
  void Synchronize() noexcept;

 private:
  struct alignas(kCacheLine) Cell {
    std::array<std::atomic<int64_t>, 2> readers{};
  };

  std::atomic<uint32_t> phase_{0};
  std::array<Cell, kMaxCores> cells_;
};

}  // namespace spiritos
