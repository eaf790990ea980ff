// SPDX-License-Identifier: Apache-2.0
// Locks: exclusion, and the ranks that debug builds hold every thread to.
#include "libos/base/lock.h"

#include <signal.h>

#include <array>
#include <catch2/catch.hpp>

#include "test/support/child.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

// Two counters that only exclusion keeps equal.
template <typename Lock>
void CheckExclusion(Lock& lock) {
  constexpr uint32_t kThreads = 4;
  const uint32_t rounds = Rounds(300'000);
  uint64_t first = 0;
  uint64_t second = 0;
  std::atomic<uint64_t> torn{0};
  RunTogether(kThreads, [&](uint32_t) {
    for (uint32_t i = 0; i < rounds; ++i) {
      LockGuard guard(lock);
      if (first != second) ++torn;
      ++first;
      ++second;
    }
  });
  CHECK(torn == 0);
  CHECK(first == uint64_t{kThreads} * rounds);
  CHECK(second == first);
}

TEST_CASE("a spin lock lets one thread in at a time", "[base]") {
  SpinLock lock(LockRank::kArena);
  CheckExclusion(lock);
}

TEST_CASE("a ranked mutex lets one thread in at a time", "[base]") {
  RankedMutex mutex(LockRank::kSpace);
  CheckExclusion(mutex);
}

TEST_CASE("try_lock takes a free lock and refuses a held one", "[base]") {
  SpinLock lock(LockRank::kArena);
  std::atomic<int> stage{0};
  bool while_held = true;
  bool when_free = false;
  RunTogether(2, [&](uint32_t thread) {
    if (thread == 0) {
      lock.lock();
      stage = 1;
      YieldUntil([&] { return stage == 2; });
      lock.unlock();
      stage = 3;
    } else {
      YieldUntil([&] { return stage == 1; });
      while_held = lock.try_lock();
      stage = 2;
      YieldUntil([&] { return stage == 3; });
      when_free = lock.try_lock();
      if (when_free) lock.unlock();
    }
  });
  CHECK_FALSE(while_held);
  CHECK(when_free);
}

#ifndef NDEBUG

TEST_CASE("rising ranks may be held together and dropped in any order", "[base]") {
  SpinLock low(LockRank::kArena);
  SpinLock middle(LockRank::kFramePool);
  SpinLock high(LockRank::kLane);
  for (int round = 0; round < 2; ++round) {
    low.lock();
    middle.lock();
    high.lock();
    CHECK(internal::held_ranks != 0);
    middle.unlock();
    low.unlock();
    high.unlock();
    CHECK(internal::held_ranks == 0);
  }
  high.lock();
  high.unlock();
  low.lock();  // Ranks no longer held do not count.
  low.unlock();
}

TEST_CASE("a lock of a lower or the same rank is fatal while one is held", "[base]") {
  const auto take_both = [](LockRank first, LockRank second, bool by_trying) {
    return RunInChild([=] {
      SpinLock a(first);
      SpinLock b(second);
      LockGuard guard(a);
      if (!by_trying) {
        b.lock();
      } else if (!b.try_lock()) {
        return 1;
      }
      b.unlock();
      return 0;
    });
  };
  for (const bool by_trying : {false, true}) {
    const ChildEnd falling = take_both(LockRank::kZoneList, LockRank::kFramePool, by_trying);
    INFO(falling.text);
    CHECK(falling.signal == SIGABRT);
    CHECK(falling.text.find("taken while holding ranks") != std::string::npos);
    CHECK(take_both(LockRank::kArena, LockRank::kArena, by_trying).signal == SIGABRT);
    CHECK(take_both(LockRank::kFramePool, LockRank::kZoneList, by_trying).status == 0);
  }
}

TEST_CASE("mutexes and spin locks share one order", "[base]") {
  const ChildEnd end = RunInChild([] {
    SpinLock spin(LockRank::kLane);
    RankedMutex mutex(LockRank::kSpace);
    LockGuard guard(spin);
    LockGuard wrong(mutex);
    return 0;
  });
  CHECK(end.signal == SIGABRT);
}

TEST_CASE("the ranks one thread holds do not bind another", "[base]") {
  SpinLock high(LockRank::kLane);
  SpinLock low(LockRank::kArena);
  LockGuard guard(high);
  uint32_t ranks_there = 1;
  RunTogether(1, [&](uint32_t) {
    ranks_there = internal::held_ranks;
    low.lock();
    low.unlock();
  });
  CHECK(ranks_there == 0);
}

#endif  // NDEBUG

}  // namespace
}  // namespace spiritos
