// SPDX-License-Identifier: Apache-2.0
// FreeFramePool: the frames a space may still take, and who waits for one.
//
// A free frame is the right to hold one more page; on userfaultfd the kernel's
// frame itself comes with Fill and goes with Drop. Frames move in batches
// between this pool and the per-core caches (free_frame_cache.h), so its lock is
// taken once in tens of faults. Who finds none queues by ticket; a batch that
// comes back serves tickets in order before it serves anybody else, so no fault
// starves.
//
// A budget that shrinks below what is free leaves a debt, which returning frames
// pay first.
//
// Also keeps the fault clock (base/recency.h): ages of pages and zones are differences of its
// ticks.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "libos/base/lock.h"
#include "libos/base/parker.h"
#include "libos/base/recency.h"
#include "libos/base/units.h"

namespace spiritos {

class FreeFramePool {
 public:
  explicit FreeFramePool(PageCount budget);

  // Takes up to `n` frames; how many it got. Never takes what waiters are owed.
  int64_t TryTake(int64_t n) noexcept;
  // Takes `n` frames, there or not; what is not is debt.
  void TakeOwed(int64_t n) noexcept;
  // Returns frames: debt first, then waiters in order, then the pool.
  void Give(int64_t n) noexcept;

  // A place in the queue. It must be waited for until it is granted.
  uint64_t Enqueue() noexcept;
  bool Granted(uint64_t ticket) const noexcept {
    return static_cast<int64_t>(granted_.load(std::memory_order_acquire) - ticket) > 0;
  }
  // Returns when the ticket holds a frame, or after `timeout_ns` (0 = no limit).
  bool Wait(uint64_t ticket, uint64_t timeout_ns) noexcept;
  uint64_t waiters() const noexcept {
    // Acquire: the tickets granted were issued before, so the difference is no
    // less than zero.
    const uint64_t granted = granted_.load(std::memory_order_acquire);
    return issued_.load(std::memory_order_relaxed) - granted;
  }

  // Changes the budget; shrinking takes free frames and leaves the rest as debt.
  void Resize(PageCount budget) noexcept;
  PageCount budget() const noexcept { return PageCount(budget_.load(std::memory_order_relaxed)); }
  // Free in the pool, less debt: negative while a shrink is not yet paid.
  int64_t level() const noexcept { return level_.load(std::memory_order_relaxed); }
  Watermarks watermarks() const noexcept;

  uint16_t now() const noexcept {
    return TickOf(handed_out_.load(std::memory_order_relaxed),
                  clock_.load(std::memory_order_relaxed));
  }
  // Frames handed out since the start.
  uint64_t handed_out() const noexcept { return handed_out_.load(std::memory_order_relaxed); }

 private:
  static constexpr size_t kWakeSlots = 64;

  // `clock` is log2 of the frames to a tick in its low 6 bits and, above them,
  // what is added so that a new budget goes on where the old one was.
  static uint16_t TickOf(uint64_t handed_out, uint64_t clock) noexcept {
    return static_cast<uint16_t>((handed_out >> (clock & 63)) + (clock >> 6));
  }
  void SetLevels(PageCount budget) noexcept;
  void PublishLevel() noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  SpinLock lock_{LockRank::kFramePool};
  int64_t free_ ABSL_GUARDED_BY(lock_) = 0;
  int64_t debt_ ABSL_GUARDED_BY(lock_) = 0;

  alignas(kCacheLine) std::atomic<int64_t> level_{0};
  std::atomic<uint64_t> handed_out_{0};
  std::atomic<uint64_t> clock_{0};
  std::atomic<int64_t> budget_{0};
  std::atomic<int64_t> min_{0};
  std::atomic<int64_t> low_{0};
  std::atomic<int64_t> high_{0};

  alignas(kCacheLine) std::atomic<uint64_t> issued_{0};
  std::atomic<uint64_t> granted_{0};
  struct alignas(kCacheLine) WakeSlot {
    std::atomic<uint32_t> turn{0};
  };
  std::array<WakeSlot, kWakeSlots> wake_slots_;
};

}  // namespace spiritos
