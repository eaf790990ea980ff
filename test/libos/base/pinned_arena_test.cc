// SPDX-License-Identifier: Apache-2.0
// PinnedArena: aligned, zeroed, disjoint, also when many threads allocate.
#include "libos/base/pinned_arena.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>
#include <random>
#include <vector>

#include "test/support/together.h"

namespace spiritos {
namespace {

struct Block {
  std::byte* begin;
  size_t size;
};

bool AllZero(const std::byte* begin, size_t size) {
  return std::all_of(begin, begin + size, [](std::byte b) { return b == std::byte{0}; });
}

TEST_CASE("blocks are aligned and zeroed at every alignment and size", "[base]") {
  PinnedArena arena;
  uint64_t sum = 0;
  for (size_t alignment = 1; alignment <= 4 * kPageSize; alignment *= 2) {
    for (const size_t size : {size_t{1}, size_t{7}, size_t{64}, size_t{4097}, size_t{100'000}}) {
      auto* const block = static_cast<std::byte*>(arena.Allocate(size, alignment));
      CAPTURE(alignment, size);
      REQUIRE(block != nullptr);
      CHECK(reinterpret_cast<uintptr_t>(block) % alignment == 0);
      CHECK(AllZero(block, size));
      std::memset(block, 0xff, size);
      sum += size;
    }
  }
  CHECK(arena.used() == Bytes(sum));
}

TEST_CASE("a block may be larger than a chunk, and small ones follow it", "[base]") {
  PinnedArena arena;
  auto* const large = static_cast<std::byte*>(arena.Allocate(5 << 20, 64));
  REQUIRE(large != nullptr);
  large[(5 << 20) - 1] = std::byte{1};
  auto* const small = static_cast<std::byte*>(arena.Allocate(64, 64));
  REQUIRE(small != nullptr);
  CHECK((small >= large + (5 << 20) || small + 64 <= large));
}

TEST_CASE("blocks of concurrent allocations do not overlap", "[base]") {
  constexpr uint32_t kThreads = 4;
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  PinnedArena arena;
  std::array<std::vector<Block>, kThreads> blocks;
  std::atomic<uint32_t> dirty{0};
  RunTogether(kThreads, [&](uint32_t thread) {
    std::mt19937_64 random(seed + thread);
    for (uint32_t i = 0; i < Rounds(3'000); ++i) {
      const size_t size = 1 + random() % (i % 500 == 0 ? 2'000'000 : 3'000);
      auto* const begin =
          static_cast<std::byte*>(arena.Allocate(size, size_t{1} << (random() % 10)));
      if (begin == nullptr || !AllZero(begin, size)) {
        ++dirty;
        continue;
      }
      std::memset(begin, static_cast<int>(thread + 1), size);
      blocks[thread].push_back({begin, size});
    }
  });
  CHECK(dirty == 0);
  uint32_t overwritten = 0;
  std::vector<Block> all;
  for (uint32_t thread = 0; thread < kThreads; ++thread) {
    for (const Block& block : blocks[thread]) {
      overwritten += block.begin[0] != std::byte(thread + 1) ||
                     block.begin[block.size - 1] != std::byte(thread + 1);
      all.push_back(block);
    }
  }
  CHECK(overwritten == 0);
  std::sort(all.begin(), all.end(), [](Block a, Block b) { return a.begin < b.begin; });
  uint32_t overlaps = 0;
  for (size_t i = 1; i < all.size(); ++i) {
    overlaps += all[i - 1].begin + all[i - 1].size > all[i].begin;
  }
  CHECK(overlaps == 0);
}

TEST_CASE("a refusal is null, leaves errno alone and the arena usable", "[base]") {
  PinnedArena arena;
  errno = 77;
  CHECK(arena.Allocate(size_t{1} << 62, 64) == nullptr);
  CHECK(errno == 77);
  CHECK(arena.used() == Bytes(0));
  CHECK(arena.Allocate(64, 64) != nullptr);
  CHECK(errno == 77);
}

TEST_CASE("objects are constructed where their type wants to lie", "[base]") {
  struct alignas(128) Wide {
    explicit Wide(int v) : value(v) {}
    int value;
  };
  PinnedArena arena;
  arena.Allocate(1, 1);
  const Wide* const wide = arena.New<Wide>(42);
  REQUIRE(wide != nullptr);
  CHECK(reinterpret_cast<uintptr_t>(wide) % 128 == 0);
  CHECK(wide->value == 42);
  auto* const words = arena.NewArray<std::atomic<uint64_t>>(1000);
  REQUIRE(words != nullptr);
  uint64_t sum = 0;
  for (size_t i = 0; i < 1000; ++i) sum += words[i];
  CHECK(sum == 0);
}

}  // namespace
}  // namespace spiritos
