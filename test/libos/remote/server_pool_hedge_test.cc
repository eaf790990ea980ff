// SPDX-License-Identifier: Apache-2.0
// Demand reads that are late, and are asked of a second server.
#include <array>
#include <atomic>
#include <cstring>
#include <random>

#include "test/libos/remote/pool_rig.h"
#include "test/support/proxy.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

// A mirror whose servers are behind proxies, and are waited for.
struct SlowMirror {
  std::array<ServerThread, 2> servers{ServerThread(Host("a")), ServerThread(Host("b"))};
  std::array<Proxy, 2> proxies{Proxy(servers[0].tcp()), Proxy(servers[1].tcp())};
  std::unique_ptr<ServerPool> pool;

  SlowMirror() {
    auto made = ServerPool::Create({.servers = {proxies[0].address(), proxies[1].address()},
                                    .tenant = "test",
                                    .copies = 2,
                                    .dead_ms = 30'000});
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    pool = *std::move(made);
  }
  static ServerOptions Host(const char* name) {
    return {.tcp_port = 0, .host = name, .memory = Bytes(kSlabSize), .lock_memory = false};
  }
};

}  // namespace

TEST_CASE("a read that is late is answered by the other server, and the late answer goes nowhere") {
  const bool by_half = GENERATE(false, true);
  CAPTURE(by_half);
  SlowMirror mirror;
  ServerPool& pool = *mirror.pool;
  Content content(pool);
  content.WriteAll(1);
  const Pages memory(2);
  const auto source_of = [&](uint8_t avoid) {
    IoRequest read;
    read.avoid = avoid;
    Prepare(read, IoOp::kRead, Lane::kDemand, content.slab(), 1, memory[0]);
    SubmitWhenFree(pool, read);
    pool.Wait(read);
    return read.sources.load();
  };
  // Which copy a read asks first. A slow machine may have it ask both, and pass by the one
  // that still owes an answer: each has answered everything before it is asked.
  uint8_t first = 0;
  uint64_t hedged;
  do {
    hedged = pool.health().hedged_reads;
    source_of(1);
    source_of(2);
    first = source_of(0);
  } while (pool.health().hedged_reads != hedged);
  uint32_t late_ones = 0;
  for (Proxy& proxy : mirror.proxies) {
    const uint64_t won = pool.health().hedges_won;
    by_half ? proxy.HalveNextPage() : proxy.Hold(true);
    IoRequest late;
    Prepare(late, IoOp::kRead, Lane::kDemand, content.slab() + PageCount(7), 1, memory[0]);
    SubmitWhenFree(pool, late);
    pool.Wait(late);
    REQUIRE(late.error == 0);
    CHECK(PageHolds(memory[0], 7, 1));
    if (late.sources.load() == first) {  // The other server's proxy.
      proxy.Hold(false);
      continue;
    }
    ++late_ones;
    CHECK(pool.health().hedges_won > won);
    std::memset(memory[0], 0xEE, kPageSize);
    // Answers come in order: behind this one's the late one is there.
    IoRequest behind;
    behind.avoid = late.sources.load();
    Prepare(behind, IoOp::kRead, Lane::kDemand, content.slab() + PageCount(8), 1, memory[1]);
    SubmitWhenFree(pool, behind);
    proxy.Hold(false);
    pool.Wait(behind);
    REQUIRE(behind.error == 0);
    CHECK(behind.sources.load() == first);
    CHECK(PageHolds(memory[1], 8, 1));
    CHECK(std::all_of(memory[0], memory[0] + kPageSize,
                      [](std::byte byte) { return byte == std::byte{0xEE}; }));
  }
  CHECK(late_ones == 1);
  content.CheckAll();
}

TEST_CASE("threads read from servers that stall and break off by turns") {
  constexpr uint32_t kThreads = 4;
  constexpr uint64_t kReads = 600;  // Of a thread.
  const uint32_t seed = std::random_device()();
  CAPTURE(seed);
  SlowMirror mirror;
  ServerPool& pool = *mirror.pool;
  Content content(pool);
  content.WriteAll(1);
  std::atomic<uint64_t> reads{0};
  std::atomic<uint64_t> wrong{0};
  std::atomic<uint64_t> overwritten{0};
  RunTogether(kThreads + 1, [&](uint32_t thread) {
    std::mt19937 random(seed + thread);
    if (thread == kThreads) {
      // Each lasts as long as it takes the others to read on.
      for (uint64_t turn = 0; reads.load() < kThreads * kReads; ++turn) {
        Proxy& proxy = mirror.proxies[turn % 2];
        switch (random() % 4) {
          case 0:
            proxy.CutNext();
            break;
          case 1:
            proxy.HalveNextPage();
            break;
          default:
            proxy.Hold(true);
        }
        const uint64_t until = std::min(reads.load() + random() % 64, kThreads * kReads);
        YieldUntil([&] { return reads.load() >= until; });
        proxy.Hold(false);
      }
      return;
    }
    const Pages memory(2);
    std::array<uint32_t, 2> pages{};
    for (uint64_t i = 0; i < kReads; ++i, ++reads) {
      std::byte* const into = memory[i % 2];
      pages[i % 2] = random() % kPages;
      const SlotId slot = content.slab() + PageCount(pages[i % 2]);
      const int error = Run(pool, IoOp::kRead, Lane::kDemand, slot, 1, into);
      wrong += error == 0 && PageHolds(into, pages[i % 2], 1) ? 0 : 1;
      // What was read before is still there, whoever answers late.
      overwritten += i == 0 || PageHolds(memory[1 - i % 2], pages[1 - i % 2], 1) ? 0 : 1;
    }
  });
  CHECK(wrong == 0);
  CHECK(overwritten == 0);
  CHECK(pool.health().hedges_won > 0);
  CHECK(pool.health().lost_slabs == 0);
  content.CheckAll();
}

}  // namespace spiritos
