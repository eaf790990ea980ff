// SPDX-License-Identifier: Apache-2.0
// Region: which slot a page has, which zones there are, who makes them.
#include "libos/mem/region.h"

#include <signal.h>

#include <array>
#include <catch2/catch.hpp>
#include <set>
#include <vector>

#include "libos/mem/zone_lists.h"
#include "test/support/child.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

// Address space that nobody touches: a region's books do not lie in it.
AddressRange Range(Bytes size) {
  return {reinterpret_cast<std::byte*>(uintptr_t{0x7000'0000'0000}), size};
}

std::vector<std::shared_ptr<Slab>> MakeSlabs(size_t count) {
  std::vector<std::shared_ptr<Slab>> slabs;
  for (size_t i = 0; i < count; ++i) slabs.push_back(std::make_shared<Slab>());
  return slabs;
}

struct Rig {
  PinnedArena arena;
  ZonePool pool{arena};
};

TEST_CASE("a slab has no place until one is recorded, and the first stands", "[mem]") {
  Slab slab;
  CHECK_FALSE(slab.placed(0));
  CHECK(slab.TryPlace(0, SlotId(0)));  // The pool's first slot is a place too.
  CHECK(slab.placed(0));
  CHECK(slab.first(0) == SlotId(0));
  CHECK_FALSE(slab.TryPlace(0, SlotId(16384)));
  CHECK(slab.first(0) == SlotId(0));
}

TEST_CASE("a slab has a place for each generation", "[mem]") {
  Slab slab;
  REQUIRE(slab.TryPlace(0, SlotId(7 * kSlabPages)));
  REQUIRE(slab.TryPlace(255, SlotId(kSlabPages)));
  CHECK_FALSE(slab.placed(1));
  CHECK(slab.first(0) == SlotId(7 * kSlabPages));
  CHECK(slab.first(255) == SlotId(kSlabPages));
  std::vector<SlotId> places;
  slab.ForEachPlace([&](uint8_t, SlotId first) { places.push_back(first); });
  CHECK(places == std::vector{SlotId(7 * kSlabPages), SlotId(kSlabPages)});
}

TEST_CASE("one of many threads places a slab", "[mem]") {
  for (uint32_t round = 0; round < Rounds(200); ++round) {
    Slab slab;
    std::array<bool, 4> placed{};
    RunTogether(4, [&](uint32_t thread) { placed[thread] = slab.TryPlace(3, SlotId(thread + 1)); });
    CHECK(std::count(placed.begin(), placed.end(), true) == 1);
    CHECK(placed[slab.first(3).raw() - 1]);
  }
}

TEST_CASE("pages have consecutive slots within a slab and jump at its end", "[mem]") {
  auto slabs = MakeSlabs(3);
  const uint64_t places[] = {5 * kSlabPages, 0, 9 * kSlabPages};
  for (size_t i = 0; i < slabs.size(); ++i) REQUIRE(slabs[i]->TryPlace(0, SlotId(places[i])));
  const Region region(Range(Bytes(2 * kSlabSize) + 8_MiB), slabs, 0, kZoneListCount);
  CHECK(region.pages() == PageCount(2 * kSlabPages + 2048));
  CHECK(region.mapped_pages == 2 * kSlabPages + 2048);
  uint32_t wrong = 0;
  for (int64_t page = 0; page < region.pages().raw(); ++page) {
    const Vpn vpn = region.first() + PageCount(page);
    const auto slab = static_cast<size_t>(page) / kSlabPages;
    const auto index = static_cast<uint32_t>(page) % kSlabPages;
    wrong += &region.SlabOf(vpn) != slabs[slab].get();
    wrong += region.IndexInSlab(vpn) != index;
    wrong += region.SlotOf(vpn, 0) != SlotId(places[slab] + index);
  }
  CHECK(wrong == 0);
}

TEST_CASE("a region that shares slabs at an offset finds the same slots", "[mem]") {
  auto slabs = MakeSlabs(3);
  for (size_t i = 0; i < slabs.size(); ++i) REQUIRE(slabs[i]->TryPlace(0, SlotId(i * 100'000)));
  const Region old_region(Range(Bytes(3 * kSlabSize)), slabs, 0, kZoneListCount);
  // The second half moved: from a page that begins neither a slab nor a zone.
  constexpr uint32_t kFrom = kSlabPages + 777;
  const AddressRange elsewhere{reinterpret_cast<std::byte*>(uintptr_t{0x6000'0000'0000}),
                               BytesOf(PageCount(2 * kSlabPages - 777))};
  const Region moved(elsewhere, {slabs.begin() + 1, slabs.end()}, kFrom - kSlabPages,
                     kZoneListCount);
  CHECK(moved.first_page() == 777);
  uint32_t wrong = 0;
  for (int64_t page = 0; page < moved.pages().raw(); ++page) {
    const Vpn old_vpn = old_region.first() + PageCount(kFrom + page);
    const Vpn new_vpn = moved.first() + PageCount(page);
    wrong += moved.SlotOf(new_vpn, 0) != old_region.SlotOf(old_vpn, 0);
    wrong += &moved.SlabOf(new_vpn) != &old_region.SlabOf(old_vpn);
  }
  CHECK(wrong == 0);
  CHECK(slabs[1].use_count() == 3);
}

TEST_CASE("a zone is made at its first touch and found by all its pages", "[mem]") {
  Rig rig;
  Region region(Range(16_MiB), MakeSlabs(1), 0, kZoneListCount);
  CHECK(region.zone_count() == 4);
  const Vpn touched = region.first() + 1500_pages;
  CHECK(region.FindZone(touched) == nullptr);
  Zone* const zone = region.FindOrMakeZone(touched, rig.pool);
  REQUIRE(zone != nullptr);
  CHECK(zone->region == &region);
  CHECK(zone->first == region.first() + 1024_pages);
  CHECK(zone->vpn(Zone::IndexOf(touched)) == touched);
  for (int64_t page = 0; page < region.pages().raw(); ++page) {
    Zone* const found = region.FindZone(region.first() + PageCount(page));
    if (found != (page / kZonePages == 1 ? zone : nullptr)) FAIL("page " << page);
  }
  CHECK(region.zone(1) == zone);
  CHECK(region.zone(0) == nullptr);
  CHECK(region.FindOrMakeZone(touched + 1_pages, rig.pool) == zone);
}

TEST_CASE("neighbouring zones belong to different lists", "[mem]") {
  Rig rig;
  Region region(Range(64_MiB), MakeSlabs(1), 0, kZoneListCount);
  std::array<uint32_t, kZoneListCount> zones_of{};
  uint32_t last = kZoneListCount;
  for (size_t z = 0; z < region.zone_count(); ++z) {
    const Vpn vpn = region.first() + PageCount(static_cast<int64_t>(z * kZonePages));
    const uint32_t list = region.FindOrMakeZone(vpn, rig.pool)->list;
    REQUIRE(list < kZoneListCount);
    CHECK(list != last);
    last = list;
    ++zones_of[list];
  }
  for (const uint32_t zones : zones_of) CHECK(zones == region.zone_count() / kZoneListCount);
}

TEST_CASE("pages of the last zone beyond the region's end are holes", "[mem]") {
  Rig rig;
  const int64_t pages = GENERATE(1, 1023, 1024, 1025, 3000);
  CAPTURE(pages);
  Region region(Range(BytesOf(PageCount(pages))), MakeSlabs(1), 0, kZoneListCount);
  CHECK(region.zone_count() == static_cast<size_t>((pages + kZonePages - 1) / kZonePages));
  uint32_t wrong = 0;
  for (size_t z = 0; z < region.zone_count(); ++z) {
    const auto first = static_cast<int64_t>(z * kZonePages);
    const Zone& zone = *region.FindOrMakeZone(region.first() + PageCount(first), rig.pool);
    for (uint32_t i = 0; i < kZonePages; ++i) {
      const PageState expected = first + i < pages ? PageState::kEmpty : PageState::kHole;
      wrong += zone.pages[i].Load().state() != expected;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("racing makers of a zone get one zone, and the others' go back", "[mem]") {
  constexpr uint32_t kThreads = 4;
  Rig rig;
  std::set<Zone*> all;
  for (uint32_t round = 0; round < Rounds(200); ++round) {
    Region region(Range(64_MiB), MakeSlabs(1), 0, kZoneListCount);
    std::array<std::array<Zone*, 16>, kThreads> got{};
    RunTogether(kThreads, [&](uint32_t thread) {
      for (uint32_t z = 0; z < 16; ++z) {
        const Vpn vpn = region.first() + PageCount(z * kZonePages + thread);
        got[thread][z] = region.FindOrMakeZone(vpn, rig.pool);
      }
    });
    uint32_t wrong = 0;
    for (uint32_t z = 0; z < 16; ++z) {
      for (uint32_t thread = 0; thread < kThreads; ++thread) wrong += got[thread][z] != got[0][z];
      wrong += region.zone(z) != got[0][z];
      wrong += got[0][z]->region != &region;
      all.insert(got[0][z]);
    }
    CHECK(wrong == 0);
    for (uint32_t z = 0; z < 16; ++z) rig.pool.Give(region.zone(z));
  }
  // At most each thread's spare beyond the 16 in use was ever made.
  CHECK(rig.arena.used().raw() <= (16 + kThreads) * sizeof(Zone));
  CHECK(all.size() <= 16 + kThreads);
}

TEST_CASE("a region that begins inside a zone has the rest of it", "[mem]") {
  Rig rig;
  constexpr int64_t kBegin = 1000;
  const AddressRange range{Range(4_MiB).begin + kBegin * kPageSize, Bytes(1100 * kPageSize)};
  Region region(range, MakeSlabs(1), kBegin, kZoneListCount);
  REQUIRE(region.zone_count() == 3);
  uint32_t wrong = 0;
  for (size_t z = 0; z < 3; ++z) {
    const Vpn begin = region.ZoneBegin(z);
    const Vpn inside = std::max(begin, region.first());
    const Zone& zone = *region.FindOrMakeZone(inside, rig.pool);
    CHECK(region.zone(z) == &zone);
    CHECK(zone.first == begin);
    CHECK(begin.raw() % kZonePages == 0);
    for (uint32_t i = 0; i < kZonePages; ++i) {
      const int64_t page = (zone.vpn(i) - region.first()).raw();
      const bool in_region = page >= 0 && page < 1100;
      const PageState expected = in_region ? PageState::kEmpty : PageState::kHole;
      wrong += zone.pages[i].Load().state() != expected;
      wrong += in_region && region.IndexInSlab(zone.vpn(i)) != static_cast<uint32_t>(kBegin + page);
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("a region with too few slabs is refused loudly", "[mem]") {
  const ChildEnd few_slabs = RunInChild([] {
    const Region region(Range(64_MiB), MakeSlabs(1), 1, kZoneListCount);
    return 0;
  });
  CHECK(few_slabs.signal == SIGABRT);
  CHECK(few_slabs.text.find("1 slabs for 16384 pages") != std::string::npos);
}

}  // namespace
}  // namespace spiritos
