// SPDX-License-Identifier: Apache-2.0
// ZonePool: zones are blank when taken, and reused before more are made.
#include "libos/mem/zone_pool.h"

#include <catch2/catch.hpp>
#include <set>
#include <vector>

#include "test/support/together.h"

namespace spiritos {
namespace {

bool IsBlank(const Zone& zone) {
  bool blank = zone.region == nullptr && !zone.linked() && zone.cursor == 0 &&
               zone.word.Load().stage() == ZoneStage::kIdle && zone.word.Load().pins() == 0 &&
               !zone.word.Load().listed();
  for (uint32_t i = 0; i < kZonePages; ++i) {
    blank = blank && zone.pages[i].Load() == PageWord() && zone.versions[i] == 0 &&
            zone.hashes[i] == PageHash{};
  }
  return blank;
}

TEST_CASE("a zone is blank when taken, whatever it was before", "[mem]") {
  PinnedArena arena;
  ZonePool pool(arena);
  Zone* const zone = pool.Take();
  REQUIRE(zone != nullptr);
  CHECK(IsBlank(*zone));
  CHECK(reinterpret_cast<uintptr_t>(&zone->pages) % kCacheLine == 0);
  zone->region = reinterpret_cast<Region*>(zone);
  zone->cursor = 7;
  zone->word.AddPins(3);
  CHECK(zone->word.TryList());
  for (uint32_t i = 0; i < kZonePages; ++i) {
    zone->pages[i].Publish(PageWord().ToHole());
    zone->versions[i] = i + 1;
    zone->hashes[i] = {i, ~uint64_t{i}};
  }
  pool.Give(zone);
  Zone* const again = pool.Take();
  CHECK(again == zone);
  CHECK(IsBlank(*again));
}

TEST_CASE("zones given back are taken before new ones are made", "[mem]") {
  PinnedArena arena;
  ZonePool pool(arena);
  std::set<Zone*> zones;
  for (int i = 0; i < 10; ++i) zones.insert(pool.Take());
  CHECK(zones.size() == 10);
  const Bytes used = arena.used();
  for (Zone* zone : zones) pool.Give(zone);
  std::set<Zone*> again;
  for (int i = 0; i < 10; ++i) again.insert(pool.Take());
  CHECK((again == zones));
  CHECK(arena.used() == used);
  CHECK(zones.count(pool.Take()) == 0);
}

TEST_CASE("no zone is in two threads' hands", "[mem]") {
  constexpr uint32_t kThreads = 4;
  PinnedArena arena;
  ZonePool pool(arena);
  std::atomic<uint32_t> shared{0};
  RunTogether(kThreads, [&](uint32_t thread) {
    std::vector<Zone*> mine;
    for (uint32_t i = 0; i < Rounds(1'000); ++i) {
      while (mine.size() < 3) {
        mine.push_back(pool.Take());
        mine.back()->cursor = thread + 1;
      }
      for (Zone* zone : mine) {
        if (zone->cursor != thread + 1) ++shared;
        pool.Give(zone);
      }
      mine.clear();
    }
  });
  CHECK(shared == 0);
  CHECK(arena.used().raw() <= kThreads * 3 * sizeof(Zone));
}

}  // namespace
}  // namespace spiritos
