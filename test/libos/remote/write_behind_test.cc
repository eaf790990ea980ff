// SPDX-License-Identifier: Apache-2.0
// The order of writes behind, and where the newest bytes are at any moment.
#include "libos/remote/write_behind.h"

#include <random>
#include <vector>

#include "libos/base/failpoint.h"
#include "test/libos/remote/remote_rig.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

class Failures final : public WriteBehind::Sink {
 public:
  void OnFailed(SlotId, int error) noexcept override {
    last = error;
    ++count;
  }
  std::atomic<int> last{0};
  std::atomic<uint32_t> count{0};
};

struct Rig {
  explicit Rig(Bytes buffer) {
    auto made = FileBackend::Create(dir.file("backup"), Bytes(2 * kSlabSize));
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    file = *std::move(made);
    REQUIRE(file->PlaceSlab(&slab) == IoResult::kOk);
    behind.emplace(*file, failures);
    REQUIRE(behind->Start(buffer).ok());
  }
  // From the queue, or else from the file.
  void Read(uint32_t page, std::byte* to) {
    uint32_t pages = 1;
    const SlotId slot = slab + PageCount(page);
    if (behind->Read(slot, &pages, to)) return;
    REQUIRE(Run(*file, IoOp::kRead, Lane::kDemand, slot, 1, to) == 0);
  }

  TempDir dir;
  Failures failures;
  std::unique_ptr<FileBackend> file;
  std::optional<WriteBehind> behind;
  SlotId slab;
};

TEST_CASE("the newest bytes are in the queue or in the file, whatever is under way", "[remote]") {
  constexpr uint32_t kSlots = 64;
  constexpr uint32_t kLongest = 16;
  const uint64_t seed = TestSeed();
  INFO("SPIRITOS_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  Rig rig(Bytes(24 * kPageSize));  // Some writes find room, others do not.
  const Pages out(kLongest);
  const Pages in(1);
  std::vector<uint64_t> versions(kSlots, 0);
  uint32_t copied = 0;
  uint32_t wrong = 0;
  const uint32_t rounds = Rounds(3000);
  for (uint64_t version = 1; version <= rounds; ++version) {
    const auto pages = static_cast<uint32_t>(1 + random() % kLongest);
    const auto first = static_cast<uint32_t>(random() % (kSlots - pages));
    for (uint32_t i = 0; i < pages; ++i) WritePage(out[i], first + i, version);
    WriteBehind::Ticket ticket;
    while (!rig.behind->Append(rig.slab + PageCount(first), pages, out[0],
                               WriteBehind::Copy::kIfRoom, &ticket)) {
      rig.behind->AwaitRoom();
    }
    copied += ticket.copied ? 1 : 0;
    if (!ticket.copied) rig.behind->Await(ticket.sequence);
    for (uint32_t i = 0; i < pages; ++i) versions[first + i] = version;
    const auto looked_at = static_cast<uint32_t>(random() % kSlots);
    if (versions[looked_at] == 0) continue;
    rig.Read(looked_at, in[0]);
    wrong += PageHolds(in[0], looked_at, versions[looked_at]) ? 0 : 1;
  }
  CHECK(wrong == 0);
  CHECK(copied != 0);
  CHECK(copied != rounds);
  CHECK(rig.failures.count == 0);
}

TEST_CASE("a slab is given back behind the writes to it", "[remote]") {
  Rig rig(Bytes(64 * kPageSize));
  const Pages page(1);
  WriteBehind::Ticket ticket;
  for (uint32_t i = 0; i < 64; ++i) {
    REQUIRE(rig.behind->Append(rig.slab + PageCount(i), 1, page[0], WriteBehind::Copy::kIfRoom,
                               &ticket));
  }
  rig.behind->Release(rig.slab);
  rig.behind->AwaitReleases();
  CHECK(rig.behind->pages_behind() == 0);
  SlotId one;
  SlotId two;
  REQUIRE(rig.file->PlaceSlab(&one) == IoResult::kOk);
  REQUIRE(rig.file->PlaceSlab(&two) == IoResult::kOk);
  CHECK((one == rig.slab || two == rig.slab));
  CHECK_FALSE(rig.behind->AwaitReleases());
}

#ifdef SPIRITOS_FAILPOINTS
TEST_CASE("a write that fails is told of: a copy's to the sink, another's to its owner",
          "[remote]") {
  Rig rig(Bytes(64 * kPageSize));
  const Pages page(1);
  for (const auto copy : {WriteBehind::Copy::kIfRoom, WriteBehind::Copy::kNever}) {
    Failpoints::Arm(Failpoint::kBackendWrite, 1, ENOSPC);
    WriteBehind::Ticket ticket;
    REQUIRE(rig.behind->Append(rig.slab, 1, page[0], copy, &ticket));
    rig.behind->Await(ticket.sequence);
    Failpoints::DisarmAll();
    CHECK(ticket.error == (ticket.copied ? 0 : ENOSPC));
    CHECK(rig.failures.count == 1);
  }
  CHECK(rig.failures.last == ENOSPC);
}
#endif

}  // namespace
}  // namespace spiritos
