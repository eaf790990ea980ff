// SPDX-License-Identifier: Apache-2.0
// FreeFrameCache: what lies in magazines is counted, found, and comes back.
#include "libos/mem/free_frame_cache.h"

#include <sched.h>

#include <catch2/catch.hpp>
#include <memory>
#include <random>
#include <vector>

#include "test/support/together.h"

namespace spiritos {
namespace {

struct Rig {
  explicit Rig(int64_t budget)
      : pool(PageCount(budget)), cache(std::make_unique<FreeFrameCache>(pool)) {}
  bool Take() {
    bool refilled;
    return cache->TryTake(&refilled);
  }
  FreeFramePool pool;
  std::unique_ptr<FreeFrameCache> cache;
};

std::vector<uint32_t> Cpus() {
  cpu_set_t set;
  REQUIRE(sched_getaffinity(0, sizeof(set), &set) == 0);
  std::vector<uint32_t> cpus;
  for (uint32_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

// Binds the calling thread to one CPU until the end of its scope.
class OnCpu {
 public:
  explicit OnCpu(uint32_t cpu) {
    sched_getaffinity(0, sizeof(before_), &before_);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof(one), &one);
  }
  ~OnCpu() { sched_setaffinity(0, sizeof(before_), &before_); }
  OnCpu(const OnCpu&) = delete;
  OnCpu& operator=(const OnCpu&) = delete;

 private:
  cpu_set_t before_;
};

TEST_CASE("one thread gets every frame of the budget through the cache", "[mem]") {
  for (const int64_t budget : {1, 2, 31, 33, 1000}) {
    Rig rig(budget);
    int64_t taken = 0;
    while (rig.Take()) {
      ++taken;
      CHECK(taken + rig.cache->cached() + rig.pool.level() == budget);
    }
    CHECK(taken == budget);
    CHECK(rig.cache->cached() == 0);
  }
}

TEST_CASE("a refill is reported once for a batch of frames", "[mem]") {
  const OnCpu on(Cpus()[0]);
  Rig rig(100'000);
  int refills = 0;
  for (int i = 0; i < 640; ++i) {
    bool refilled = false;
    REQUIRE(rig.cache->TryTake(&refilled));
    refills += refilled;
  }
  CHECK(refills == 640 / 32);
}

TEST_CASE("frames in another core's magazine are found when the pool is empty", "[mem]") {
  const std::vector<uint32_t> cpus = Cpus();
  if (cpus.size() < 2) {
    WARN("skipped: needs two CPUs");
    return;
  }
  Rig rig(64);
  {
    const OnCpu there(cpus[0]);
    REQUIRE(rig.Take());
  }
  REQUIRE(rig.cache->cached() > 0);
  const OnCpu here(cpus[1]);
  int64_t taken = 1;
  while (rig.Take()) ++taken;
  CHECK(taken == 64);
  CHECK(rig.pool.level() == 0);
  CHECK(rig.cache->cached() == 0);
}

TEST_CASE("unused frames stay on the core until there are many", "[mem]") {
  const OnCpu on(Cpus()[0]);
  Rig rig(1000);
  REQUIRE(rig.pool.TryTake(200) == 200);
  rig.cache->Give(10);
  CHECK(rig.cache->cached() == 10);
  CHECK(rig.pool.level() == 800);
  rig.cache->Give(100);
  CHECK(rig.cache->cached() == 0);
  CHECK(rig.pool.level() == 910);
}

TEST_CASE("unused frames go to who waits, or to the empty pool", "[mem]") {
  Rig rig(10);
  REQUIRE(rig.pool.TryTake(10) == 10);
  const uint64_t ticket = rig.pool.Enqueue();
  rig.cache->Give(1);
  CHECK(rig.pool.Granted(ticket));
  CHECK(rig.cache->cached() == 0);
  rig.cache->Give(1);
  CHECK(rig.pool.level() == 1);
  rig.pool.Resize(4_pages);
  REQUIRE(rig.pool.level() < 0);
  rig.cache->Give(8);  // Pays the debt.
  CHECK(rig.cache->cached() == 0);
  CHECK(rig.pool.level() == 3);
}

TEST_CASE("taking more leaves the pool what was asked for", "[mem]") {
  Rig rig(100);
  CHECK(rig.cache->TryTakeMore(10, 95) == 5);
  CHECK(rig.pool.level() == 95);
  CHECK(rig.cache->TryTakeMore(10, 95) == 0);
  CHECK(rig.cache->TryTakeMore(10, 200) == 0);
  CHECK(rig.cache->TryTakeMore(10, 0) == 10);
  CHECK(rig.pool.level() == 85);
}

TEST_CASE("a flush empties every magazine into the pool", "[mem]") {
  Rig rig(1000);
  int64_t taken = 0;
  for (const uint32_t cpu : Cpus()) {
    const OnCpu on(cpu);
    taken += rig.Take();
  }
  REQUIRE(rig.cache->cached() > 0);
  rig.cache->Flush();
  CHECK(rig.cache->cached() == 0);
  CHECK(rig.pool.level() == 1000 - taken);
}

TEST_CASE("frames are neither lost nor doubled while threads take, give and flush", "[mem]") {
  constexpr uint32_t kThreads = 4;
  const int64_t budget = GENERATE(8, 70, 500);
  const uint64_t seed = TestSeed();
  INFO("seed " << seed << " budget " << budget);
  Rig rig(budget);
  std::atomic<int64_t> held{0};
  std::atomic<uint32_t> too_many{0};
  std::atomic<uint64_t> taken{0};
  RunTogether(kThreads, [&](uint32_t thread) {
    std::mt19937_64 random(seed + thread);
    int64_t mine = 0;
    const auto took = [&](int64_t n) {
      mine += n;
      taken += static_cast<uint64_t>(n);
      if (held.fetch_add(n) + n > budget) ++too_many;
    };
    for (uint32_t i = 0; i < Rounds(50'000); ++i) {
      switch (random() % 8) {
        case 0:
        case 1:
        case 2:
          took(rig.Take() ? 1 : 0);
          break;
        case 3:
          took(rig.cache->TryTakeMore(static_cast<int64_t>(1 + random() % 20), 4));
          break;
        case 4:
          if (random() % 16 == 0) rig.cache->Flush();
          break;
        default: {
          const auto n = std::min<int64_t>(mine, static_cast<int64_t>(random() % 8));
          if (n == 0) break;
          held.fetch_sub(n);
          mine -= n;
          if (random() % 2 == 0) {
            rig.cache->Give(n);
          } else {
            rig.pool.Give(n);
          }
        }
      }
    }
    held.fetch_sub(mine);
    rig.pool.Give(mine);
  });
  CHECK(too_many == 0);
  CHECK(taken > 0);
  CHECK(rig.cache->cached() + rig.pool.level() == budget);
  rig.cache->Flush();
  CHECK(rig.pool.TryTake(1'000'000) == budget);
}

}  // namespace
}  // namespace spiritos
