// SPDX-License-Identifier: Apache-2.0
// ZoneWord: stages, pins and listing do not disturb each other; and the two rules
// that the proofs of eviction rest on, tried by racing threads.
#include "libos/mem/zone_word.h"

#include <array>
#include <catch2/catch.hpp>
#include <memory>
#include <vector>

#include "libos/base/units.h"
#include "libos/mem/page_word.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

constexpr ZoneStage kAllStages[] = {ZoneStage::kIdle,    ZoneStage::kFreezing,
                                    ZoneStage::kFrozen,  ZoneStage::kDropping,
                                    ZoneStage::kThawing, ZoneStage::kExclusive};

TEST_CASE("only an idle zone is entered", "[mem]") {
  for (const ZoneStage enter : {ZoneStage::kFreezing, ZoneStage::kExclusive}) {
    for (const ZoneStage stage : kAllStages) {
      AtomicZoneWord word;
      word.Advance(ZoneStage::kIdle, stage);
      CHECK(word.TryEnter(enter) == (stage == ZoneStage::kIdle));
      CHECK(word.Load().stage() == (stage == ZoneStage::kIdle ? enter : stage));
    }
  }
}

TEST_CASE("pins and listing are carried through every stage change", "[mem]") {
  for (const uint32_t pins : {0u, 1u, 1024u, 0xffff'ffffu}) {
    for (const bool listed : {false, true}) {
      for (const ZoneStage from : kAllStages) {
        for (const ZoneStage to : kAllStages) {
          AtomicZoneWord word;
          word.AddPins(pins);
          if (listed) CHECK(word.TryList());
          word.Advance(ZoneStage::kIdle, from);
          word.Advance(from, to);
          CHECK(word.Load().stage() == to);
          CHECK(word.Load().pins() == pins);
          CHECK(word.Load().listed() == listed);
        }
      }
    }
  }
}

TEST_CASE("the gate is closed while pages are dropped or a range call is at work", "[mem]") {
  for (const ZoneStage stage : kAllStages) {
    AtomicZoneWord word;
    word.AddPins(0xffff'ffff);
    CHECK(word.TryList());
    word.Advance(ZoneStage::kIdle, stage);
    CHECK(word.Load().gate_closed() ==
          (stage == ZoneStage::kDropping || stage == ZoneStage::kExclusive));
    CHECK(word.Load().swept() == (stage != ZoneStage::kIdle && stage != ZoneStage::kExclusive));
  }
}

TEST_CASE("pins are counted and answered with the word before them", "[mem]") {
  AtomicZoneWord word;
  REQUIRE(word.TryEnter(ZoneStage::kFreezing));
  const ZoneWord before = word.AddPins(3);
  CHECK(before.pins() == 0);
  CHECK(before.stage() == ZoneStage::kFreezing);
  CHECK(word.AddPins(4).pins() == 3);
  word.RemovePins(6);
  CHECK(word.Load().pins() == 1);
  CHECK(word.Load().stage() == ZoneStage::kFreezing);
}

TEST_CASE("one caller turns the list mark on", "[mem]") {
  AtomicZoneWord word;
  CHECK(word.TryList());
  CHECK_FALSE(word.TryList());
  word.Unlist();
  CHECK_FALSE(word.Load().listed());
  CHECK(word.TryList());
}

TEST_CASE("stages, pins and marks by many threads are all kept", "[mem]") {
  const uint32_t rounds = Rounds(200'000);
  AtomicZoneWord word;
  std::atomic<uint32_t> inside{0};
  std::atomic<uint32_t> two_inside{0};
  std::atomic<uint32_t> lists{0};
  std::atomic<uint32_t> two_lists{0};
  RunTogether(4, [&](uint32_t thread) {
    for (uint32_t i = 0; i < rounds; ++i) {
      word.AddPins(thread + 1);
      if (word.TryEnter(ZoneStage::kFreezing)) {
        if (inside.fetch_add(1) != 0) ++two_inside;
        word.Advance(ZoneStage::kFreezing, ZoneStage::kFrozen);
        word.Advance(ZoneStage::kFrozen, ZoneStage::kThawing);
        inside.fetch_sub(1);
        word.Advance(ZoneStage::kThawing, ZoneStage::kIdle);
      }
      if (word.TryList()) {
        if (lists.fetch_add(1) != 0) ++two_lists;
        lists.fetch_sub(1);
        word.Unlist();
      }
      word.RemovePins(thread + 1);
    }
  });
  CHECK(two_inside == 0);
  CHECK(two_lists == 0);
  CHECK(word.Load().stage() == ZoneStage::kIdle);
  CHECK(word.Load().pins() == 0);
  CHECK_FALSE(word.Load().listed());
}

// A zone and one page of it, on lines of their own: what racing threads share.
struct RacePlace {
  alignas(kCacheLine) AtomicZoneWord zone;
  alignas(kCacheLine) AtomicPageWord page;
  // Written by one thread each.
  alignas(kCacheLine) std::array<bool, 2> first_did{};
  bool second_did = false;
};

// Threads walk the same places in step, so that they often meet at one.
class Meeting {
 public:
  explicit Meeting(uint32_t threads) : threads_(threads) {}
  void Arrive(uint32_t round) {
    arrived_.fetch_add(1);
    while (arrived_.load(std::memory_order_acquire) < threads_ * (round + 1)) {
      if (++spins_ % 1024 == 0) sched_yield();
    }
  }

 private:
  const uint32_t threads_;
  std::atomic<uint32_t> arrived_{0};
  static inline thread_local uint32_t spins_ = 0;
};

TEST_CASE("no page appears in a zone whose closer found it absent", "[mem]") {
  constexpr uint32_t kPlaces = 512;
  const uint32_t claimers = GENERATE(1u, 2u);
  const uint32_t walks = Rounds(10'000);
  uint64_t forbidden = 0;
  uint64_t filled = 0;
  uint64_t taken_back = 0;
  const auto places = std::make_unique<std::array<RacePlace, kPlaces>>();
  Meeting meeting(claimers + 1);
  RunTogether(claimers + 1, [&](uint32_t thread) {
    uint32_t round = 0;
    for (uint32_t walk = 0; walk < walks; ++walk) {
      if (thread == claimers) {
        for (RacePlace& place : *places) {
          if (place.zone.Load().stage() != ZoneStage::kIdle) {
            place.zone.Advance(place.zone.Load().stage(), ZoneStage::kIdle);
          }
          place.zone.Advance(ZoneStage::kIdle, ZoneStage::kFrozen);
          place.page.Publish(PageWord());
          place.first_did = {};
          place.second_did = false;
        }
      }
      meeting.Arrive(round++);
      for (uint32_t i = 0; i < kPlaces; ++i) {
        RacePlace& place = (*places)[i];
        if (thread < claimers) {  // Pager: claims, then looks at the gate.
          PageWord word;
          if (!place.page.Take(word, word.ToLoading())) continue;
          if (place.zone.Load().gate_closed()) {
            place.page.Publish(word);
          } else {
            place.first_did[thread] = true;
            place.page.Publish(word.ToLoading().LoadedToResident(0, 0, 0));
          }
        } else {  // Sweep: closes the gate, then looks at the words.
          place.zone.Advance(ZoneStage::kFrozen, ZoneStage::kDropping);
          place.second_did = place.page.Load().state() == PageState::kEmpty;
        }
      }
      meeting.Arrive(round++);
      if (thread != claimers) continue;
      for (RacePlace& place : *places) {
        const bool appeared = place.first_did[0] || place.first_did[1];
        forbidden += appeared && place.second_did;
        filled += appeared;
        taken_back += !appeared;
      }
    }
  });
  INFO(claimers << " claimers, " << filled << " filled, " << taken_back << " taken back");
  CHECK(forbidden == 0);
  CHECK(filled + taken_back == uint64_t{kPlaces} * walks);
}

TEST_CASE("a pinned page is spared by the freeze, or its pinner is told of it", "[mem]") {
  constexpr uint32_t kPlaces = 512;
  const uint32_t walks = Rounds(10'000);
  uint64_t forbidden = 0;
  uint64_t told = 0;
  uint64_t spared = 0;
  const auto places = std::make_unique<std::array<RacePlace, kPlaces>>();
  Meeting meeting(2);
  RunTogether(2, [&](uint32_t thread) {
    uint32_t round = 0;
    for (uint32_t walk = 0; walk < walks; ++walk) {
      if (thread == 0) {
        for (RacePlace& place : *places) {
          if (place.zone.Load().stage() != ZoneStage::kIdle) {
            place.zone.Advance(place.zone.Load().stage(), ZoneStage::kIdle);
          }
          place.zone.RemovePins(place.zone.Load().pins());
          place.page.Publish(PageWord().LoadedToResident(0, 0, 1));
        }
      }
      meeting.Arrive(round++);
      for (RacePlace& place : *places) {
        if (thread == 0) {  // Pinner: the word first, then the zone, whose answer counts.
          PageWord word = place.page.Load();
          while (!place.page.Take(word, word.Pinned())) {
          }
          place.first_did[0] = place.zone.AddPins(1).swept();
        } else {  // Sweep: enters, then looks whether there are pins and where.
          static_cast<void>(place.zone.TryEnter(ZoneStage::kFreezing));
          const bool has_pins = place.zone.Load().pins() != 0;
          place.second_did = has_pins && place.page.Load().pins() != 0;  // Goes around it.
        }
      }
      meeting.Arrive(round++);
      if (thread != 0) continue;
      for (const RacePlace& place : *places) {
        forbidden += !place.second_did && !place.first_did[0];
        told += place.first_did[0];
        spared += place.second_did;
      }
    }
  });
  INFO(told << " told, " << spared << " spared");
  CHECK(forbidden == 0);
}

#ifdef SPIRITOS_FAILPOINTS
TEST_CASE("stage changes are counted when taken", "[mem]") {
  ResetStages();
  AtomicZoneWord word;
  REQUIRE(word.TryEnter(ZoneStage::kFreezing));
  CHECK_FALSE(word.TryEnter(ZoneStage::kExclusive));
  word.Advance(ZoneStage::kFreezing, ZoneStage::kFrozen);
  CHECK(StagesTaken(ZoneStage::kIdle, ZoneStage::kFreezing) == 1);
  CHECK(StagesTaken(ZoneStage::kIdle, ZoneStage::kExclusive) == 0);
  CHECK(StagesTaken(ZoneStage::kFreezing, ZoneStage::kFrozen) == 1);
  ResetStages();
  CHECK(StagesTaken(ZoneStage::kIdle, ZoneStage::kFreezing) == 0);
}
#endif

}  // namespace
}  // namespace spiritos
