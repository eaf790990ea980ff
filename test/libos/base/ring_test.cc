// SPDX-License-Identifier: Apache-2.0
// Ring: first in first out, full and empty at the right moment, nothing lost or
// doubled among many producers and consumers.
#include "libos/base/ring.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <deque>
#include <memory>
#include <random>

#include "test/support/together.h"

namespace spiritos {
namespace {

TEST_CASE("a ring agrees with a bounded queue over many turns", "[base]") {
  const uint64_t seed = TestSeed();
  const size_t capacity = GENERATE(size_t{2}, size_t{4}, size_t{64});
  INFO("seed " << seed << " capacity " << capacity);
  std::mt19937_64 random(seed);
  PinnedArena arena;
  Ring<uint64_t> ring;
  REQUIRE(ring.Init(arena, capacity));
  std::deque<uint64_t> model;
  uint32_t wrong = 0;
  uint32_t refusals = 0;
  for (uint64_t i = 0; i < Rounds(100'000); ++i) {
    // Long runs of either kind, so that both ends are met.
    if ((random() >> (i / 64 % 2)) % 3 == 0) {
      uint64_t value = 0;
      const bool popped = ring.TryPop(value);
      wrong += popped == model.empty();
      refusals += !popped;
      if (!popped || model.empty()) continue;
      wrong += value != model.front();
      model.pop_front();
    } else {
      const bool pushed = ring.TryPush(i);
      wrong += pushed == (model.size() == capacity);
      refusals += !pushed;
      if (pushed) model.push_back(i);
    }
  }
  CHECK(wrong == 0);
  CHECK(refusals > 0);
}

TEST_CASE("producers and consumers exchange every value once and in order", "[base]") {
  constexpr uint32_t kProducers = 3;
  constexpr uint32_t kConsumers = 3;
  const uint32_t each = Rounds(60'000);
  const size_t capacity = GENERATE(size_t{2}, size_t{32});
  CAPTURE(capacity);
  PinnedArena arena;
  const auto ring = std::make_unique<Ring<uint64_t>>();
  REQUIRE(ring->Init(arena, capacity));
  std::atomic<uint32_t> popped{0};
  std::array<std::vector<uint64_t>, kConsumers> got;
  RunTogether(kProducers + kConsumers, [&](uint32_t thread) {
    if (thread < kProducers) {
      for (uint32_t i = 0; i < each; ++i) {
        YieldUntil([&] { return ring->TryPush((uint64_t{thread} << 32) | i); });
      }
      return;
    }
    uint64_t value = 0;
    while (popped.load() < kProducers * each) {
      if (!ring->TryPop(value)) {
        sched_yield();
        continue;
      }
      ++popped;
      got[thread - kProducers].push_back(value);
    }
  });
  std::vector<uint64_t> all;
  uint32_t out_of_order = 0;
  for (const auto& values : got) {
    std::array<int64_t, kProducers> last;
    last.fill(-1);
    for (const uint64_t value : values) {
      const auto i = static_cast<int64_t>(value & 0xffffffff);
      out_of_order += i <= last[value >> 32];
      last[value >> 32] = i;
    }
    all.insert(all.end(), values.begin(), values.end());
  }
  CHECK(out_of_order == 0);
  std::sort(all.begin(), all.end());
  std::vector<uint64_t> expected;
  for (uint64_t p = 0; p < kProducers; ++p) {
    for (uint64_t i = 0; i < each; ++i) expected.push_back((p << 32) | i);
  }
  CHECK((all == expected));
}

TEST_CASE("a ring without memory refuses to be made", "[base]") {
  PinnedArena arena;
  Ring<uint64_t> ring;
  CHECK_FALSE(ring.Init(arena, size_t{1} << 55));
}

}  // namespace
}  // namespace spiritos
