// SPDX-License-Identifier: Apache-2.0
// Batches, debt and tickets under one short lock.
#include "libos/mem/free_frame_pool.h"

#include <algorithm>

#include "libos/base/clock.h"

namespace spiritos {

FreeFramePool::FreeFramePool(PageCount budget) {
  free_ = budget.raw();
  level_ = budget.raw();
  SetLevels(budget);
}

void FreeFramePool::SetLevels(PageCount budget) noexcept {
  const Watermarks marks = Watermarks::For(budget.raw());
  budget_ = budget.raw();
  min_ = marks.min;
  low_ = marks.low;
  high_ = marks.high;
  const uint64_t shift = TickShift(budget.raw());
  const auto offset = static_cast<uint16_t>(now() - TickOf(handed_out(), shift));
  clock_ = (uint64_t{offset} << 6) | shift;
}

Watermarks FreeFramePool::watermarks() const noexcept {
  return {min_.load(std::memory_order_relaxed), low_.load(std::memory_order_relaxed),
          high_.load(std::memory_order_relaxed)};
}

void FreeFramePool::PublishLevel() noexcept {
  level_.store(free_ - debt_, std::memory_order_relaxed);
}

int64_t FreeFramePool::TryTake(int64_t n) noexcept {
  LockGuard guard(lock_);
  const int64_t taken = std::min(n, free_);
  free_ -= taken;
  handed_out_.fetch_add(static_cast<uint64_t>(taken), std::memory_order_relaxed);
  PublishLevel();
  return taken;
}

void FreeFramePool::TakeOwed(int64_t n) noexcept {
  LockGuard guard(lock_);
  const int64_t taken = std::min(n, free_);
  free_ -= taken;
  debt_ += n - taken;
  handed_out_.fetch_add(static_cast<uint64_t>(n), std::memory_order_relaxed);
  PublishLevel();
}

void FreeFramePool::Give(int64_t n) noexcept {
  uint64_t first = 0;
  uint64_t last = 0;
  {
    LockGuard guard(lock_);
    const int64_t paid = std::min(n, debt_);
    debt_ -= paid;
    n -= paid;
    first = granted_.load(std::memory_order_relaxed);
    const auto waiting = static_cast<int64_t>(issued_.load(std::memory_order_relaxed) - first);
    const int64_t served = std::min(n, waiting);
    last = first + static_cast<uint64_t>(served);
    // Release: the waiter that sees its ticket granted owns a frame.
    granted_.store(last, std::memory_order_release);
    handed_out_.fetch_add(static_cast<uint64_t>(served), std::memory_order_relaxed);
    free_ += n - served;
    PublishLevel();
  }
  for (uint64_t ticket = first; ticket != last && ticket - first < kWakeSlots; ++ticket) {
    WakeSlot& slot = wake_slots_[ticket % kWakeSlots];
    slot.turn.fetch_add(1, std::memory_order_release);
    FutexWake(slot.turn, INT32_MAX);
  }
}

uint64_t FreeFramePool::Enqueue() noexcept {
  LockGuard guard(lock_);
  const uint64_t ticket = issued_.load(std::memory_order_relaxed);
  issued_.store(ticket + 1, std::memory_order_relaxed);
  if (free_ > 0) {  // A batch came back meanwhile: served at once, in order.
    const uint64_t granted = granted_.load(std::memory_order_relaxed);
    if (granted == ticket) {
      --free_;
      handed_out_.fetch_add(1, std::memory_order_relaxed);
      granted_.store(ticket + 1, std::memory_order_release);
      PublishLevel();
    }
  }
  return ticket;
}

bool FreeFramePool::Wait(uint64_t ticket, uint64_t timeout_ns) noexcept {
  WakeSlot& slot = wake_slots_[ticket % kWakeSlots];
  const uint64_t deadline = timeout_ns != 0 ? NowNs() + timeout_ns : 0;
  while (true) {
    const uint32_t turn = slot.turn.load(std::memory_order_acquire);
    if (Granted(ticket)) return true;
    uint64_t left = 0;
    if (timeout_ns != 0) {
      const uint64_t now = NowNs();
      if (now >= deadline) return Granted(ticket);
      left = deadline - now;
    }
    FutexWait(slot.turn, turn, left);
  }
}

void FreeFramePool::Resize(PageCount budget) noexcept {
  int64_t grown = 0;
  {
    LockGuard guard(lock_);
    const int64_t delta = budget.raw() - budget_.load(std::memory_order_relaxed);
    SetLevels(budget);
    if (delta < 0) {
      const int64_t taken = std::min(free_, -delta);
      free_ -= taken;
      debt_ += -delta - taken;
    } else {
      grown = delta;
    }
    PublishLevel();
  }
  if (grown > 0) Give(grown);
}

}  // namespace spiritos
