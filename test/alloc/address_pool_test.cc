// SPDX-License-Identifier: Apache-2.0
// Extents against a model: first fit, joining, alignment, the ends of the range.
#include "alloc/address_pool.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <vector>

namespace spiritos {
namespace {

// Never touched: the pool only counts with addresses.
std::byte* const kBase = reinterpret_cast<std::byte*>(uintptr_t{0x7000'0000'0000});

struct Pool {
  explicit Pool(Bytes size) : pool(AddressRange{kBase, size}, *AddressPool::MapBooks(size)) {}
  AddressPool pool;
  AddressPool* operator->() { return &pool; }
};

}  // namespace

TEST_CASE("extents come from the lowest addresses that fit", "[alloc]") {
  Pool pool(64_MiB);
  std::byte* const a = pool->Take(16_KiB, kPageSize);
  std::byte* const b = pool->Take(8_MiB, kPageSize);
  std::byte* const c = pool->Take(4_KiB, kPageSize);
  CHECK(a == kBase);
  CHECK(b == a + (16 << 10));
  CHECK(c == b + (8 << 20));
  CHECK(pool->taken() == Bytes((8 << 20) + (20 << 10)));

  pool->Give({a, 16_KiB});
  CHECK(pool->Take(20_KiB, kPageSize) == c + 4096);
  CHECK(pool->Take(12_KiB, kPageSize) == a);
  CHECK(pool->Take(4_KiB, kPageSize) == a + (12 << 10));
}

TEST_CASE("neighbours that are given back form one extent again", "[alloc]") {
  Pool pool(16_MiB);
  std::vector<std::byte*> pages;
  for (int i = 0; i < 4096; ++i) pages.push_back(pool->Take(4_KiB, kPageSize));
  CHECK(pool->Take(4_KiB, kPageSize) == nullptr);
  CHECK(pages.back() == kBase + (16 << 20) - 4096);
  std::shuffle(pages.begin(), pages.end(), std::minstd_rand(7));
  for (std::byte* page : pages) pool->Give({page, 4_KiB});
  CHECK(pool->taken() == Bytes(0));
  CHECK(pool->Take(16_MiB, kPageSize) == kBase);
}

TEST_CASE("long runs that a page joins are found as one", "[alloc]") {
  Pool pool(Bytes(24 * kZoneSize));
  const Bytes ten_zones(10 * kZoneSize);
  std::byte* const a = pool->Take(ten_zones, kPageSize);
  std::byte* const page = pool->Take(4_KiB, kPageSize);
  std::byte* const b = pool->Take(ten_zones, kPageSize);
  REQUIRE(b != nullptr);
  REQUIRE(pool->Take(4_KiB, kPageSize) != nullptr);
  // Failures teach the pool that there are no such runs.
  const Bytes sixteen_zones(16 * kZoneSize);
  for (std::byte* freed : {a, b}) {
    CHECK(pool->Take(sixteen_zones, kPageSize) == nullptr);
    pool->Give({freed, ten_zones});
  }
  CHECK(pool->Take(sixteen_zones, kPageSize) == nullptr);
  pool->Give({page, 4_KiB});
  CHECK(pool->Take(sixteen_zones, kPageSize) == a);
}

TEST_CASE("a page at either end of a long run makes it longer", "[alloc]") {
  Pool pool(Bytes(24 * kZoneSize));
  const Bytes sixteen_zones(16 * kZoneSize);
  std::byte* const end = kBase + sixteen_zones.raw();
  struct {
    std::byte* taken;  // Ends the run.
    AddressRange missing;
  } const cases[] = {{end + kPageSize, {end - kPageSize, 8_KiB}}, {end, {kBase, 4_KiB}}};
  for (const auto& [taken, missing] : cases) {
    REQUIRE(pool->TakeAt({taken, 4_MiB}));
    REQUIRE(pool->TakeAt(missing));
    CHECK(pool->Take(sixteen_zones, kPageSize) == nullptr);
    pool->Give(missing);
    CHECK(pool->Take(sixteen_zones, kPageSize) == kBase);
    pool->Give({kBase, sixteen_zones});
    pool->Give({taken, 4_MiB});
  }
}

TEST_CASE("alignment holds for extents inside, across and above zones", "[alloc]") {
  Pool pool(Bytes(uint64_t{1} << 30));
  REQUIRE(pool->Take(4_KiB, kPageSize) == kBase);
  for (const size_t alignment :
       {size_t{8} << 10, size_t{64} << 10, size_t{2} << 20, size_t{8} << 20, size_t{256} << 20}) {
    std::byte* const p = pool->Take(4_KiB, alignment);
    REQUIRE(p != nullptr);
    CHECK(reinterpret_cast<uintptr_t>(p) % alignment == 0);
    std::byte* const q = pool->Take(12_MiB, alignment);
    REQUIRE(q != nullptr);
    CHECK(reinterpret_cast<uintptr_t>(q) % alignment == 0);
  }
  CHECK(pool->Take(4_KiB, size_t{1} << 46) == nullptr);
}

TEST_CASE("a range that ends inside a zone is used to its end and not beyond", "[alloc]") {
  Pool pool(Bytes((4 << 20) + (12 << 10)));
  CHECK(pool->Take(Bytes((4 << 20) + (16 << 10)), kPageSize) == nullptr);
  CHECK(pool->Take(4_MiB, kPageSize) == kBase);
  CHECK(pool->Take(16_KiB, kPageSize) == nullptr);
  CHECK(pool->Take(12_KiB, kPageSize) == kBase + (4 << 20));
  CHECK(pool->Take(4_KiB, kPageSize) == nullptr);
}

TEST_CASE("the pool agrees with a list of pages over random operations", "[alloc]") {
  const uint32_t seed = std::random_device{}();
  CAPTURE(seed);
  std::minstd_rand random(seed);
  const uint64_t kPages = GENERATE(5, 40) * kZonePages + 77;
  Pool pool{BytesOf(PageCount(kPages))};
  std::vector<bool> model(kPages);  // True: taken.
  std::map<uint64_t, uint64_t> extents;

  const auto lowest = [&](uint64_t count, uint64_t alignment) -> uint64_t {
    for (uint64_t page = 0; page + count <= kPages;) {
      uint64_t n = 0;
      while (n < count && !model[page + n]) ++n;
      if (n == count) return page;
      page = (page + n + alignment) / alignment * alignment;
    }
    return kPages;
  };
  for (int step = 0; step < 3000; ++step) {
    if (random() % 5 < 3) {
      const uint64_t count = 1 + random() % (random() % 8 == 0 ? kPages / 3 : 40);
      const uint64_t alignment = uint64_t{1} << (random() % 10 == 0 ? random() % 11 : 0);
      const uint64_t expected = lowest(count, alignment);
      std::byte* const p = pool->Take(BytesOf(PageCount(int64_t(count))), alignment * kPageSize);
      if (expected == kPages) {
        REQUIRE(p == nullptr);
        continue;
      }
      REQUIRE(p == kBase + expected * kPageSize);
      std::fill_n(model.begin() + int64_t(expected), count, true);
      extents[expected] = count;
    } else if (!extents.empty()) {
      auto it = std::next(extents.begin(), random() % extents.size());
      // Sometimes only a part goes back, as after a split.
      uint64_t first = it->first;
      uint64_t count = it->second;
      extents.erase(it);
      if (count > 1 && random() % 3 == 0) {
        const uint64_t kept = 1 + random() % (count - 1);
        extents[first] = kept;
        first += kept;
        count -= kept;
      }
      pool->Give({kBase + first * kPageSize, BytesOf(PageCount(int64_t(count)))});
      std::fill_n(model.begin() + int64_t(first), count, false);
    }
    if (step % 64 != 0) continue;
    REQUIRE(pool->taken() == BytesOf(PageCount(std::count(model.begin(), model.end(), true))));
  }
}

}  // namespace spiritos
