// SPDX-License-Identifier: Apache-2.0
// Slabs that memory servers ask back: moved while they are in use, or kept.
#include <array>
#include <atomic>
#include <deque>
#include <random>
#include <thread>

#include "test/libos/remote/pool_rig.h"

namespace spiritos {
namespace {

// Whole slabs in use by a pool's threads, each with pages of its own in every slab.
class Traffic {
 public:
  static constexpr uint32_t kThreads = 4;

  Traffic(RemoteBackend& pool, uint32_t slabs, uint32_t seed) : pool_(pool) {
    for (uint32_t i = 0; i < slabs; ++i) {
      REQUIRE(pool.PlaceSlab(&slabs_.emplace_back()) == IoResult::kOk);
    }
    for (uint32_t t = 0; t < kThreads; ++t) {
      threads_.emplace_back([this, t, seed] { Work(t, seed + t); });
    }
  }
  ~Traffic() { Stop(); }
  // What came of it all.
  void Check() {
    Stop();
    CHECK(failed_.load() == 0);
    CHECK(wrong_.load() == 0);
    CHECK(done_.load() > 0);
  }
  uint64_t done() const { return done_.load(); }

 private:
  static constexpr uint32_t kMine = 1024;  // Pages of a thread in a slab.

  void Stop() {
    stopping_.store(true);
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  void Work(uint32_t t, uint32_t seed) {
    std::mt19937 random(seed);
    Pages memory(kMine);
    std::vector<uint64_t> versions(slabs_.size() * kMine, 0);
    for (uint64_t version = 1; !stopping_.load(); ++version) {
      const uint32_t slab = random() % slabs_.size();
      const uint32_t count = 1 + random() % 128;
      const uint32_t first = random() % (kMine - count);
      const SlotId slot = slabs_[slab] + PageCount(t * kMine + first);
      uint64_t* const expected = versions.data() + slab * kMine + first;
      const uint64_t name = uint64_t{t} << 32 | slab << 16 | first;
      for (uint32_t i = 0; i < count; ++i) {
        WritePage(memory[i], name + i, version);
        expected[i] = version;
      }
      failed_ += Run(pool_, IoOp::kWrite, Lane::kWriteBack, slot, count, memory[0]) != 0 ? 1 : 0;
      // Somewhere else, of any age.
      const uint32_t at = random() % kMine;
      if (versions[slab * kMine + at] != 0) {
        const SlotId other = slabs_[slab] + PageCount(t * kMine + at);
        failed_ += Run(pool_, IoOp::kRead, Lane::kDemand, other, 1, memory[0]) != 0 ? 1 : 0;
        wrong_ +=
            PageHolds(memory[0], uint64_t{t} << 32 | slab << 16 | at, versions[slab * kMine + at])
                ? 0
                : 1;
      }
      ++done_;
    }
    for (uint32_t slab = 0; slab < slabs_.size(); ++slab) {
      for (uint32_t page = 0; page < kMine; ++page) {
        const uint64_t version = versions[slab * kMine + page];
        if (version == 0) continue;
        const SlotId slot = slabs_[slab] + PageCount(t * kMine + page);
        failed_ += Run(pool_, IoOp::kRead, Lane::kDemand, slot, 1, memory[0]) != 0 ? 1 : 0;
        wrong_ += PageHolds(memory[0], uint64_t{t} << 32 | slab << 16 | page, version) ? 0 : 1;
      }
    }
  }

  RemoteBackend& pool_;
  std::vector<SlotId> slabs_;
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> failed_{0};
  std::atomic<uint64_t> wrong_{0};
  std::atomic<uint64_t> done_{0};
  std::vector<std::thread> threads_;
};

uint32_t PrintedSeed() {
  const uint32_t seed = std::random_device()();
  UNSCOPED_INFO("seed " << seed);
  return seed;
}

TEST_CASE("what is written and read while servers are drained in turns is neither lost nor old") {
  const uint32_t seed = PrintedSeed();
  Servers servers(2);
  const auto one = servers.Connect(1);
  const auto two = servers.Connect(1);
  Traffic first(*one, 2, seed);
  Traffic second(*two, 2, seed + 100);
  for (uint32_t round = 0; round < 4; ++round) {
    MemoryServer& leaving = servers[round % 2];
    const uint64_t before = first.done() + second.done();
    leaving.Drain();
    Eventually("nobody rents anything there", [&] { return leaving.store().rented() == 0; });
    CHECK(servers[1 - round % 2].store().rented() == 4);
    CHECK(first.done() + second.done() > before);  // It went on meanwhile.
    REQUIRE(leaving.Resize(Bytes(4 * kSlabSize)).ok());
    Eventually("it has memory again", [&] { return leaving.store().ready() == 4; });
  }
  first.Check();
  second.Check();
  CHECK(one->health().moved_slabs + two->health().moved_slabs >= 14);
  CHECK(one->health().lost_slabs + two->health().lost_slabs == 0);
}

TEST_CASE("a mirrored slab moves without ever missing a copy, to a third machine") {
  const uint32_t seed = PrintedSeed();
  Servers servers(3);
  const auto pool = servers.Connect(2, 30'000, 12'000);
  Traffic traffic(*pool, 3, seed);
  for (uint32_t leaving = 0; leaving < 3; ++leaving) {
    servers[leaving].Drain();
    Eventually("nobody rents anything there", [&] {
      CHECK(pool->health().degraded_slabs == 0);
      return servers[leaving].store().rented() == 0;
    });
    REQUIRE(servers[leaving].Resize(Bytes(4 * kSlabSize)).ok());
    Eventually("it has memory again", [&] { return servers[leaving].store().ready() == 4; });
  }
  traffic.Check();
  CHECK(pool->health().mended_slabs == 0);
  // Of two servers either is enough.
  servers[0].Drain();
  Eventually("the first is empty", [&] { return servers[0].store().rented() == 0; });
  servers.Stop(0);
  Content content(*pool);
  content.WriteAll(1);
  servers.Stop(1);
  content.CheckAll();
}

TEST_CASE("three copies are two while one of them moves") {
  Servers servers(4);
  const auto pool = servers.Connect(3);
  Content content(*pool);
  content.WriteAll(1);
  uint32_t leaving = 0;
  while (servers[leaving].store().rented() == 0) ++leaving;
  servers[leaving].Drain();
  Eventually("it is empty, and the slab is whole", [&] {
    CHECK(pool->health().lost_slabs == 0);
    return servers[leaving].store().rented() == 0 && pool->health().mended_slabs == 1 &&
           pool->health().degraded_slabs == 0;
  });
  content.CheckAll();
}

TEST_CASE("a server that shrinks gets back what it asks for, and no more") {
  Servers servers(2);
  const auto pool = servers.Connect(1);
  std::deque<Content> contents;
  servers[1].Drain();  // All on the first.
  for (int i = 0; i < 4; ++i) contents.emplace_back(*pool).WriteAll(1);
  REQUIRE(servers[1].Resize(Bytes(4 * kSlabSize)).ok());
  REQUIRE(servers[0].Resize(Bytes(2 * kSlabSize)).ok());
  Eventually("the rest is elsewhere", [&] { return servers[0].store().excess() == 0; });
  // A ping later nothing more has been asked for.
  const auto requests = [&] { return servers[0].counters().Get(ServerCounter::kRequests); };
  const uint64_t then = requests();
  Eventually("it is asked again", [&] { return requests() > then + 2; });
  CHECK(servers[0].store().rented() == 2);
  CHECK(servers[0].counters().Get(ServerCounter::kSlabsReclaimed) == 2);
  CHECK(pool->health().moved_slabs == 2);
  for (Content& content : contents) content.CheckAll();
}

TEST_CASE("what no other server has room for stays where it is") {
  Servers servers(2, 2);
  const auto pool = servers.Connect(1);
  servers[1].Drain();
  Content one(*pool);
  Content two(*pool);
  one.WriteAll(1);
  two.WriteAll(2);
  REQUIRE(servers[1].Resize(Bytes(kSlabSize)).ok());
  Eventually("it has memory", [&] { return servers[1].store().ready() == 1; });
  servers[0].Drain();
  Eventually("one has moved", [&] { return servers[0].store().rented() == 1; });
  const auto requests = [&] { return servers[0].counters().Get(ServerCounter::kRequests); };
  const uint64_t then = requests();
  Eventually("it has been asked again", [&] { return requests() > then + 2; });
  CHECK(servers[0].store().rented() == 1);
  CHECK(pool->health().moved_slabs == 1);
  one.CheckAll();
  two.CheckAll();
  one.WriteAll(3);
  two.WriteAll(4);
  one.CheckAll();
  two.CheckAll();
  REQUIRE(servers[1].Resize(Bytes(2 * kSlabSize)).ok());  // Now there is some.
  Eventually("the other has moved too", [&] { return servers[0].store().rented() == 0; });
  one.CheckAll();
  two.CheckAll();
}

TEST_CASE("the only copy outlives the server that it was moving to") {
  Servers servers(2);
  const auto pool = servers.Connect(1);
  servers[1].Drain();
  Content content(*pool);
  content.WriteAll(1);
  REQUIRE(servers[1].Resize(Bytes(4 * kSlabSize)).ok());
  servers[0].Drain();
  Eventually("it begins to move", [&] { return servers[1].store().rented() == 1; });
  if (pool->health().moved_slabs == 0) {  // Else it was too quick.
    servers.Stop(1);
    if (servers[0].store().rented() == 1) {
      content.CheckAll();
      content.WriteAll(2);
      servers.Restart(1);
      Eventually("it has moved", [&] { return servers[0].store().rented() == 0; });
      content.CheckAll();
    }
  }
}

TEST_CASE("with the server that it was moving from goes what it alone held, loudly") {
  Servers servers(2);
  const auto pool = servers.Connect(1, 6000);
  servers[1].Drain();
  Content moving(*pool);
  moving.WriteAll(1);
  REQUIRE(servers[1].Resize(Bytes(4 * kSlabSize)).ok());
  Eventually("it has memory", [&] { return servers[1].store().ready() == 4; });
  Content other(*pool);  // On the empty one.
  REQUIRE(servers[1].store().rented() == 1);
  other.WriteAll(2);
  servers[0].Drain();
  Eventually("it begins to move", [&] { return servers[1].store().rented() == 2; });
  servers.Stop(0);
  other.CheckAll();
  if (pool->health().moved_slabs == 1) return moving.CheckAll();
  CHECK(moving.Read(0, kRun) == EIO);
  CHECK(moving.Write(0, kRun, 3) != 0);
  Eventually("it counts as lost", [&] { return pool->health().lost_slabs == 1; });
  other.CheckAll();
}

}  // namespace
}  // namespace spiritos
