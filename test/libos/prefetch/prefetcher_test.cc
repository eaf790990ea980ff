// SPDX-License-Identifier: Apache-2.0
// Which pages come next: the vote against a count by hand, streams from their start
// to their end, and what random faults cost in pages brought for nothing.
#include "libos/prefetch/prefetcher.h"

#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <vector>

namespace spiritos {
namespace {

constexpr uint32_t kMaxWindow = 64;

// The distance that more than half of the newest 8, else of the newest 16, share.
int64_t CountTrend(const std::vector<uint64_t>& faults) {
  const auto at = [&](size_t i) { return i < faults.size() ? faults[faults.size() - 1 - i] : 0; };
  for (const size_t window : {size_t{8}, size_t{16}}) {
    std::map<int64_t, size_t> counts;
    for (size_t i = 0; i < window; ++i) ++counts[static_cast<int64_t>(at(i) - at(i + 1))];
    for (const auto& [delta, count] : counts) {
      if (count > window / 2) return delta;
    }
  }
  return 0;
}

TEST_CASE("the trend is the majority's distance, as a count by hand finds it", "[prefetch]") {
  std::mt19937_64 random(7);
  uint64_t trends = 0;
  for (int round = 0; round < 2000; ++round) {
    FaultHistory history;
    std::vector<uint64_t> faults;
    uint64_t page = 1'000'000;
    const uint64_t noise = random() % 10;  // Of ten faults, how many go anywhere.
    const auto stride = static_cast<int64_t>(random() % 9) - 4;
    for (int i = 0; i < 40; ++i) {
      page += static_cast<uint64_t>(random() % 10 < noise ? static_cast<int64_t>(random() % 1000)
                                                          : stride);
      history.Add(Vpn(page));
      faults.push_back(page);
      const int64_t expected = CountTrend(faults);
      INFO("round " << round << " fault " << i);
      REQUIRE(FindTrend(history) == expected);
      trends += expected != 0;
    }
  }
  CHECK(trends > 10'000);
}

// Faults of a program that touches pages in order, when each plan is brought whole.
struct Walk {
  uint64_t faults = 0;
  uint64_t brought = 0;
  uint32_t widest = 0;
};
Walk WalkPages(Prefetcher& prefetcher, uint64_t from, int64_t stride, uint64_t pages) {
  Walk walk;
  std::map<uint64_t, bool> here;
  for (uint64_t i = 0; i < pages; ++i) {
    const uint64_t page = from + static_cast<uint64_t>(stride * static_cast<int64_t>(i));
    if (here[page]) continue;
    ++walk.faults;
    const PrefetchPlan plan = prefetcher.OnFault(Vpn(page), kMaxWindow, true);
    REQUIRE(plan.first == Vpn(page));
    REQUIRE(plan.count <= kMaxWindow);
    for (uint32_t k = 0; k < std::max(1u, plan.count); ++k) {
      here[page + static_cast<uint64_t>(plan.stride * int64_t{k})] = true;
      ++walk.brought;
    }
    prefetcher.Brought(plan, std::max(1u, plan.count));
    walk.widest = std::max(walk.widest, plan.count);
  }
  return walk;
}

TEST_CASE("a walk in order faults once a window, in either direction and by strides",
          "[prefetch]") {
  const int64_t stride = GENERATE(1, -1, 7, -16);
  Prefetcher prefetcher;
  const Walk walk = WalkPages(prefetcher, 1'000'000, stride, 4096);
  CHECK(walk.widest == kMaxWindow);
  CHECK(walk.faults < 4096 / kMaxWindow + 16);
  CHECK(walk.brought < 4096 + 2 * kMaxWindow);
}

TEST_CASE("two walks at the same time are two streams", "[prefetch]") {
  Prefetcher prefetcher;
  uint64_t faults = 0;
  std::map<uint64_t, bool> here;
  for (uint64_t i = 0; i < 2048; ++i) {
    for (const uint64_t base : {uint64_t{1} << 20, uint64_t{1} << 30}) {
      if (here[base + i]) continue;
      ++faults;
      const PrefetchPlan plan = prefetcher.OnFault(Vpn(base + i), kMaxWindow, true);
      for (uint32_t k = 0; k < std::max(1u, plan.count); ++k) {
        here[base + i + static_cast<uint64_t>(plan.stride * int64_t{k})] = true;
      }
      prefetcher.Brought(plan, std::max(1u, plan.count));
    }
  }
  CHECK(faults < 2 * (2048 / kMaxWindow + 16));
}

TEST_CASE("random faults bring next to nothing along", "[prefetch]") {
  Prefetcher prefetcher;
  std::mt19937_64 random(3);
  uint64_t extra = 0;
  constexpr uint64_t kFaults = 20'000;
  for (uint64_t i = 0; i < kFaults; ++i) {
    const PrefetchPlan plan = prefetcher.OnFault(Vpn(random() % 131'072), kMaxWindow, true);
    extra += std::max(1u, plan.count) - 1;
    prefetcher.Brought(plan, std::max(1u, plan.count));
  }
  CHECK(extra < kFaults / 100);
}

TEST_CASE("streams that waste make new ones careful, and hits make them bold again", "[prefetch]") {
  PrefetchGovernor governor;
  CHECK(governor.FirstWindow(kMaxWindow) == 4);
  for (int i = 0; i < 8; ++i) governor.Waste();
  CHECK(governor.FirstWindow(kMaxWindow) == 2);
  for (int i = 0; i < 40; ++i) governor.Waste();
  int tries = 0;
  for (int i = 0; i < 160; ++i) tries += governor.FirstWindow(kMaxWindow) > 1;
  CHECK(tries == 10);
  for (int i = 0; i < 16; ++i) governor.Hit();
  CHECK(governor.FirstWindow(kMaxWindow) == 4);
  CHECK(governor.FirstWindow(3) == 3);
  CHECK(PrefetchGovernor::NextWindow(16, kMaxWindow) == 32);
  CHECK(PrefetchGovernor::NextWindow(48, kMaxWindow) == kMaxWindow);
}

}  // namespace
}  // namespace spiritos
