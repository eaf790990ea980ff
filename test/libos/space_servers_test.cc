// SPDX-License-Identifier: Apache-2.0
// Spaces over memory servers that forget, or whose memory rots.
#include <fcntl.h>
#include <sys/mman.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <optional>
#include <random>
#include <string>
#include <thread>

#include "libos/remote/server_pool.h"
#include "libos/space.h"
#include "test/support/child.h"
#include "test/support/eventually.h"
#include "test/support/lost_access.h"
#include "test/support/rotting_server.h"
#include "test/support/server_thread.h"
#include "test/support/temp_dir.h"

namespace spiritos {
namespace {

constexpr uint64_t kPages = 4096;

Options OverServers(const std::string& pool, uint32_t copies) {
  Options options{.budget = 8_MiB};
  options.prefetch.kind = PrefetchOptions::Kind::kNone;
  options.remote.pool = pool;
  options.remote.copies = copies;
  options.remote.dead_after_ns = 4'000'000'000;  // None is suspected of what a slow machine does.
  return options;
}

}  // namespace

// Every bit that flips in the copy that is read is noticed, and the page is right.
void FlipAndRead(uint64_t flips) {
  const uint32_t seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  RottingServer one("one");
  RottingServer two("two");
  const auto space =
      Space::Create(
          OverServers(one.server->tcp().ToString() + "," + two.server->tcp().ToString(), 2))
          .value();
  const AddressRange region = space->CreateRegion(Bytes(kPages * kPageSize)).value();
  const auto word = [&](uint64_t page, uint64_t i) -> volatile uint64_t& {
    return reinterpret_cast<volatile uint64_t*>(region.begin + page * kPageSize)[i];
  };
  const auto holds = [&](uint64_t page, uint64_t value) {
    uint64_t other = 0;
    for (uint64_t i = 0; i < kPageSize / 8; ++i) other |= word(page, i) ^ (page ^ (value << 32));
    return other == 0;
  };
  uint64_t value = 0;
  uint64_t noticed = 0;
  uint64_t wrong = 0;
  for (uint64_t round = 0; noticed < flips; ++round) {
    ++value;
    for (uint64_t page = 0; page < kPages; ++page) {
      for (uint64_t i = 0; i < kPageSize / 8; ++i) word(page, i) = page ^ (value << 32);
    }
    REQUIRE(space->Evict(region).ok());
    // One of the two is read first, and the other one where that is late.
    std::byte* const slab = round % 2 == 0 ? one.slab : two.slab;
    for (uint64_t page = 0; page < kPages; ++page) {
      slab[page * kPageSize + random() % kPageSize] ^= std::byte(1 << random() % 8);
    }
    const Stats before = space->GetStats();
    for (uint64_t page = 0; page < kPages; ++page) wrong += holds(page, value) ? 0 : 1;
    const Stats after = space->GetStats();
    const uint64_t found = after[Metric::kCorruptPages] - before[Metric::kCorruptPages];
    CHECK(after[Metric::kRewrittenPages] - before[Metric::kRewrittenPages] == found);
    noticed += found;
    REQUIRE(round < 3 * (flips / kPages + 1));
  }
  CHECK(wrong == 0);
}

TEST_CASE("a bit that flips in one copy is noticed, and another copy is right", "[space][uffd]") {
  FlipAndRead(kPages);
}

TEST_CASE("bits that flip at the only server are put right from the backup", "[space][uffd]") {
  const TempDir dir;
  RottingServer one("one");
  Options options = OverServers(one.server->tcp().ToString(), 1);
  options.remote.backup = dir.file("backup");
  options.remote.backup_buffer = 1_MiB;
  const auto space = Space::Create(options).value();
  CHECK(space->GetStats().used_frames >= PagesFor(1_MiB));
  const AddressRange region = space->CreateRegion(Bytes(kPages * kPageSize)).value();
  const auto word = [&](uint64_t page) -> volatile uint64_t& {
    return *reinterpret_cast<volatile uint64_t*>(region.begin + page * kPageSize);
  };
  for (uint64_t page = 0; page < kPages; ++page) word(page) = page + 1;
  REQUIRE(space->Evict(region).ok());
  for (uint64_t page = 0; page < kPages; ++page) one.slab[page * kPageSize] ^= std::byte{1};
  uint64_t wrong = 0;
  for (uint64_t page = 0; page < kPages; ++page) wrong += word(page) == page + 1 ? 0 : 1;
  CHECK(wrong == 0);
  const Stats rotten = space->GetStats();
  CHECK(rotten[Metric::kCorruptPages] == kPages);
  CHECK(rotten[Metric::kRewrittenPages] == kPages);

  REQUIRE(space->Evict(region).ok());
  for (uint64_t page = 0; page < kPages; ++page) wrong += word(page) == page + 1 ? 0 : 1;
  CHECK(wrong == 0);
  CHECK(space->GetStats()[Metric::kCorruptPages] == kPages);
}

TEST_CASE("a space goes on without any server, from its backup", "[space][uffd]") {
  const TempDir dir;
  std::optional<ServerThread> server;
  server.emplace(
      ServerOptions{.tcp_port = 0, .memory = Bytes(4 * kSlabSize), .lock_memory = false});
  Options options = OverServers(server->tcp().ToString(), 1);
  options.prefetch.kind = PrefetchOptions::Kind::kTrend;
  options.remote.backup = dir.file("backup");
  const auto space = Space::Create(options).value();
  const AddressRange region = space->CreateRegion(Bytes(kPages * kPageSize)).value();
  const auto fill_and_check = [&](AddressRange range, uint64_t value) {
    const auto* const words = reinterpret_cast<volatile uint64_t*>(range.begin);
    for (uint64_t page = 0; page < kPages; ++page) {
      reinterpret_cast<volatile uint64_t*>(range.begin)[page * 512] = page ^ value;
    }
    uint64_t wrong = 0;
    for (uint64_t page = 0; page < kPages; ++page) {
      wrong += words[page * 512] == (page ^ value) ? 0 : 1;
    }
    return wrong;
  };
  CHECK(fill_and_check(region, 1ull << 40) == 0);
  server.reset();
  CHECK(fill_and_check(region, 2ull << 40) == 0);
  const AddressRange another = space->CreateRegion(Bytes(kPages * kPageSize)).value();
  CHECK(fill_and_check(another, 3ull << 40) == 0);
  const Stats stats = space->GetStats();
  CHECK(stats.lost_slabs == 0);
  CHECK(stats.degraded_slabs == 2);
  CHECK(stats[Metric::kUnavailablePages] == 0);
  CHECK(stats[Metric::kWriteErrors] == 0);
  CHECK(space->Unmap(another).ok());
}

TEST_CASE("100 000 bits that flip at rest are noticed", "[.flips]") { FlipAndRead(100'000); }

TEST_CASE("every access to a page that went with its only server fails", "[space][uffd]") {
  const LostAccess lost;
  std::optional<ServerThread> server;
  server.emplace(ServerOptions{.tcp_port = 0, .memory = Bytes(kSlabSize), .lock_memory = false});
  Options options = OverServers(server->tcp().ToString(), 1);
  options.remote.give_up_after_ns = 1'000'000'000;
  const auto space = Space::Create(options).value();
  const AddressRange region = space->CreateRegion(Bytes(kPages * kPageSize)).value();
  for (uint64_t page = 0; page < kPages; ++page) {
    region.begin[page * kPageSize] = std::byte{1};
  }
  REQUIRE(space->Evict(region).ok());
  server.reset();
  uint64_t failed = 0;
  for (uint64_t page = 0; page < kPages; ++page) {
    failed += lost.FailsAt(region.begin + page * kPageSize) ? 1 : 0;
  }
  CHECK(failed == kPages);
  CHECK(space->GetStats().lost_slabs == 1);
}

TEST_CASE("a full server stops a program at its budget, until another gives slabs back",
          "[space][uffd]") {
  ServerThread server({.tcp_port = 0, .memory = Bytes(2 * kSlabSize), .lock_memory = false});
  Options options = OverServers(server.tcp().ToString(), 1);
  options.remote.tenant = "late";
  const auto late = Space::Create(options).value();
  const AddressRange promised = late->CreateRegion(64_MiB).value();
  auto early = ServerPool::Create({.servers = {server.tcp()}, .tenant = "early"}).value();
  for (int i = 0; i < 2; ++i) {
    SlotId taken;
    REQUIRE(early->PlaceSlab(&taken) == IoResult::kOk);
  }
  REQUIRE(server.server().store().free() == 0);

  // Nobody new is promised anything.
  options.remote.tenant = "third";
  const auto third = Space::Create(options);
  CHECK(absl::IsResourceExhausted(third.status()));
  CHECK(third.status().message().find("has room for 0 slabs") != std::string::npos);
  CHECK(absl::IsResourceExhausted(late->CreateRegion(128_MiB).status()));

  const auto word = [&](uint64_t page) -> volatile uint64_t& {
    return *reinterpret_cast<volatile uint64_t*>(promised.begin + page * kPageSize);
  };
  std::atomic<uint64_t> stored{0};
  std::thread program([&] {
    for (uint64_t page = 0; page < kPages; ++page) {
      word(page) = page + 1;
      stored.store(page + 1);
    }
  });
  Eventually("the program has no frame left, and nothing can leave", [&] {
    const Stats stats = late->GetStats();
    return stats.free_frames.raw() == 0 && stats[Metric::kWriteErrors] > 100;
  });
  const uint64_t reached = stored.load();
  CHECK(reached < kPages);
  CHECK(reached > kPages / 4);  // Some three quarters of its 2048 frames.
  uint64_t wrong = 0;
  for (uint64_t page = 0; page < reached; ++page) wrong += word(page) == page + 1 ? 0 : 1;
  CHECK(wrong == 0);  // All of it is here.

  early->ReleaseSlab(SlotId(0));
  program.join();
  for (uint64_t page = 0; page < kPages; ++page) wrong += word(page) == page + 1 ? 0 : 1;
  CHECK(wrong == 0);
  CHECK(late->GetStats()[Metric::kLostPages] == 0);
}

TEST_CASE("a server that stays full stops the process by name after 30 s", "[.long][space][uffd]") {
  const ChildEnd end = RunInChild([] {
    ServerThread server({.tcp_port = 0, .memory = Bytes(kSlabSize), .lock_memory = false});
    Options options = OverServers(server.tcp().ToString(), 1);
    options.remote.pool_size = 128_MiB;  // More than there is.
    const auto space = Space::Create(options).value();
    const AddressRange region = space->CreateRegion(128_MiB).value();
    for (uint64_t page = 0; page < 2 * kSlabPages; ++page) {
      region.begin[page * kPageSize] = std::byte{1};
    }
    return 0;
  });
  INFO(end.text);
  CHECK(end.signal == SIGABRT);
  CHECK(end.text.find("no page could be evicted for 30 s") != std::string::npos);
  CHECK(end.text.find("SPIRITOS_POOL_SIZE") != std::string::npos);
}

}  // namespace spiritos
