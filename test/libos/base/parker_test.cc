// SPDX-License-Identifier: Apache-2.0
// Parker: every change is noticed, whoever else sleeps on the same bucket. A lost
// wake-up shows as a test that does not end.
#include "libos/base/parker.h"

#include <array>
#include <catch2/catch.hpp>
#include <cerrno>
#include <memory>
#include <random>

#include "libos/base/clock.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

TEST_CASE("two threads hand a ball to and fro without losing a wake-up", "[base]") {
  // 0: every wait sleeps. 20: the change often falls between spinning and sleeping.
  const uint32_t spins = GENERATE(0u, 20u, 400u);
  CAPTURE(spins);
  const auto parker = std::make_unique<Parker>();
  parker->set_spins(spins);
  const uint32_t rounds = Rounds(20'000);
  std::atomic<uint32_t> ball{0};
  RunTogether(2, [&](uint32_t me) {
    for (uint32_t i = 0; i < rounds; ++i) {
      const uint32_t mine = 2 * i + me;
      parker->Wait(&ball, [&] { return ball.load(std::memory_order_acquire) == mine; });
      ball.store(mine + 1, std::memory_order_release);
      parker->Unpark(&ball);
    }
  });
  CHECK(ball == 2 * rounds);
}

TEST_CASE("waiters on one key all see their own change", "[base]") {
  constexpr uint32_t kWaiters = 6;
  constexpr uint32_t kChangers = 2;
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  const auto parker = std::make_unique<Parker>();
  parker->set_spins(GENERATE(0u, 50u));
  const uint32_t rounds = Rounds(20'000);
  std::array<std::atomic<uint32_t>, kWaiters> steps{};
  std::atomic<uint32_t> finished{0};
  RunTogether(kWaiters + kChangers, [&](uint32_t thread) {
    if (thread < kWaiters) {
      for (uint32_t i = 1; i <= rounds; ++i) {
        parker->Wait(&steps, [&] { return steps[thread].load(std::memory_order_acquire) >= i; });
      }
      ++finished;
      return;
    }
    // Each changer advances its half of the waiters, in random order.
    std::mt19937_64 random(seed + thread);
    std::array<uint32_t, kWaiters> left{};
    uint32_t total = 0;
    for (uint32_t w = thread - kWaiters; w < kWaiters; w += kChangers) {
      left[w] = rounds;
      total += rounds;
    }
    while (total != 0) {
      const uint32_t w = random() % kWaiters;
      if (left[w] == 0) continue;
      --left[w];
      --total;
      steps[w].fetch_add(1, std::memory_order_release);
      parker->Unpark(&steps);
    }
  });
  CHECK(finished == kWaiters);
}

TEST_CASE("waiters on more keys than buckets are woken by their own key", "[base]") {
  constexpr uint32_t kKeys = 1024;
  constexpr uint32_t kWaiters = 4;
  const auto parker = std::make_unique<Parker>();
  parker->set_spins(0);
  const auto words = std::make_unique<std::array<std::atomic<uint32_t>, kKeys>>();
  std::atomic<uint32_t> seen{0};
  RunTogether(kWaiters + 1, [&](uint32_t thread) {
    for (uint32_t k = 0; k < kKeys; ++k) {
      std::atomic<uint32_t>& word = (*words)[k];
      if (thread == kWaiters) {
        word.store(1, std::memory_order_release);
        parker->Unpark(&word);
      } else {
        parker->Wait(&word, [&] { return word.load(std::memory_order_acquire) == 1; });
        ++seen;
      }
    }
  });
  CHECK(seen == kKeys * kWaiters);
}

TEST_CASE("a wait whose condition holds returns though nobody unparks", "[base]") {
  const auto parker = std::make_unique<Parker>();
  parker->set_spins(GENERATE(0u, 400u));
  int asked = 0;
  parker->Wait(&asked, [&] { return ++asked == 1; });
  CHECK(asked == 1);
}

TEST_CASE("a futex wait ends at once on a changed word and late on a timeout", "[base]") {
  std::atomic<uint32_t> word{5};
  errno = 77;
  FutexWait(word, 4);  // Would not return if the value were not compared.
  const uint64_t begin = NowNs();
  FutexWait(word, 5, 2'000'000);
  CHECK(NowNs() - begin >= 2'000'000);
  FutexWake(word, 1);
  CHECK(errno == 77);
}

}  // namespace
}  // namespace spiritos
