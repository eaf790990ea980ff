// SPDX-License-Identifier: Apache-2.0
// SweepPool: idle Sweep objects for faulting threads and range calls.
//
// Evictor threads own theirs; these are for whoever sweeps inline. When all are
// out, the caller waits for frames like anybody else.
#pragma once

#include <array>

#include "libos/base/lock.h"
#include "libos/base/pinned_arena.h"
#include "libos/evict/sweep.h"

namespace spiritos {

class SweepPool {
 public:
  static constexpr size_t kSweeps = 8;

  // False when near memory is short.
  [[nodiscard]] bool Init(PinnedArena& arena) noexcept {
    for (size_t i = 0; i < kSweeps; ++i) {
      Sweep* sweep = arena.New<Sweep>();
      if (sweep == nullptr) return false;
      Give(sweep);
    }
    return true;
  }
  // Null when all are in use.
  Sweep* TryTake() noexcept {
    LockGuard guard(lock_);
    return idle_count_ == 0 ? nullptr : idle_[--idle_count_];
  }
  void Give(Sweep* sweep) noexcept {
    LockGuard guard(lock_);
    idle_[idle_count_++] = sweep;
  }

 private:
  SpinLock lock_{LockRank::kSweepPool};
  std::array<Sweep*, kSweeps> idle_ ABSL_GUARDED_BY(lock_){};
  size_t idle_count_ ABSL_GUARDED_BY(lock_) = 0;
};

}  // namespace spiritos
