// SPDX-License-Identifier: Apache-2.0
// Throttle: how much a space moves to and from its pool, each way for itself.
//
// A clock for each way runs ahead of time by what every transfer takes at the rate. What was
// moved is paid for afterwards: a thread that needed a page has it, and goes on once time has
// caught up with it. So nothing waits with a page claimed, and a fault that is alone and seldom
// waits for nothing. What nobody waits for yet, read-ahead, is not begun while anything is owed:
// demand goes first.
//
//   due - kDepthNs <= now: what was not used lately may be used at once, so much of it
//
// Unlimited it costs its callers one load. Context: signal; any thread.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>

#include "libos/base/clock.h"
#include "libos/base/parker.h"
#include "libos/remote/remote_backend.h"

namespace spiritos {

class Throttle {
 public:
  static constexpr uint64_t kUnlimited = UINT64_MAX;
  // Nobody can be stopped altogether: a page in 63 ms.
  static constexpr uint64_t kLeastRate = 64 * 1024;
  static constexpr uint64_t kDepthNs = 5'000'000;

  // In bytes a second. Who waits by the old ones goes on at once.
  void SetRates(uint64_t read, uint64_t write) noexcept {
    Way(IoOp::kRead).Set(read);
    Way(IoOp::kWrite).Set(write);
    limited_.store(read != kUnlimited || write != kUnlimited, std::memory_order_relaxed);
    turn_.fetch_add(1, std::memory_order_release);
    FutexWake(turn_, INT32_MAX);
  }
  bool limited() const noexcept { return limited_.load(std::memory_order_relaxed); }

  // When what was moved will be paid for, by which rates.
  struct Debt {
    uint64_t due_ns;
    uint32_t turn;
  };
  // So much was moved, or is on its way.
  Debt Charge(IoOp op, uint64_t bytes, uint64_t now_ns) noexcept {
    // Acquire: rates that are newer than this turn make Await() return. Pairs with SetRates().
    const uint32_t turn = turn_.load(std::memory_order_acquire);
    OneWay& way = Way(op);
    const uint64_t ns_q16 = way.ns_per_byte_q16.load(std::memory_order_relaxed);
    if (ns_q16 == 0) return {now_ns, turn};
    const uint64_t cost_ns = bytes * ns_q16 >> 16;
    uint64_t due = way.due_ns.load(std::memory_order_relaxed);
    uint64_t next;
    do {
      next = std::max(due, now_ns - std::min(now_ns, kDepthNs)) + cost_ns;
    } while (!way.due_ns.compare_exchange_weak(due, next, std::memory_order_relaxed));
    return {next, turn};
  }
  // Whether what nobody waits for may be moved.
  bool MayMove(IoOp op, uint64_t now_ns) const noexcept {
    const OneWay& way = ways_[static_cast<size_t>(op)];
    return way.ns_per_byte_q16.load(std::memory_order_relaxed) == 0 ||
           way.due_ns.load(std::memory_order_relaxed) <= now_ns;
  }
  // Waits until a debt is paid, or there are other rates than it was made by; for how long.
  uint64_t Await(const Debt& debt) noexcept {
    const uint64_t begin = NowNs();
    uint64_t now = begin;
    while (now < debt.due_ns && turn_.load(std::memory_order_acquire) == debt.turn) {
      FutexWait(turn_, debt.turn, debt.due_ns - now);
      now = NowNs();
    }
    return now - begin;
  }

 private:
  struct alignas(kCacheLine) OneWay {
    std::atomic<uint64_t> ns_per_byte_q16{0};  // 0: not limited.
    std::atomic<uint64_t> due_ns{0};

    void Set(uint64_t bytes_per_s) noexcept {
      const uint64_t rate = std::max(bytes_per_s, kLeastRate);
      ns_per_byte_q16.store(bytes_per_s == kUnlimited ? 0 : (1'000'000'000ull << 16) / rate,
                            std::memory_order_relaxed);
      due_ns.store(0, std::memory_order_relaxed);
    }
  };
  OneWay& Way(IoOp op) noexcept { return ways_[static_cast<size_t>(op)]; }

  std::atomic<bool> limited_{false};
  std::atomic<uint32_t> turn_{0};
  std::array<OneWay, 2> ways_;
};

}  // namespace spiritos
