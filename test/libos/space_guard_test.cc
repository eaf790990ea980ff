// SPDX-License-Identifier: Apache-2.0
// Guarded pages: clean pages that are filled write-protected and leave unread.
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <numeric>
#include <vector>

#include "libos/base/failpoint.h"
#include "libos/space.h"
#include "test/support/space_peer.h"

namespace spiritos {
namespace {

// Eight zones, of which a program reads much and writes little.
class GuardRig {
 public:
  explicit GuardRig(FaultMode mode = FaultMode::kSigbus) {
    Options options;
    options.budget = 64_MiB;
    options.fault.mode = mode;
    options.prefetch.kind = PrefetchOptions::Kind::kNone;
    auto made = Space::Create(options);
    if (!made.ok()) FAIL(made.status().ToString());
    space = *std::move(made);
    region = space->CreateRegion(32_MiB).value();
  }

  volatile uint64_t& Word(uint64_t page) const {
    return *reinterpret_cast<volatile uint64_t*>(region.begin + page * kPageSize);
  }
  PageWord At(uint64_t page) const {
    return SpaceTestPeer::WordOf(*space, region.begin + page * kPageSize);
  }
  void Evict() const { REQUIRE(space->Evict(region).ok()); }
  void StoreAll(uint64_t mark) const {
    for (uint64_t page = 0; page < kPages; ++page) Word(page) = page + mark;
  }
  // Pages that do not hold what StoreAll(mark) stored.
  uint64_t Wrong(uint64_t mark) const {
    uint64_t wrong = 0;
    for (uint64_t page = 0; page < kPages; ++page) wrong += Word(page) != page + mark;
    return wrong;
  }
  uint64_t Count(Metric metric) const { return space->GetStats()[metric]; }
  // Every page resident and guarded.
  void ReadUntilGuarded(uint64_t mark) const {
    StoreAll(mark);
    for (int stay = 0; stay < 4; ++stay) {
      Evict();
      REQUIRE(Wrong(mark) == 0);
    }
    for (uint64_t page = 0; page < kPages; page += 97) REQUIRE(At(page).guarded());
  }

  static constexpr uint64_t kPages = 8192;
  std::unique_ptr<Space> space;
  AddressRange region;
};

TEST_CASE("pages that left clean come back guarded and leave without a freeze", "[space][guard]") {
  const GuardRig rig;
  rig.ReadUntilGuarded(1);
  const uint64_t freezes = rig.Count(Metric::kFreezes);
  const uint64_t written = rig.Count(Metric::kWrittenPages);
  const uint64_t clean = rig.Count(Metric::kCleanPages);
  rig.Evict();
  CHECK(rig.Count(Metric::kFreezes) == freezes);
  CHECK(rig.Count(Metric::kWrittenPages) == written);
  CHECK(rig.Count(Metric::kCleanPages) == clean + GuardRig::kPages);
  CHECK(rig.Wrong(1) == 0);
}

TEST_CASE("a store into a guarded page is seen, and it leaves dirty", "[space][guard]") {
  const auto mode = GENERATE(FaultMode::kSigbus, FaultMode::kThread);
  const GuardRig rig(mode);
  rig.ReadUntilGuarded(1);
  for (uint64_t page = 0; page < GuardRig::kPages; page += 3) {
    rig.Word(page) = page + 2;
    REQUIRE_FALSE(rig.At(page).guarded());
  }
  rig.Evict();
  for (uint64_t page = 0; page < GuardRig::kPages; ++page) {
    REQUIRE(rig.Word(page) == page + (page % 3 == 0 ? 2 : 1));
  }
  // By now a handler thread has counted what it woke the stores from.
  CHECK(rig.Count(Metric::kGuardBreaks) == (GuardRig::kPages + 2) / 3);
  CHECK(rig.Count(Metric::kSpuriousFaults) == 0);
}

TEST_CASE("a store brings its page unguarded: it faults once", "[space][guard]") {
  const GuardRig rig;
  rig.ReadUntilGuarded(1);
  rig.Evict();
  const uint64_t faults = rig.Count(Metric::kFaults);
  rig.StoreAll(5);
  CHECK(rig.Count(Metric::kFaults) == faults + GuardRig::kPages);
  CHECK(rig.Count(Metric::kGuardBreaks) == 0);
  rig.Evict();
  CHECK(rig.Wrong(5) == 0);
}

TEST_CASE("where pages are read and then written, guarding stops", "[space][guard]") {
  const GuardRig rig;
  rig.ReadUntilGuarded(1);
  for (uint64_t mark = 2; mark < 12; ++mark) {
    rig.Evict();
    REQUIRE(rig.Wrong(mark - 1) == 0);
    rig.StoreAll(mark);
  }
  // Of 81920 such stays some 32 in each zone may be tries.
  CHECK(rig.Count(Metric::kGuardBreaks) < 3 * GuardRig::kPages / 2);
  rig.Evict();
  CHECK(rig.Wrong(11) == 0);
}

TEST_CASE("a sweep beside guarded pages leaves none that says so unprotected", "[space][guard]") {
  const GuardRig rig;
  rig.ReadUntilGuarded(1);
  // Pages 0 and 200 are written: the freeze goes from one to the other, and so does
  // the thaw, over 100, which stays as it is pinned when the sweep meets it.
  rig.Word(0) = 2;
  rig.Word(200) = 202;
  const AddressRange middle{rig.region.begin + 100 * kPageSize, Bytes(kPageSize)};
  REQUIRE(rig.space->Pin(middle).ok());
  REQUIRE(rig.space->Evict({rig.region.begin, Bytes(201 * kPageSize)}).ok());
  rig.space->Unpin(middle);
  REQUIRE(rig.At(100).state() == PageState::kResident);
  rig.Word(100) = 103;
  rig.Evict();
  CHECK(rig.Word(0) == 2);
  CHECK(rig.Word(100) == 103);
  CHECK(rig.Word(200) == 202);
}

TEST_CASE("a pin takes the guard off: the kernel may write", "[space][guard]") {
  const GuardRig rig;
  rig.ReadUntilGuarded(1);
  const AddressRange range{rig.region.begin, Bytes(8 * kPageSize)};
  REQUIRE(rig.space->Pin(range).ok());
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const uint64_t value = 77;
  REQUIRE(write(ends[1], &value, sizeof(value)) == sizeof(value));
  CHECK(read(ends[0], rig.region.begin + 3 * kPageSize, sizeof(value)) == sizeof(value));
  close(ends[0]);
  close(ends[1]);
  rig.space->Unpin(range);
  rig.Evict();
  CHECK(rig.Word(3) == 77);
  CHECK(rig.Word(4) == 5);
}

TEST_CASE("the kernel may write into a guarded page where handler threads serve it",
          "[space][guard]") {
  const GuardRig rig(FaultMode::kThread);
  rig.ReadUntilGuarded(1);
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  for (uint64_t page = 3; page < 9; ++page) {
    const uint64_t value = page * 100;
    REQUIRE(write(ends[1], &value, sizeof(value)) == sizeof(value));
    CHECK(read(ends[0], rig.region.begin + page * kPageSize, sizeof(value)) == sizeof(value));
  }
  close(ends[0]);
  close(ends[1]);
  rig.Evict();
  for (uint64_t page = 3; page < 9; ++page) CHECK(rig.Word(page) == page * 100);
}

TEST_CASE("a guarded page whose memory is discarded by others reads as zeroes, and is counted",
          "[space][guard]") {
  const GuardRig rig;
  rig.ReadUntilGuarded(1);
  madvise(rig.region.begin + 9 * kPageSize, kPageSize, MADV_DONTNEED);
  CHECK(rig.Word(9) == 0);
  CHECK(rig.Count(Metric::kLostPages) == 1);
  CHECK_FALSE(rig.At(9).guarded());
}

}  // namespace
}  // namespace spiritos
