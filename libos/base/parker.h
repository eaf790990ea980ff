// SPDX-License-Identifier: Apache-2.0
// Parker: how a thread waits until a word of shared state changes.
//
// A waiter spins for about as long as a wake-up costs, then sleeps on a futex of
// a hashed table; whoever changes the word calls Unpark() and pays one load when
// nobody sleeps. Collisions wake too many, never too few.
//
//   waiter:  parker.Wait(&word, [&] { return ready(word); });
//   changer: word.store(...); parker.Unpark(&word);
//
// Context: signal, both sides. The runtime of user threads replaces the sleep by
// a yield; that is why it is a class.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "libos/base/core.h"
#include "libos/base/units.h"

namespace spiritos {

// futex(2) on a private word. Wait returns at once unless `word` holds
// `expected`, else after a wake, a signal or `timeout_ns` (0 = none).
void FutexWait(const std::atomic<uint32_t>& word, uint32_t expected,
               uint64_t timeout_ns = 0) noexcept;
void FutexWake(const std::atomic<uint32_t>& word, int count) noexcept;

class Parker {
 public:
  Parker() = default;
  Parker(const Parker&) = delete;
  Parker& operator=(const Parker&) = delete;

  // Returns once `ready()` is true. `key` is the address that Unpark() is given.
  template <typename Ready>
  void Wait(const void* key, Ready&& ready) noexcept {
    for (uint32_t i = 0; i < spins_; ++i) {
      if (ready()) return;
      CpuRelax();
    }
    Bucket& bucket = BucketOf(key);
    bucket.sleepers.fetch_add(1, std::memory_order_seq_cst);
    while (true) {
      const uint32_t turn = bucket.turn.load(std::memory_order_acquire);
      // The changer stores its word, then loads `sleepers`; here it is the other
      // way around, so one of the two sees the other.
      std::atomic_thread_fence(std::memory_order_seq_cst);
      if (ready()) break;
      FutexWait(bucket.turn, turn);
    }
    bucket.sleepers.fetch_sub(1, std::memory_order_relaxed);
  }

  // Wakes the waiters on `key`. The caller has stored what they wait for.
  void Unpark(const void* key) noexcept {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    Bucket& bucket = BucketOf(key);
    if (bucket.sleepers.load(std::memory_order_relaxed) == 0) [[likely]]
      return;
    bucket.turn.fetch_add(1, std::memory_order_release);
    FutexWake(bucket.turn, INT32_MAX);
  }

  // Spins before sleeping: about the cost of a wake-up, or 0 on one CPU, where
  // spinning only delays whom one waits for.
  void set_spins(uint32_t spins) { spins_ = spins; }

 private:
  struct alignas(kCacheLine) Bucket {
    std::atomic<uint32_t> sleepers{0};
    std::atomic<uint32_t> turn{0};
  };
  static constexpr size_t kBuckets = 256;

  Bucket& BucketOf(const void* key) {
    const auto bits = reinterpret_cast<uintptr_t>(key) >> 3;
    return buckets_[(bits * 0x9E3779B97F4A7C15ull) >> 56];
  }

  uint32_t spins_ = 400;
  std::array<Bucket, kBuckets> buckets_;
};

}  // namespace spiritos
