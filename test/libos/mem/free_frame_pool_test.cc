// SPDX-License-Identifier: Apache-2.0
// FreeFramePool: no frame is lost or doubled, tickets are served in order, debt
// comes first, and the fault clock runs evenly.
#include "libos/mem/free_frame_pool.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <random>
#include <vector>

#include "libos/base/clock.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

TEST_CASE("a pool hands out its budget and no frame more", "[mem]") {
  FreeFramePool pool(100_pages);
  CHECK(pool.level() == 100);
  CHECK(pool.TryTake(30) == 30);
  CHECK(pool.level() == 70);
  CHECK(pool.TryTake(100) == 70);
  CHECK(pool.TryTake(1) == 0);
  CHECK(pool.level() == 0);
  pool.Give(5);
  CHECK(pool.TryTake(10) == 5);
  CHECK(pool.handed_out() == 105);
}

TEST_CASE("tickets are served in the order they were drawn, before anybody else", "[mem]") {
  FreeFramePool pool(10_pages);
  REQUIRE(pool.TryTake(10) == 10);
  std::vector<uint64_t> tickets;
  for (int i = 0; i < 5; ++i) tickets.push_back(pool.Enqueue());
  CHECK(pool.waiters() == 5);
  for (size_t served = 0; served < tickets.size(); ++served) {
    for (size_t i = 0; i < tickets.size(); ++i) CHECK(pool.Granted(tickets[i]) == (i < served));
    pool.Give(1);
    CHECK(pool.TryTake(1) == 0);  // It is owed.
  }
  CHECK(pool.waiters() == 0);
  CHECK(pool.level() == 0);
  pool.Give(1);
  CHECK(pool.TryTake(1) == 1);
}

TEST_CASE("a ticket drawn while frames are free is served at once", "[mem]") {
  FreeFramePool pool(1_pages);
  const uint64_t first = pool.Enqueue();
  CHECK(pool.Granted(first));
  CHECK(pool.level() == 0);
  const uint64_t second = pool.Enqueue();
  CHECK_FALSE(pool.Granted(second));
  CHECK(pool.Wait(first, 0));
}

TEST_CASE("a wait that times out keeps its ticket", "[mem]") {
  FreeFramePool pool(1_pages);
  REQUIRE(pool.TryTake(1) == 1);
  const uint64_t ticket = pool.Enqueue();
  const uint64_t begin = NowNs();
  CHECK_FALSE(pool.Wait(ticket, 2'000'000));
  CHECK(NowNs() - begin >= 2'000'000);
  CHECK(pool.waiters() == 1);
  pool.Give(1);
  CHECK(pool.Wait(ticket, 2'000'000));
  CHECK(pool.TryTake(1) == 0);
}

TEST_CASE("a budget that shrinks leaves a debt that returning frames pay first", "[mem]") {
  FreeFramePool pool(100_pages);
  REQUIRE(pool.TryTake(90) == 90);
  pool.Resize(50_pages);
  CHECK(pool.budget() == 50_pages);
  CHECK(pool.level() == -40);
  const uint64_t ticket = pool.Enqueue();
  pool.Give(30);
  CHECK(pool.level() == -10);
  CHECK_FALSE(pool.Granted(ticket));
  pool.Give(12);
  CHECK(pool.Granted(ticket));
  CHECK(pool.level() == 1);
  // Growing pays debt as well, then serves who waits.
  REQUIRE(pool.TryTake(1) == 1);
  pool.Resize(40_pages);
  const uint64_t next = pool.Enqueue();
  CHECK(pool.level() == -10);
  pool.Resize(45_pages);
  CHECK(pool.level() == -5);
  CHECK_FALSE(pool.Granted(next));
  pool.Resize(60_pages);
  CHECK(pool.Granted(next));
  CHECK(pool.level() == 9);
}

TEST_CASE("random calls agree with a model of debt, tickets and free frames", "[mem]") {
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  FreeFramePool pool(200_pages);
  int64_t budget = 200;
  int64_t free = 200;
  int64_t debt = 0;
  int64_t held = 0;
  uint64_t issued = 0;
  uint64_t granted = 0;
  uint32_t wrong = 0;
  const auto give = [&](int64_t n) {
    const int64_t paid = std::min(n, debt);
    debt -= paid;
    n -= paid;
    const int64_t served = std::min(n, static_cast<int64_t>(issued - granted));
    granted += static_cast<uint64_t>(served);
    held += served;
    free += n - served;
  };
  for (uint32_t step = 0; step < Rounds(100'000); ++step) {
    const auto n = static_cast<int64_t>(random() % 60);
    switch (random() % 8) {
      case 0:
      case 1:
      case 2: {
        const int64_t expected = std::min(n, free);
        wrong += pool.TryTake(n) != expected;
        free -= expected;
        held += expected;
        break;
      }
      case 3:
      case 4:
      case 5: {
        const int64_t back = std::min(n, held);
        held -= back;
        pool.Give(back);
        give(back);
        break;
      }
      case 6:
        wrong += pool.Enqueue() != issued;
        ++issued;
        if (free > 0) {
          --free;
          ++held;
          ++granted;
        }
        break;
      default: {
        const auto to = static_cast<int64_t>(50 + random() % 200);
        pool.Resize(PageCount(to));
        if (to >= budget) {
          give(to - budget);
        } else {
          const int64_t taken = std::min(free, budget - to);
          free -= taken;
          debt += budget - to - taken;
        }
        budget = to;
      }
    }
    wrong += pool.level() != free - debt;
    wrong += pool.level() + held != budget;
    wrong += pool.budget() != PageCount(budget);
    wrong += pool.waiters() != issued - granted;
    wrong += granted != 0 && !pool.Granted(granted - 1);
    wrong += pool.Granted(granted);
    if (wrong != 0) break;
  }
  CHECK(wrong == 0);
}

TEST_CASE("frames are neither lost nor doubled among many threads", "[mem]") {
  constexpr uint32_t kThreads = 4;
  constexpr int64_t kBudget = 24;
  const bool resizing = GENERATE(false, true);
  const uint64_t seed = TestSeed();
  INFO("seed " << seed << " resizing " << resizing);
  FreeFramePool pool{PageCount(kBudget)};
  std::atomic<int64_t> held{0};
  std::atomic<uint32_t> running{kThreads};
  std::atomic<uint32_t> too_many{0};
  std::atomic<uint64_t> waits{0};
  std::atomic<uint64_t> absurd{0};
  RunTogether(kThreads + 1, [&](uint32_t thread) {
    std::mt19937_64 random(seed + thread);
    if (thread == kThreads) {  // Watches, and changes the budget.
      while (running != 0) {
        // Two counters are read: tickets of the time between may count, but it never
        // wraps.
        if (pool.waiters() > uint64_t{1} << 32) ++absurd;
        if (pool.level() > 2 * kBudget) ++absurd;
        if (resizing) pool.Resize(PageCount(static_cast<int64_t>(6 + random() % 40)));
        sched_yield();
      }
      pool.Resize(PageCount(kBudget));
      return;
    }
    int64_t mine = 0;
    const auto took = [&](int64_t n) {
      mine += n;
      if (held.fetch_add(n) + n > kBudget && !resizing) ++too_many;
    };
    const auto give_all = [&] {
      held.fetch_sub(mine);
      pool.Give(mine);
      mine = 0;
    };
    for (uint32_t i = 0; i < Rounds(30'000); ++i) {
      const auto n = static_cast<int64_t>(1 + random() % 12);
      took(pool.TryTake(n));
      if (random() % 2 == 0 || mine == 0) {
        give_all();  // Who waits holds nothing, so somebody can always give.
        const uint64_t ticket = pool.Enqueue();
        while (!pool.Wait(ticket, random() % 4 == 0 ? 20'000 : 0)) {
        }
        ++waits;
        took(1);
      }
      if (random() % 4 != 0) give_all();
    }
    give_all();
    --running;
  });
  CHECK(too_many == 0);
  CHECK(absurd == 0);
  CHECK(waits > 0);
  CHECK(held == 0);
  CHECK(pool.waiters() == 0);
  CHECK(pool.level() == kBudget);
  CHECK(pool.TryTake(1000) == kBudget);
}

TEST_CASE("one batch wakes more waiters than there are places to sleep", "[mem]") {
  constexpr uint32_t kWaiters = 80;  // The pool has 64 futexes.
  FreeFramePool pool{PageCount(kWaiters)};
  REQUIRE(pool.TryTake(kWaiters) == kWaiters);
  std::atomic<uint32_t> got{0};
  RunTogether(kWaiters + 1, [&](uint32_t thread) {
    if (thread < kWaiters) {
      if (pool.Wait(pool.Enqueue(), 0)) ++got;
      return;
    }
    YieldUntil([&] { return pool.waiters() == kWaiters; });
    pool.Give(kWaiters);
  });
  CHECK(got == kWaiters);
  CHECK(pool.level() == 0);
}

TEST_CASE("watermarks rise from zero to the budget in every budget allowed", "[mem]") {
  for (int64_t budget = 1024; budget < int64_t{1} << 34; budget += budget / 3) {
    const Watermarks marks = FreeFramePool(PageCount(budget)).watermarks();
    CAPTURE(budget, marks.min, marks.low, marks.high);
    CHECK(0 < marks.min);
    CHECK(marks.min < marks.low);
    CHECK(marks.low < marks.high);
    CHECK(marks.high < budget);
  }
}

TEST_CASE("a turnover of the budget is 128 to 256 ticks of the fault clock", "[mem]") {
  for (const int64_t budget : {1024, 1025, 5000, 65536, 1 << 20}) {
    FreeFramePool pool{PageCount(budget)};
    const uint16_t begin = pool.now();
    for (int turn = 1; turn <= 4; ++turn) {
      for (int64_t n = 0; n < budget; n += 32) {
        const int64_t taken = pool.TryTake(std::min<int64_t>(32, budget - n));
        pool.Give(taken);
      }
      const auto ticks = static_cast<uint16_t>(pool.now() - begin);
      CAPTURE(budget, turn, ticks);
      CHECK(ticks >= 128 * turn - 1);
      CHECK(ticks <= 256 * turn);
    }
  }
}

TEST_CASE("a change of the budget does not make the fault clock jump", "[mem]") {
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  FreeFramePool pool(4096_pages);
  const auto turn_over = [&](int64_t frames) {
    for (; frames > 0; frames -= 64) pool.Give(pool.TryTake(64));
  };
  turn_over(1'000'000);
  for (int change = 0; change < 200; ++change) {
    const uint16_t before = pool.now();
    const auto budget = static_cast<int64_t>(1024 + random() % 100'000);
    pool.Resize(PageCount(budget));
    CAPTURE(change, budget, before, pool.now());
    CHECK(static_cast<uint16_t>(pool.now() - before) <= 1);
    const uint16_t resized = pool.now();
    turn_over(budget);
    CHECK(static_cast<uint16_t>(pool.now() - resized) >= 127);
    CHECK(static_cast<uint16_t>(pool.now() - resized) <= 257);
  }
}

}  // namespace
}  // namespace spiritos
