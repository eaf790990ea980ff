// SPDX-License-Identifier: Apache-2.0
// What a pool gets to see of encrypted pages, and what it may answer without harm.
#include "libos/remote/encrypting_backend.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <thread>
#include <vector>

#include "test/libos/remote/remote_rig.h"
#include "test/support/allocations.h"
#include "test/support/rotting_server.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

constexpr uint32_t kRun = 8;

// Encrypted pages over memory that the test can reach: sealed and opened in place, or by
// way of pieces.
struct Rig {
  explicit Rig(bool in_place) {
    auto made = EmbeddedBackend::Create(Bytes(2 * kSlabSize));
    REQUIRE(made.ok());
    embedded = made->get();
    std::unique_ptr<RemoteBackend> inner = *std::move(made);
    if (!in_place) {
      auto shaped = ShapedBackend::Create(std::move(inner), {.latency_ns = 1'000});
      REQUIRE(shaped.ok());
      inner = *std::move(shaped);
    }
    auto encrypting = EncryptingBackend::Create(std::move(inner));
    INFO(encrypting.status().ToString());
    REQUIRE(encrypting.ok());
    pool = *std::move(encrypting);
    REQUIRE(pool->PlaceSlab(&slab) == IoResult::kOk);
  }
  int Write(uint64_t version) {
    for (uint32_t i = 0; i < kRun; ++i) WritePage(memory[i], i, version);
    return Run(*pool, IoOp::kWrite, Lane::kWriteBack, slab, kRun, memory[0]);
  }
  // 0 when all pages are of that version, -1 when one is not, or the errno.
  int Read(uint64_t version) {
    const int error = Run(*pool, IoOp::kRead, Lane::kDemand, slab, kRun, memory[0]);
    if (error != 0) return error;
    for (uint32_t i = 0; i < kRun; ++i) {
      if (!PageHolds(memory[i], i, version)) return -1;
    }
    return 0;
  }
  std::byte* Slot(uint32_t i) { return embedded->Direct(slab) + i * kPageSize; }

  EmbeddedBackend* embedded = nullptr;
  std::unique_ptr<RemoteBackend> pool;
  SlotId slab;
  Pages memory{kRun};
};

TEST_CASE("what was altered, moved or put back does not open", "[remote]") {
  Rig rig(GENERATE(true, false));
  REQUIRE(rig.Write(1) == 0);
  const std::vector<std::byte> old(rig.Slot(0), rig.Slot(kRun));
  REQUIRE(rig.Write(2) == 0);
  const std::vector<std::byte> last(rig.Slot(0), rig.Slot(kRun));
  const auto restore = [&] { std::copy(last.begin(), last.end(), rig.Slot(0)); };
  REQUIRE(rig.Read(2) == 0);

  for (uint32_t i = 0; i < kRun; ++i) {
    rig.Slot(i)[i * 511] ^= std::byte{2};
    CHECK(rig.Read(2) == EBADMSG);
    rig.Slot(i)[i * 511] ^= std::byte{2};
    CHECK(rig.Read(2) == 0);
  }
  std::swap_ranges(rig.Slot(2), rig.Slot(3), rig.Slot(5));
  CHECK(rig.Read(2) == EBADMSG);
  restore();
  std::copy_n(old.begin() + 3 * kPageSize, kPageSize, rig.Slot(3));
  CHECK(rig.Read(2) == EBADMSG);
  std::copy(old.begin(), old.end(), rig.Slot(0));
  CHECK(rig.Read(2) == EBADMSG);
  restore();
  CHECK(rig.Read(2) == 0);
}

TEST_CASE("what nobody has written reads as zeroes, whatever the pool has there", "[remote]") {
  Rig rig(GENERATE(true, false));
  const auto all_zero = [&] {
    if (Run(*rig.pool, IoOp::kRead, Lane::kDemand, rig.slab, kRun, rig.memory[0]) != 0)
      return false;
    return std::all_of(rig.memory[0], rig.memory[kRun],
                       [](std::byte b) { return b == std::byte{}; });
  };
  std::fill(rig.Slot(0), rig.Slot(kRun), std::byte{7});
  CHECK(all_zero());
  REQUIRE(rig.Write(1) == 0);
  CHECK_FALSE(all_zero());
  rig.pool->Forget(rig.slab, kRun);
  CHECK(all_zero());
  REQUIRE(rig.Write(2) == 0);
  const std::vector<std::byte> sealed(rig.Slot(0), rig.Slot(kRun));
  rig.pool->ReleaseSlab(rig.slab);
  SlotId again;
  REQUIRE(rig.pool->PlaceSlab(&again) == IoResult::kOk);
  REQUIRE(again == rig.slab);
  std::copy(sealed.begin(), sealed.end(), rig.Slot(0));
  CHECK(all_zero());
}

TEST_CASE("a page that is stored into as it leaves opens, for that is what was sent", "[remote]") {
  Rig rig(GENERATE(true, false));
  std::atomic<bool> stop{false};
  std::thread storing([&] {
    auto* const words = reinterpret_cast<volatile uint64_t*>(rig.memory[0]);
    for (uint64_t value = 0; !stop.load(); ++value) words[value * 73 % (kRun * 512)] = value;
  });
  const Pages in(kRun);
  uint32_t failed = 0;
  for (uint32_t round = 0; round < Rounds(2000); ++round) {
    failed += Run(*rig.pool, IoOp::kWrite, Lane::kWriteBack, rig.slab, kRun, rig.memory[0]) != 0;
    failed += Run(*rig.pool, IoOp::kRead, Lane::kDemand, rig.slab, kRun, in[0]) != 0;
  }
  stop.store(true);
  storing.join();
  CHECK(failed == 0);
}

// Whether some page of the slab holds a word of what WritePage() puts there.
bool HoldsPlainWords(const std::byte* slab, uint32_t pages) {
  for (uint32_t page = 0; page < pages; ++page) {
    for (uint64_t i = 0; i < kPageSize / 8; ++i) {
      const uint64_t word = WordOf(page, 1, i);
      if (std::memcmp(slab + page * kPageSize + i * 8, &word, 8) == 0) return true;
    }
  }
  return false;
}

TEST_CASE("a memory server has no word of an encrypted page", "[remote]") {
  const bool encrypted = GENERATE(true, false);
  RottingServer server("one");
  std::unique_ptr<RemoteBackend> pool;
  {
    auto made = MakePool({.pool = server.server->tcp().ToString(),
                          .encrypt = encrypted ? Encryption::kAes256Gcm : Encryption::kNone});
    REQUIRE(made.ok());
    pool = *std::move(made);
  }
  SlotId slab;
  REQUIRE(pool->PlaceSlab(&slab) == IoResult::kOk);
  const Pages pages(kZonePages);
  for (uint32_t i = 0; i < kZonePages; ++i) WritePage(pages[i], i, 1);
  REQUIRE(Run(*pool, IoOp::kWrite, Lane::kWriteBack, slab, kZonePages, pages[0]) == 0);
  CHECK(HoldsPlainWords(server.slab, kZonePages) == !encrypted);
  const Pages in(kZonePages);
  REQUIRE(Run(*pool, IoOp::kRead, Lane::kDemand, slab, kZonePages, in[0]) == 0);
  CHECK(std::memcmp(pages[0], in[0], kZonePages * kPageSize) == 0);
}

TEST_CASE("writes on all lanes that together exceed the room for them all end", "[remote]") {
  RottingServer server("one");
  auto made =
      MakePool({.pool = server.server->tcp().ToString(), .encrypt = Encryption::kAes256Gcm});
  REQUIRE(made.ok());
  RemoteBackend& pool = **made;
  SlotId slab;
  REQUIRE(pool.PlaceSlab(&slab) == IoResult::kOk);
  constexpr uint32_t kWrites = 12;
  const Pages pages(kZonePages);
  for (uint32_t i = 0; i < kZonePages; ++i) WritePage(pages[i], i, 1);
  std::array<IoRequest, kWrites> writes;
  for (uint32_t w = 0; w < kWrites; ++w) {
    Prepare(writes[w], IoOp::kWrite, kAllLanes[w % kLanes],
            slab + PageCount(int64_t{w} * kZonePages), kZonePages, pages[0]);
    SubmitWhenFree(pool, writes[w]);
  }
  for (uint32_t w = kWrites; w-- > 0;) {  // Those that wait for others first.
    pool.Wait(writes[w]);
    CHECK(writes[w].status.load() == IoStatus::kDone);
  }
  const Pages in(kZonePages);
  for (uint32_t w = 0; w < kWrites; ++w) {
    const SlotId first = slab + PageCount(int64_t{w} * kZonePages);
    REQUIRE(Run(pool, IoOp::kRead, Lane::kPrefetch, first, kZonePages, in[0]) == 0);
    CHECK(std::memcmp(pages[0], in[0], kZonePages * kPageSize) == 0);
  }
}

#ifdef SPIRITOS_COUNTS_ALLOCATIONS
TEST_CASE("encrypting and decrypting allocate nothing", "[remote]") {
  RottingServer server("one");
  const bool in_place = GENERATE(true, false);
  auto made = MakePool({.pool = in_place ? "embedded:" : server.server->tcp().ToString(),
                        .encrypt = Encryption::kAes256Gcm});
  REQUIRE(made.ok());
  RemoteBackend& pool = **made;
  SlotId slab;
  REQUIRE(pool.PlaceSlab(&slab) == IoResult::kOk);
  constexpr uint32_t kPages = 700;  // More than there are near runs for.
  const Pages pages(kPages);
  for (uint32_t i = 0; i < kPages; ++i) WritePage(pages[i], i, 1);
  allocations = 0;
  for (uint32_t round = 0; round < 40; ++round) {
    IoRequest request;
    Prepare(request, round % 2 == 0 ? IoOp::kWrite : IoOp::kRead, Lane::kDemand, slab, kPages,
            pages[0]);
    counts_allocations = true;
    SubmitWhenFree(pool, request);
    while (round % 4 > 1 && !request.final()) pool.Poll(Lane::kDemand);
    pool.Wait(request);
    counts_allocations = false;
    REQUIRE(request.status.load() == IoStatus::kDone);
  }
  CHECK(allocations == 0);
  counts_allocations = true;
  std::free(std::malloc(1));
  counts_allocations = false;
  CHECK(allocations == 1);  // They would have been seen.
}
#endif

}  // namespace
}  // namespace spiritos
