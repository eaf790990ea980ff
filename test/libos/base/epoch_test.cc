// SPDX-License-Identifier: Apache-2.0
// Epoch: who is waited for, wherever the reader runs, and who is not.
#include "libos/base/epoch.h"

#include <pthread.h>
#include <signal.h>

#include <array>
#include <catch2/catch.hpp>
#include <memory>
#include <optional>

#include "test/support/together.h"

namespace spiritos {
namespace {

TEST_CASE("with no reader Synchronize returns", "[base]") {
  const auto epoch = std::make_unique<Epoch>();
  for (int i = 0; i < 100; ++i) epoch->Synchronize();
  { const Epoch::Guard guard(*epoch); }
  epoch->Synchronize();
}

TEST_CASE("Synchronize waits for a reader that began before it", "[base]") {
  const auto epoch = std::make_unique<Epoch>();
  const uint32_t rounds = Rounds(3'000);
  std::atomic<uint32_t> begun{0};
  std::atomic<uint32_t> ended{0};
  std::atomic<uint32_t> calling{0};
  std::atomic<uint32_t> returned{0};
  uint32_t too_early = 0;
  RunTogether(2, [&](uint32_t thread) {
    for (uint32_t round = 1; round <= rounds; ++round) {
      if (thread == 0) {
        YieldUntil([&] { return returned == round - 1; });
        std::optional<Epoch::Guard> guard(*epoch);
        begun = round;
        YieldUntil([&] { return calling == round; });
        for (uint32_t i = 0; i < round % 64; ++i) sched_yield();  // Time to return wrongly.
        ended = round;
        guard.reset();
      } else {
        YieldUntil([&] { return begun == round; });
        calling = round;
        epoch->Synchronize();
        if (ended != round) ++too_early;
        returned = round;
      }
    }
  });
  CHECK(too_early == 0);
}

TEST_CASE("readers that keep coming do not hold Synchronize up", "[base]") {
  const auto epoch = std::make_unique<Epoch>();
  std::atomic<bool> stop{false};
  std::atomic<bool> inside{false};
  uint64_t readers = 0;
  RunTogether(2, [&](uint32_t thread) {
    if (thread == 0) {
      // At every moment one reader is inside: the next begins before the last ends.
      std::array<std::optional<Epoch::Guard>, 2> guards;
      guards[0].emplace(*epoch);
      for (; !stop; ++readers) {
        guards[(readers + 1) % 2].emplace(*epoch);
        guards[readers % 2].reset();
        inside = true;
        if (readers % 256 == 0) sched_yield();
      }
      return;
    }
    YieldUntil([&] { return inside.load(); });
    for (uint32_t i = 0; i < Rounds(10'000); ++i) epoch->Synchronize();
    stop = true;
  });
  CHECK(readers > 0);
}

TEST_CASE("a reader may end on another CPU than it began on", "[base]") {
  cpu_set_t all;
  REQUIRE(sched_getaffinity(0, sizeof(all), &all) == 0);
  const auto epoch = std::make_unique<Epoch>();
  for (int from = 0; from < CPU_SETSIZE; ++from) {
    if (!CPU_ISSET(static_cast<size_t>(from), &all)) continue;
    for (int to = 0; to < CPU_SETSIZE; ++to) {
      if (!CPU_ISSET(static_cast<size_t>(to), &all)) continue;
      const auto move_to = [](int cpu) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(static_cast<size_t>(cpu), &one);
        return sched_setaffinity(0, sizeof(one), &one) == 0;
      };
      REQUIRE(move_to(from));
      {
        const Epoch::Guard guard(*epoch);
        REQUIRE(move_to(to));
      }
      epoch->Synchronize();  // Does not return if a count was left behind.
      if (from > 3 && to > 3) break;
    }
  }
  sched_setaffinity(0, sizeof(all), &all);
}

// What readers, those in signal handlers included, may still see.
struct Shared {
  static constexpr uint32_t kObjects = 4;
  Epoch epoch;
  std::array<std::atomic<bool>, kObjects> alive{};
  std::atomic<uint32_t> current{0};
  std::atomic<uint64_t> dead_seen{0};
  std::atomic<uint64_t> signal_reads{0};

  void Read() {
    const Epoch::Guard guard(epoch);
    const uint32_t object = current.load(std::memory_order_acquire);
    for (int i = 0; i < 16; ++i) {
      if (!alive[object].load(std::memory_order_relaxed)) ++dead_seen;
    }
  }
};
Shared* shared = nullptr;

TEST_CASE("readers, in signal handlers too, never see what was retired", "[base]") {
  const auto owned = std::make_unique<Shared>();
  shared = owned.get();
  shared->alive[0] = true;
  struct sigaction action {};
  struct sigaction old {};
  action.sa_handler = [](int) {
    ++shared->signal_reads;
    shared->Read();
  };
  REQUIRE(sigaction(SIGUSR1, &action, &old) == 0);

  constexpr uint32_t kReaders = 2;
  const uint32_t rounds = Rounds(20'000);
  std::atomic<bool> stop{false};
  std::array<std::atomic<pthread_t>, kReaders> ids{};
  RunTogether(kReaders + 1, [&](uint32_t thread) {
    if (thread < kReaders) {
      ids[thread] = pthread_self();
      while (!stop) shared->Read();
      return;
    }
    for (const auto& id : ids) YieldUntil([&] { return id != pthread_t{}; });
    for (uint32_t i = 0; i < rounds; ++i) {
      const uint32_t old_object = shared->current;
      const uint32_t next = (old_object + 1) % Shared::kObjects;
      shared->alive[next] = true;
      shared->current.store(next, std::memory_order_release);
      pthread_kill(ids[i % kReaders], SIGUSR1);
      shared->epoch.Synchronize();
      shared->alive[old_object] = false;
    }
    stop = true;
  });
  CHECK(shared->dead_seen == 0);
  CHECK(shared->signal_reads > 0);
  REQUIRE(sigaction(SIGUSR1, &old, nullptr) == 0);
}

}  // namespace
}  // namespace spiritos
