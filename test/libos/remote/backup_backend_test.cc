// SPDX-License-Identifier: Apache-2.0
// Pools with a backup: what is left when servers go, when bytes rot, and when the file is
// slow, full or broken.
#include "libos/remote/backup_backend.h"

#include <cerrno>
#include <random>
#include <thread>

#include "libos/base/failpoint.h"
#include "libos/base/parker.h"
#include "test/libos/remote/remote_rig.h"
#include "test/support/eventually.h"
#include "test/support/proxy.h"
#include "test/support/small_file_system.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

using Catch::Matchers::Contains;

constexpr uint32_t kPages = 2048;  // Looked at in a slab.
constexpr uint32_t kRun = 64;
constexpr uint32_t kBufferPages = 128;

std::string MessageOf(const RemoteOptions& options) {
  const auto pool = MakePool(options);
  return pool.ok() ? "no error" : std::string(pool.status().message());
}

struct Rig {
  explicit Rig(uint32_t slabs = 2, const std::string& folder = "", bool behind_proxy = false) {
    Start(0, slabs);
    address = server->tcp();
    if (behind_proxy) address = proxy.emplace(address).address();
    const std::string path = (folder.empty() ? dir.path() : folder) + "/backup";
    auto made = MakePool({.pool = address.ToString(),
                          .backup = path,
                          .backup_buffer = Bytes(kBufferPages * kPageSize),
                          .dead_after_ns = 1'000'000'000,
                          .give_up_after_ns = behind_proxy ? 30'000'000'000u : 2'000'000'000u});
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    pool = *std::move(made);
    REQUIRE(pool->PlaceSlab(&slab) == IoResult::kOk);
  }
  void Start(int port, uint32_t slabs) {
    server.emplace(
        ServerOptions{.tcp_port = port, .memory = Bytes(slabs * kSlabSize), .lock_memory = false});
  }
  int Write(SlotId first, uint32_t pages, uint64_t version) {
    const Pages memory(pages);
    for (uint32_t i = 0; i < pages; ++i) WritePage(memory[i], first.raw() + i, version);
    return Run(*pool, IoOp::kWrite, Lane::kWriteBack, first, pages, memory[0]);
  }
  void WriteAll(uint64_t version) {
    for (uint32_t page = 0; page < kPages; page += kRun) {
      REQUIRE(Write(slab + PageCount(page), kRun, version) == 0);
    }
  }
  // The errno, or -1 for wrong bytes; `avoid` and where they came from as in a request.
  int Read(SlotId first, uint32_t pages, uint64_t version, uint8_t avoid = 0,
           uint8_t* sources = nullptr) {
    const Pages memory(pages);
    IoRequest request;
    Prepare(request, IoOp::kRead, Lane::kDemand, first, pages, memory[0]);
    request.avoid = avoid;
    SubmitWhenFree(*pool, request);
    pool->Wait(request);
    if (request.status.load() != IoStatus::kDone) return request.error;
    if (sources != nullptr) *sources = request.sources;
    for (uint32_t i = 0; i < pages; ++i) {
      if (!PageHolds(memory[i], first.raw() + i, version)) return -1;
    }
    return 0;
  }
  void CheckAll(uint64_t version, uint8_t avoid, bool from_backup) {
    for (uint32_t page = 0; page < kPages; page += kRun) {
      uint8_t sources = 0;
      REQUIRE(Read(slab + PageCount(page), kRun, version, avoid, &sources) == 0);
      REQUIRE((sources == kBackupSource) == from_backup);
    }
  }

  TempDir dir;
  std::optional<ServerThread> server;
  std::optional<Proxy> proxy;
  ServerAddress address;
  std::unique_ptr<RemoteBackend> pool;
  SlotId slab;
};

TEST_CASE("a backup that makes no sense is refused with its knob", "[remote]") {
  TempDir dir;
  const std::string path = dir.file("backup");
  CHECK_THAT(MessageOf({.pool = "embedded:", .backup = path}),
             Contains(path) && Contains("embedded:") && Contains("SPIRITOS_DURABILITY"));
  CHECK_THAT(MessageOf({.pool = "shm:///tmp/socket", .backup = path}),
             Contains("loses nothing") && Contains("SPIRITOS_DURABILITY"));
  ServerThread server({.tcp_port = 0, .memory = Bytes(kSlabSize), .lock_memory = false});
  CHECK_THAT(MessageOf({.pool = server.tcp().ToString(), .backup = dir.file("none/backup")}),
             Contains("No such file") && Contains("SPIRITOS_DURABILITY"));
  const auto first = MakePool({.pool = server.tcp().ToString(), .backup = path});
  REQUIRE(first.ok());
  CHECK_THAT((*first)->description(), Contains(path) && Contains("1 server"));
  CHECK_THAT(MessageOf({.pool = server.tcp().ToString(), .backup = path}),
             Contains("in use") && Contains("SPIRITOS_DURABILITY"));
}

TEST_CASE("a slab outlives its server, and goes back to the next one", "[remote]") {
  Rig rig;
  rig.WriteAll(1);
  rig.CheckAll(1, 0, false);
  rig.server.reset();
  rig.CheckAll(1, 0, true);
  rig.WriteAll(2);
  rig.CheckAll(2, 0, true);
  CHECK(rig.pool->health().degraded_slabs == 1);
  CHECK(rig.pool->health().lost_slabs == 0);

  SlotId second;  // With nobody to place it at.
  REQUIRE(rig.pool->PlaceSlab(&second) == IoResult::kOk);
  CHECK(rig.Write(second, 1, 3) == 0);

  rig.Start(std::stoi(rig.address.port), 2);
  Eventually("both slabs are at the server", [&] {
    const PoolHealth health = rig.pool->health();
    return health.degraded_slabs == 0 && health.mended_slabs >= 2;
  });
  rig.CheckAll(2, 0, false);
  rig.WriteAll(4);
  rig.CheckAll(4, 0, false);
  CHECK(rig.Read(second, 1, 3) == 0);
  rig.server.reset();
  rig.CheckAll(4, 0, true);
}

TEST_CASE("what was wrong at a server is had from the backup, and the reverse", "[remote]") {
  Rig rig;
  rig.WriteAll(1);
  rig.CheckAll(1, 1, true);
  rig.CheckAll(1, 1 | kBackupSource, false);
}

TEST_CASE("threads that write while the server dies lose nothing that was acknowledged",
          "[remote]") {
  constexpr uint32_t kThreads = 4;
  constexpr uint32_t kLongest = 24;
  constexpr uint32_t kSlots = 512;  // Of each thread.
  const uint64_t seed = TestSeed();
  INFO("SPIRITOS_TEST_SEED=" << seed);
  Rig rig;
  std::vector<std::vector<uint64_t>> versions(kThreads, std::vector<uint64_t>(kSlots, 0));
  std::atomic<uint32_t> written{0};
  std::atomic<uint32_t> failed{0};
  RunTogether(kThreads + 1, [&](uint32_t thread) {
    if (thread == kThreads) {
      YieldUntil([&] { return written.load() > Rounds(1000); });
      return rig.server.reset();
    }
    std::mt19937_64 random(seed + thread);
    const SlotId mine = rig.slab + PageCount(thread * kSlots);
    for (uint32_t round = 1; round <= Rounds(1000); ++round) {
      const auto pages = static_cast<uint32_t>(1 + random() % kLongest);
      const auto first = static_cast<uint32_t>(random() % (kSlots - pages));
      failed += rig.Write(mine + PageCount(first), pages, round) == 0 ? 0 : 1;
      for (uint32_t i = 0; i < pages; ++i) versions[thread][first + i] = round;
      ++written;
    }
  });
  CHECK(failed == 0);
  uint32_t wrong = 0;
  for (uint32_t thread = 0; thread < kThreads; ++thread) {
    for (uint32_t i = 0; i < kSlots; ++i) {
      if (versions[thread][i] == 0) continue;
      const SlotId slot = rig.slab + PageCount(thread * kSlots + i);
      wrong += rig.Read(slot, 1, versions[thread][i]) == 0 ? 0 : 1;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("a slab is filled again while threads write to it", "[remote]") {
  constexpr uint32_t kThreads = 2;
  constexpr uint32_t kSlots = kSlabPages / kThreads;
  constexpr uint32_t kLongest = 96;  // More than is filled at a time.
  const uint64_t seed = TestSeed();
  INFO("SPIRITOS_TEST_SEED=" << seed);
  Rig rig;
  rig.WriteAll(1);
  rig.server.reset();
  rig.CheckAll(1, 0, true);
  rig.Start(std::stoi(rig.address.port), 2);
  std::vector<std::vector<uint64_t>> versions(kThreads, std::vector<uint64_t>(kSlots, 0));
  std::atomic<uint32_t> failed{0};
  RunTogether(kThreads, [&](uint32_t thread) {
    std::mt19937_64 random(seed + thread);
    const SlotId mine = rig.slab + PageCount(thread * kSlots);
    for (uint32_t round = 2; rig.pool->health().mended_slabs == 0; ++round) {
      const auto pages = static_cast<uint32_t>(1 + random() % kLongest);
      const auto first = static_cast<uint32_t>(random() % (kSlots - pages));
      failed += rig.Write(mine + PageCount(first), pages, round) == 0 ? 0 : 1;
      for (uint32_t i = 0; i < pages; ++i) versions[thread][first + i] = round;
    }
  });
  CHECK(failed == 0);
  uint32_t wrong = 0;
  for (uint32_t thread = 0; thread < kThreads; ++thread) {
    for (uint32_t i = 0; i < kSlots; ++i) {
      if (versions[thread][i] == 0) continue;
      const SlotId slot = rig.slab + PageCount(thread * kSlots + i);
      uint8_t sources = kBackupSource;
      wrong += rig.Read(slot, 1, versions[thread][i], 0, &sources) == 0 ? 0 : 1;
      wrong += sources == kBackupSource ? 1 : 0;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("where the file has no room a slab is at servers alone, and that is counted",
          "[remote]") {
  IoResult placed{};
  PoolHealth full;
  PoolHealth lost;
  std::array<int, 4> errors{};
  const bool ran = OnSmallFileSystem(kSlabSize + kSlabSize / 2, [&](const TempDir& dir) {
    Rig rig(2, dir.path());
    SlotId second;
    placed = rig.pool->PlaceSlab(&second);
    errors[0] = rig.Write(rig.slab, kRun, 1);
    errors[1] = rig.Write(second, kRun, 1);
    full = rig.pool->health();
    rig.server.reset();
    errors[2] = rig.Read(rig.slab, kRun, 1);
    errors[3] = rig.Read(second, kRun, 1);
    lost = rig.pool->health();
    rig.pool.reset();
  });
  if (!ran) return;
  CHECK(placed == IoResult::kOk);
  CHECK(full.unbacked_slabs == 1);
  CHECK(full.lost_slabs == 0);
  CHECK(lost.lost_slabs == 1);
  CHECK(lost.degraded_slabs == 1);
  CHECK(errors[0] == 0);
  CHECK(errors[1] == 0);
  CHECK(errors[2] == 0);
  CHECK(errors[3] != 0);
  CHECK(errors[3] != -1);
}

TEST_CASE("what is in no file is waited for, as without one, when its server is silent",
          "[remote]") {
  int read_from_file = -2;
  int read_when_back = -2;
  PoolHealth health;
  const bool ran = OnSmallFileSystem(kSlabSize + kSlabSize / 2, [&](const TempDir& dir) {
    Rig rig(2, dir.path(), true);
    SlotId second;
    REQUIRE(rig.pool->PlaceSlab(&second) == IoResult::kOk);
    REQUIRE(rig.Write(rig.slab, kRun, 1) == 0);
    REQUIRE(rig.Write(second, kRun, 1) == 0);
    rig.proxy->Hold(true);
    read_from_file = rig.Read(rig.slab, kRun, 1);
    std::thread reader([&] { read_when_back = rig.Read(second, kRun, 1); });
    rig.proxy->Hold(false);
    reader.join();
    health = rig.pool->health();
    rig.pool.reset();
  });
  if (!ran) return;
  CHECK(read_from_file == 0);
  CHECK(read_when_back == 0);
  CHECK(health.lost_slabs == 0);
}

#ifdef SPIRITOS_FAILPOINTS
// Holds every write to the file, as long as it is closed.
class Gate {
 public:
  Gate() {
    closed_.store(1);
    Failpoints::SetPause(PausePoint::kBackupIssue, [] { FutexWait(closed_, 1); });
  }
  ~Gate() { Open(); }
  void Open() {
    closed_.store(0);
    FutexWake(closed_, INT32_MAX);
    Failpoints::SetPause(PausePoint::kBackupIssue, nullptr);
  }

 private:
  static inline std::atomic<uint32_t> closed_{0};
};

TEST_CASE("writes wait for a file that does not keep up, in bounded memory", "[remote]") {
  Rig rig;
  Gate gate;
  for (uint32_t page = 0; page < kBufferPages; ++page) {
    REQUIRE(rig.Write(rig.slab + PageCount(page), 1, 1) == 0);
  }
  // There is no room for a copy of this one: it is written from where it is.
  const Pages memory(1);
  const SlotId last = rig.slab + PageCount(kBufferPages);
  WritePage(memory[0], last.raw(), 1);
  IoRequest request;
  Prepare(request, IoOp::kWrite, Lane::kWriteBack, last, 1, memory[0]);
  REQUIRE(rig.pool->Submit(request) == IoResult::kOk);
  Eventually("the server has it", [&] { return rig.Read(last, 1, 1) == 0; });
  rig.pool->Poll(Lane::kWriteBack);
  CHECK_FALSE(request.final());
  CHECK(rig.pool->health().backup_behind == kBufferPages + 1);
  gate.Open();
  rig.pool->Wait(request);
  CHECK(request.status.load() == IoStatus::kDone);
  Eventually("the file has it", [&] { return rig.pool->health().backup_behind == 0; });
}

TEST_CASE("copies on their way to the file are read when the server goes", "[remote]") {
  Rig rig;
  {
    Gate gate;
    for (uint64_t version = 1; version <= 2; ++version) {
      REQUIRE(rig.Write(rig.slab, kRun - 1, version) == 0);
    }
    CHECK(rig.pool->health().backup_behind == 2 * (kRun - 1));
    rig.server.reset();
    uint8_t sources = 0;
    CHECK(rig.Read(rig.slab, kRun - 1, 2, 0, &sources) == 0);
    CHECK(sources == kBackupSource);
    CHECK(rig.Read(rig.slab + PageCount(7), 1, 2) == 0);
  }
  Eventually("the file has it", [&] { return rig.pool->health().backup_behind == 0; });
  CHECK(rig.Read(rig.slab, kRun - 1, 2) == 0);
}

TEST_CASE("a write that fails at one place counts by the other", "[remote]") {
  Rig rig;
  REQUIRE(rig.Write(rig.slab, 1, 1) == 0);
  Eventually("the file has it", [&] { return rig.pool->health().backup_behind == 0; });
  // The server is passed first, the file second.
  Failpoints::Arm(Failpoint::kBackendWrite, 2, EIO);
  CHECK(rig.Write(rig.slab, 1, 2) == 0);
  Eventually("the file's failure is counted",
             [&] { return rig.pool->health().backup_errors == 1; });
  CHECK(rig.Read(rig.slab, 1, 2) == 0);
  // A server that still has the slab, but not this write.
  Failpoints::Arm(Failpoint::kBackendWrite, 1, EIO);
  CHECK(rig.Write(rig.slab, 1, 3) == EIO);
  Failpoints::Arm(Failpoint::kBackendRead, 1, EIO);
  REQUIRE(rig.Write(rig.slab, 1, 4) == 0);
  uint8_t sources = 0;
  CHECK(rig.Read(rig.slab, 1, 4, 0, &sources) == 0);
  CHECK(sources == kBackupSource);
  // Without a server what the file does not take does not count.
  rig.server.reset();
  REQUIRE(rig.Write(rig.slab, 1, 5) == 0);
  Eventually("nothing is under way", [&] { return rig.pool->health().backup_behind == 0; });
  // Asked for at the server, copied, and written once more: as far as it gets.
  Failpoints::Arm(Failpoint::kBackendWrite, 1, ENOSPC, 3);
  CHECK(rig.Write(rig.slab, 1, 6) == ENOSPC);
  Failpoints::DisarmAll();
  CHECK(rig.Write(rig.slab, 1, 7) == 0);
  CHECK(rig.Read(rig.slab, 1, 7) == 0);
}
#endif

}  // namespace
}  // namespace spiritos
