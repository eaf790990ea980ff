// SPDX-License-Identifier: Apache-2.0
// Runs taken from the ring never overlap, and what is given back can be taken again.
#include "libos/remote/staging_ring.h"

#include <catch2/catch.hpp>
#include <deque>
#include <random>
#include <utility>
#include <vector>

#include "test/support/together.h"

namespace spiritos {
namespace {

TEST_CASE("a run does not wrap around: what is left at the end waits", "[remote]") {
  StagingRing ring(10);
  CHECK(ring.Take(4) == 0u);
  CHECK(ring.Take(4) == 4u);
  CHECK(ring.Take(3) == std::nullopt);  // Two are left.
  ring.Give(0, 4);
  CHECK(ring.Take(3) == 0u);
  CHECK(ring.used() == 9);  // The two at the end are lost until that run is given back.
  CHECK(ring.Take(2) == std::nullopt);
  CHECK(ring.Take(1) == 3u);
  CHECK(ring.Take(1) == std::nullopt);
  ring.Give(4, 4);
  CHECK(ring.used() == 6);
  ring.Give(0, 3);
  ring.Give(3, 1);
  CHECK(ring.used() == 0);
  CHECK(ring.Take(10) == 0u);
  CHECK(ring.Take(1) == std::nullopt);
}

TEST_CASE("a ring agrees with a model that marks each page", "[remote]") {
  const uint64_t seed = TestSeed();
  INFO("SPIRITOS_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  constexpr uint32_t kPages = 37;
  StagingRing ring(kPages);
  std::deque<std::pair<uint32_t, uint32_t>> taken;  // First page, pages.
  std::vector<bool> marked(kPages);
  uint32_t wrong = 0;
  for (int round = 0; round < 20000; ++round) {
    const auto pages = static_cast<uint32_t>(1 + random() % 12);
    if (random() % 2 == 0) {
      const auto first = ring.Take(pages);
      wrong += taken.empty() && !first;  // An idle ring takes all that fits into it.
      if (!first) continue;
      wrong += *first + pages > kPages;
      for (uint32_t page = *first; page < *first + pages; ++page) {
        wrong += marked.at(page);
        marked[page] = true;
      }
      taken.emplace_back(*first, pages);
    } else if (!taken.empty()) {
      const auto [first, count] = taken.front();
      taken.pop_front();
      for (uint32_t page = first; page < first + count; ++page) marked[page] = false;
      ring.Give(first, count);
      wrong += taken.empty() && ring.used() != 0;
    }
  }
  CHECK(wrong == 0);
}

}  // namespace
}  // namespace spiritos
