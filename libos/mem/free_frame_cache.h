// SPDX-License-Identifier: Apache-2.0
// FreeFrameCache: free frames at hand on every core.
//
// Each core has a magazine: a number, since a free frame is a right and one is as
// good as another. Taking one is a compare-and-swap on the core's own line. An
// empty magazine takes a batch from the pool; when the pool is empty too, frames
// lying in other cores' magazines are taken one at a time. Frames come back
// through the pool in batches.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>

#include "libos/base/core.h"
#include "libos/mem/free_frame_pool.h"

namespace spiritos {

class FreeFrameCache {
 public:
  explicit FreeFrameCache(FreeFramePool& pool) : pool_(pool) {}

  // One frame, or false when there is none anywhere. `refilled` tells that the
  // pool was asked, the moment to look at watermarks. Context: signal.
  [[nodiscard]] bool TryTake(bool* refilled) noexcept {
    *refilled = false;
    if (TryPop(magazines_[CurrentCore()])) [[likely]]
      return true;
    *refilled = true;
    return Refill();
  }
  // Up to `n` more frames, without emptying the pool below `keep`.
  int64_t TryTakeMore(int64_t n, int64_t keep) noexcept {
    const int64_t spare = pool_.level() - keep;
    return spare <= 0 ? 0 : pool_.TryTake(std::min(n, spare));
  }
  // Returns unused frames to this core.
  void Give(int64_t n) noexcept {
    if (pool_.waiters() != 0 || pool_.level() <= 0) {
      pool_.Give(n);
      return;
    }
    const int64_t now =
        magazines_[CurrentCore()].frames.fetch_add(n, std::memory_order_relaxed) + n;
    if (now > 2 * kBatch) Flush();
  }

  int64_t cached() const noexcept {
    int64_t sum = 0;
    for (uint32_t core = 0; core < CoreCount(); ++core) {
      sum += magazines_[core].frames.load(std::memory_order_relaxed);
    }
    return sum;
  }
  // Returns every magazine's frames to the pool: for a shrinking budget, and
  // when faults wait.
  void Flush() noexcept {
    for (uint32_t core = 0; core < CoreCount(); ++core) {
      const int64_t n = magazines_[core].frames.exchange(0, std::memory_order_relaxed);
      if (n > 0) pool_.Give(n);
    }
  }

 private:
  static constexpr int64_t kBatch = 32;
  struct alignas(kCacheLine) Magazine {
    std::atomic<int64_t> frames{0};
  };

  static bool TryPop(Magazine& magazine) noexcept {
    int64_t n = magazine.frames.load(std::memory_order_relaxed);
    while (n > 0) {
      if (magazine.frames.compare_exchange_weak(n, n - 1, std::memory_order_relaxed)) return true;
    }
    return false;
  }
  [[gnu::noinline]] bool Refill() noexcept {
    // Small pools hand out small batches, so that no core sits on what others miss.
    const int64_t batch = std::clamp<int64_t>(pool_.level() / (2 * CoreCount()), 1, kBatch);
    const int64_t taken = pool_.TryTake(batch);
    if (taken > 1) {
      magazines_[CurrentCore()].frames.fetch_add(taken - 1, std::memory_order_relaxed);
    }
    if (taken > 0) return true;
    for (uint32_t core = 0; core < CoreCount(); ++core) {
      if (TryPop(magazines_[core])) return true;
    }
    return false;
  }

  FreeFramePool& pool_;
  std::array<Magazine, kMaxCores> magazines_;
};

}  // namespace spiritos
