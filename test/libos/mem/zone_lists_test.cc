// SPDX-License-Identifier: Apache-2.0
// ZoneLists: the oldest zone first, each zone in one place.
#include "libos/mem/zone_lists.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "test/support/together.h"

namespace spiritos {
namespace {

// Zones that belong to lists in turn.
std::vector<Zone> MakeZones(uint32_t count) {
  std::vector<Zone> zones(count);
  for (uint32_t i = 0; i < count; ++i) zones[i].list = i % kZoneListCount;
  return zones;
}

TEST_CASE("empty lists have no zone to give", "[mem]") {
  ZoneLists lists;
  for (uint32_t sharers = 1; sharers <= kZoneListCount; ++sharers) {
    for (uint32_t share = 0; share < sharers; ++share) {
      CHECK(lists.Pop(share, sharers) == nullptr);
    }
  }
  CHECK(lists.size() == 0);
}

TEST_CASE("a lone evictor gets the zones of all lists, oldest first", "[mem]") {
  auto zones = MakeZones(20);
  ZoneLists lists;
  std::vector<uint32_t> order;
  for (uint32_t i = 0; i < zones.size(); ++i) order.push_back(i * 7 % 20);
  for (const uint32_t i : order) lists.PushBack(zones[i]);
  CHECK(lists.size() == 20);
  for (const uint32_t i : order) CHECK(lists.Pop(0, 1) == &zones[i]);
  CHECK(lists.size() == 0);
}

TEST_CASE("evictors that share get their own lists' zones, then those of others", "[mem]") {
  for (uint32_t sharers = 2; sharers <= kZoneListCount; ++sharers) {
    for (uint32_t share = 0; share < sharers; ++share) {
      CAPTURE(sharers, share);
      auto zones = MakeZones(16);
      ZoneLists lists;
      for (Zone& zone : zones) lists.PushBack(zone);
      std::vector<Zone*> own;
      std::vector<Zone*> others;
      for (Zone& zone : zones) (zone.list % sharers == share ? own : others).push_back(&zone);
      for (Zone* expected : own) CHECK(lists.Pop(share, sharers) == expected);
      for (Zone* expected : others) CHECK(lists.Pop(share, sharers) == expected);
      CHECK(lists.Pop(share, sharers) == nullptr);
    }
  }
}

TEST_CASE("a zone swept in part stays the oldest, one swept whole is the youngest", "[mem]") {
  auto zones = MakeZones(6);
  ZoneLists lists;
  for (Zone& zone : zones) lists.PushBack(zone);
  Zone* const oldest = lists.Pop(0, 1);
  lists.PushFront(*oldest);
  CHECK(lists.Pop(0, 1) == oldest);
  lists.PushBack(*oldest);
  for (size_t i = 1; i < zones.size(); ++i) CHECK(lists.Pop(0, 1) == &zones[i]);
  CHECK(lists.Pop(0, 1) == oldest);
}

TEST_CASE("a zone is taken off its list if it is on one", "[mem]") {
  auto zones = MakeZones(5);
  ZoneLists lists;
  for (Zone& zone : zones) lists.PushBack(zone);
  CHECK(lists.TryRemove(zones[0]));
  CHECK_FALSE(lists.TryRemove(zones[0]));
  CHECK(lists.size() == 4);
  Zone* const in_hand = lists.Pop(0, 1);
  CHECK(in_hand == &zones[1]);
  CHECK_FALSE(lists.TryRemove(*in_hand));
  CHECK(lists.TryRemove(zones[4]));
  CHECK(lists.Pop(0, 1) == &zones[2]);
  CHECK(lists.Pop(0, 1) == &zones[3]);
  CHECK(lists.Pop(0, 1) == nullptr);
}

TEST_CASE("random edits agree with one queue in order of age", "[mem]") {
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  auto zones = MakeZones(24);
  ZoneLists lists;
  std::deque<Zone*> model;
  uint32_t wrong = 0;
  for (uint32_t step = 0; step < Rounds(30'000); ++step) {
    Zone& zone = zones[random() % zones.size()];
    const auto at = std::find(model.begin(), model.end(), &zone);
    if (at == model.end()) {
      lists.PushBack(zone);
      model.push_back(&zone);
    } else if (random() % 2 == 0) {
      wrong += !lists.TryRemove(zone);
      model.erase(at);
    } else {
      Zone* const popped = lists.Pop(0, 1);
      wrong += popped != model.front();
      if (popped == nullptr) break;
      model.pop_front();
      if (random() % 2 == 0) {
        lists.PushFront(*popped);
        model.push_front(popped);
      }
    }
    wrong += lists.size() != model.size();
  }
  CHECK(wrong == 0);
}

TEST_CASE("the first fill lists a zone, later ones do not", "[mem]") {
  auto zones = MakeZones(1);
  ZoneLists lists;
  lists.NoteFill(zones[0]);
  lists.NoteFill(zones[0]);
  CHECK(zones[0].word.Load().listed());
  CHECK(lists.size() == 1);
  CHECK(lists.Pop(0, 1) == &zones[0]);
  lists.NoteFill(zones[0]);  // Still marked: it is in somebody's hands.
  CHECK(lists.size() == 0);
  zones[0].word.Unlist();
  lists.NoteFill(zones[0]);
  CHECK(lists.size() == 1);
}

TEST_CASE("racing threads never have one zone twice and lose none", "[mem]") {
  constexpr uint32_t kThreads = 4;
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  auto zones = MakeZones(16);
  ZoneLists lists;
  std::vector<std::atomic<uint32_t>> holders(zones.size());
  std::atomic<uint32_t> held_twice{0};
  std::atomic<uint64_t> pops{0};
  RunTogether(kThreads, [&](uint32_t thread) {
    std::mt19937_64 random(seed + thread);
    for (uint32_t i = 0; i < Rounds(50'000); ++i) {
      Zone& any = zones[random() % zones.size()];
      lists.NoteFill(any);
      Zone* mine = nullptr;
      if (random() % 4 == 0) {
        if (lists.TryRemove(any)) mine = &any;
      } else {
        mine = lists.Pop(random() % 3, 3);
      }
      if (mine == nullptr) continue;
      ++pops;
      std::atomic<uint32_t>& holder = holders[static_cast<size_t>(mine - zones.data())];
      if (holder.fetch_add(1) != 0) ++held_twice;
      holder.fetch_sub(1);
      switch (random() % 3) {
        case 0:
          lists.PushBack(*mine);
          break;
        case 1:
          lists.PushFront(*mine);
          break;
        default:
          mine->word.Unlist();
      }
    }
  });
  CHECK(held_twice == 0);
  CHECK(pops > 0);
  uint64_t listed = 0;
  for (const Zone& zone : zones) listed += zone.word.Load().listed();
  CHECK(lists.size() == listed);
  uint64_t popped = 0;
  while (Zone* zone = lists.Pop(1, 2)) {
    CHECK(zone->word.Load().listed());
    ++popped;
  }
  CHECK(popped == listed);
}

}  // namespace
}  // namespace spiritos
