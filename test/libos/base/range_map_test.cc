// SPDX-License-Identifier: Apache-2.0
// RangeMap: random edits against a map of pages, and readers while writers edit.
#include "libos/base/range_map.h"

#include <array>
#include <catch2/catch.hpp>
#include <map>
#include <memory>
#include <random>

#include "test/support/together.h"

namespace spiritos {
namespace {

// Addresses that nobody touches.
std::byte* At(uint64_t page) { return Vpn(0x7000'0000 + page).address(); }
AddressRange Pages(uint64_t first, uint64_t count) {
  return {At(first), BytesOf(PageCount(static_cast<int64_t>(count)))};
}

template <typename T>
T* Find(const RangeMap<T>& map, const void* address) {
  const Epoch::Guard guard(map.epoch());
  return map.Find(address, guard);
}

TEST_CASE("an empty map finds nothing", "[base]") {
  RangeMap<int> map(LockRank::kRegionTable);
  CHECK(map.empty());
  CHECK(Find(map, At(0)) == nullptr);
  map.Erase(Pages(0, 10));
  CHECK(map.empty());
}

TEST_CASE("a range is found from its first byte to its last and not beyond", "[base]") {
  RangeMap<int> map(LockRank::kRegionTable);
  int low = 0;
  int high = 0;
  map.Insert(Pages(20, 5), &high);
  map.Insert(Pages(10, 10), &low);
  CHECK_FALSE(map.empty());
  CHECK(Find(map, At(10) - 1) == nullptr);
  CHECK(Find(map, At(10)) == &low);
  CHECK(Find(map, At(20) - 1) == &low);
  CHECK(Find(map, At(20)) == &high);
  CHECK(Find(map, At(25) - 1) == &high);
  CHECK(Find(map, At(25)) == nullptr);
}

TEST_CASE("erasing the middle of a range leaves both ends", "[base]") {
  RangeMap<int> map(LockRank::kRegionTable);
  int owner = 0;
  map.Insert(Pages(0, 30), &owner);
  map.Erase(Pages(10, 10));
  CHECK(Find(map, At(10) - 1) == &owner);
  CHECK(Find(map, At(10)) == nullptr);
  CHECK(Find(map, At(20) - 1) == nullptr);
  CHECK(Find(map, At(20)) == &owner);
  map.Erase(Pages(0, 30));
  CHECK(map.empty());
}

TEST_CASE("random edits agree with a map of single pages", "[base]") {
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  constexpr uint64_t kPages = 200;
  RangeMap<int> map(LockRank::kRegionTable);
  std::map<uint64_t, int*> model;
  std::array<int, 16> owners{};
  uint32_t wrong = 0;
  for (uint32_t step = 0; step < Rounds(4'000); ++step) {
    const uint64_t first = random() % kPages;
    const uint64_t count = 1 + random() % 30;
    const auto in_range = model.lower_bound(first);
    const bool overlaps = in_range != model.end() && in_range->first < first + count;
    if (random() % 2 == 0 && !overlaps) {
      int* const owner = &owners[random() % owners.size()];
      map.Insert(Pages(first, count), owner);
      for (uint64_t page = first; page < first + count; ++page) model[page] = owner;
    } else {
      map.Erase(Pages(first, count));
      model.erase(model.lower_bound(first), model.lower_bound(first + count));
    }
    for (uint64_t page = 0; page < kPages + 30; ++page) {
      const auto it = model.find(page);
      int* const expected = it == model.end() ? nullptr : it->second;
      wrong += Find(map, At(page)) != expected;
      wrong += Find(map, At(page + 1) - 1) != expected;
    }
    wrong += map.empty() != model.empty();
    if (wrong != 0) break;
  }
  CHECK(wrong == 0);
}

TEST_CASE("readers find what stays, and nothing dead, while ranges come and go", "[base]") {
  struct Owner {
    std::atomic<bool> alive{false};
    uint64_t first = 0;
  };
  constexpr uint32_t kWriters = 2;
  constexpr uint32_t kReaders = 2;
  constexpr uint32_t kOwners = 8;
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  RangeMap<Owner> map(LockRank::kRegionTable);
  // Each writer's ranges lie between two that never move.
  std::array<Owner, 3> fixed{};
  for (uint64_t i = 0; i < fixed.size(); ++i) {
    fixed[i].alive = true;
    map.Insert(Pages(i * 1000, 10), &fixed[i]);
  }
  std::array<std::array<Owner, kOwners>, kWriters> owners{};
  std::atomic<uint32_t> writing{kWriters};
  std::atomic<uint64_t> wrong{0};
  std::atomic<uint64_t> found{0};
  RunTogether(kWriters + kReaders, [&](uint32_t thread) {
    std::mt19937_64 random(seed + thread);
    if (thread < kWriters) {
      for (uint32_t round = 0; round < Rounds(10'000); ++round) {
        const uint32_t slot = random() % kOwners;
        Owner& owner = owners[thread][slot];
        owner.first = thread * 1000 + 100 + slot * 100;
        owner.alive = true;
        map.Insert(Pages(owner.first, 100), &owner);
        const uint64_t hole = random() % 100;
        map.Erase(Pages(owner.first + hole, 1));
        map.Erase(Pages(owner.first, 100));
        owner.alive = false;  // Nobody can still hold it.
      }
      --writing;
      return;
    }
    while (writing != 0) {
      const uint64_t still = random() % fixed.size();
      if (Find(map, At(still * 1000 + random() % 10)) != &fixed[still]) ++wrong;
      const uint64_t page = random() % 2000;
      const Epoch::Guard guard(map.epoch());
      Owner* const owner = map.Find(At(page), guard);
      if (owner == nullptr) continue;
      ++found;
      for (int i = 0; i < 8; ++i) {
        if (!owner->alive) ++wrong;
      }
      const bool is_fixed = owner >= fixed.data() && owner < fixed.data() + fixed.size();
      if (!is_fixed && (page < owner->first || page >= owner->first + 100)) ++wrong;
    }
  });
  CHECK(wrong == 0);
  CHECK(found > 0);
}

}  // namespace
}  // namespace spiritos
