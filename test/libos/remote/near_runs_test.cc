// SPDX-License-Identifier: Apache-2.0
// Runs of near pages never overlap, and no free page is refused.
#include "libos/remote/near_runs.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <random>
#include <vector>

#include "libos/base/units.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

constexpr uint32_t kPages = NearRuns::kWords * NearRuns::kLongest;
uint32_t PagesOf(std::span<std::byte> run) { return static_cast<uint32_t>(run.size() / kPageSize); }

TEST_CASE("a run is as long as was asked for, or half of it, and so on down to a page",
          "[remote]") {
  PinnedArena arena;
  NearRuns runs;
  REQUIRE(runs.Init(arena));
  CHECK(PagesOf(runs.Take(1000)) == NearRuns::kLongest);
  for (uint32_t w = 1; w < NearRuns::kWords; ++w) CHECK(PagesOf(runs.Take(40)) == 40);
  CHECK(PagesOf(runs.Take(48)) == 24);
  const auto last = runs.Take(24);
  CHECK(PagesOf(last) == 24);
  while (!runs.Take(64).empty()) {
  }
  CHECK(runs.Take(1).empty());
  runs.Give(last);
  CHECK(runs.Take(24).data() == last.data());
}

TEST_CASE("threads that take runs have their pages for themselves", "[remote]") {
  const uint64_t seed = TestSeed();
  INFO("SPIRITOS_TEST_SEED=" << seed);
  PinnedArena arena;
  NearRuns runs;
  REQUIRE(runs.Init(arena));
  const std::byte* const base = runs.Take(1).data();
  std::array<std::atomic<bool>, kPages> taken{};
  taken[0] = true;
  std::atomic<uint32_t> wrong{0};
  RunTogether(4, [&](uint32_t thread) {
    std::mt19937_64 random(seed + thread);
    std::vector<std::span<std::byte>> mine;
    const auto mark = [&](std::span<std::byte> run, bool as) {
      const auto first = static_cast<uint64_t>(run.data() - base) / kPageSize;
      for (uint64_t page = first; page < first + PagesOf(run); ++page) {
        if (taken[page].exchange(as) == as) ++wrong;
      }
    };
    const auto give_one = [&] {
      std::swap(mine[random() % mine.size()], mine.back());
      mark(mine.back(), false);
      runs.Give(mine.back());
      mine.pop_back();
    };
    for (uint32_t round = 0; round < Rounds(20'000); ++round) {
      if (random() % 2 == 0) {
        const auto run = runs.Take(static_cast<uint32_t>(1 + random() % 80));
        if (run.empty()) continue;
        mark(run, true);
        mine.push_back(run);
      } else if (!mine.empty()) {
        give_one();
      }
    }
    while (!mine.empty()) give_one();
  });
  CHECK(wrong == 0);
  uint32_t free = 0;
  for (auto run = runs.Take(64); !run.empty(); run = runs.Take(64)) free += PagesOf(run);
  CHECK(free == kPages - 1);
}

}  // namespace
}  // namespace spiritos
