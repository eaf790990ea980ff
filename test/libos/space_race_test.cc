// SPDX-License-Identifier: Apache-2.0
// Races of faults, stores and sweeps that are led to their narrow places: a
// rescuer stopped half-way, a page hammered while it leaves, many faults on one
// page, pinned buffers that the kernel writes into.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <thread>
#include <vector>

#include "libos/base/clock.h"
#include "libos/base/failpoint.h"
#include "test/support/space_peer.h"
#include "test/support/together.h"
#include "test/support/unruly_pool.h"

namespace spiritos {
namespace {

std::unique_ptr<Space> MakeSpace(const Options& options) {
  auto space = Space::Create(options);
  if (!space.ok()) FAIL(space.status().ToString());
  return *std::move(space);
}

std::atomic_ref<uint64_t> WordOf(AddressRange region, uint64_t page, size_t word = 0) {
  return std::atomic_ref<uint64_t>(
      *reinterpret_cast<uint64_t*>(region.begin + page * kPageSize + word * 8));
}

// Pages of the region that the kernel holds in memory.
uint64_t ResidentPages(AddressRange region) {
  std::vector<unsigned char> present(region.size.raw() / kPageSize);
  REQUIRE(mincore(region.begin, region.size.raw(), present.data()) == 0);
  uint64_t count = 0;
  for (const unsigned char page : present) count += page & 1;
  return count;
}

#ifdef SPIRITOS_FAILPOINTS

// A gate that threads stop at, one by one let through.
struct Gate {
  std::atomic<uint32_t> arrived{0};
  std::atomic<uint32_t> passed{0};
  void Stop() {
    const uint32_t turn = arrived.fetch_add(1);
    YieldUntil([&] { return passed.load() > turn; });
  }
  void AwaitArrival(uint32_t n) {
    YieldUntil([&] { return arrived.load() >= n; });
  }
};

TEST_CASE("a pin that comes during a discard is refused nothing and loses nothing",
          "[space][race][uffd]") {
  static Gate owned;
  static Gate claimed;
  owned.arrived = owned.passed = claimed.arrived = claimed.passed = 0;
  auto space = MakeSpace(Options{.budget = 16_MiB});
  const AddressRange region = space->CreateRegion(4_MiB).value();
  const AddressRange pages{region.begin, Bytes(16 * kPageSize)};
  const AddressRange middle{region.begin + 7 * kPageSize, Bytes(kPageSize)};
  for (uint64_t page = 0; page < 1024; ++page) WordOf(region, page) = page + 1;
  Failpoints::SetPause(PausePoint::kRangeOwned, [] { owned.Stop(); });
  Failpoints::SetPause(PausePoint::kRangeClaimed, [] { claimed.Stop(); });

  // Before the discard has claimed the pages: the pin stands, the discard fails.
  absl::Status status;
  std::thread discarder([&] { status = space->Discard(pages); });
  owned.AwaitArrival(1);
  CHECK(space->Pin(middle).ok());
  owned.passed = 1;
  discarder.join();
  CHECK(absl::IsFailedPrecondition(status));
  for (uint64_t page = 0; page < 16; ++page) CHECK(WordOf(region, page) == page + 1);
  space->Unpin(middle);

  // After it: the pin waits, and pins a page of zeroes.
  discarder = std::thread([&] { status = space->Discard(pages); });
  owned.AwaitArrival(2);
  owned.passed = 2;
  claimed.AwaitArrival(1);
  std::atomic<bool> pinned{false};
  uint64_t found = 1;
  std::thread pinner([&] {
    pinned = space->Pin(middle).ok();
    found = WordOf(region, 7);
    if (pinned) space->Unpin(middle);
  });
  YieldUntil([&] { return space->GetStats()[Metric::kFaultWaits] != 0; });
  CHECK_FALSE(pinned);
  claimed.passed = 1;
  discarder.join();
  pinner.join();
  CHECK(pinned);
  CHECK(found == 0);
  Failpoints::SetPause(PausePoint::kRangeOwned, nullptr);
  Failpoints::SetPause(PausePoint::kRangeClaimed, nullptr);
  CHECK(status.ok());
  for (uint64_t page = 0; page < 16; ++page) CHECK(WordOf(region, page) == 0);
  CHECK(WordOf(region, 16) == 17);
}

TEST_CASE("a fault that claims a page of a range call gives it back before it is set",
          "[space][race][uffd]") {
  static Gate owned;
  static Gate claimed;
  owned.arrived = owned.passed = claimed.arrived = claimed.passed = 0;
  Options options{.budget = 16_MiB};
  options.prefetch.kind = PrefetchOptions::Kind::kNone;
  auto space = MakeSpace(options);
  const AddressRange region = space->CreateRegion(4_MiB).value();
  for (uint64_t page = 0; page < 1024; ++page) WordOf(region, page) = page + 1;
  REQUIRE(space->Evict(region).ok());

  // The discard owns the zone; only then the fault claims the page.
  Failpoints::SetPause(PausePoint::kRangeOwned, [] { owned.Stop(); });
  absl::Status status;
  std::thread discarder([&] {
    status = space->Discard({region.begin + 7 * kPageSize, Bytes(kPageSize)});
  });
  owned.AwaitArrival(1);
  Failpoints::SetPause(PausePoint::kPageClaimed, [] { claimed.Stop(); });
  uint64_t found = 1;
  std::thread reader([&] { found = WordOf(region, 7); });
  claimed.AwaitArrival(1);
  owned.passed = 1;
  // Turns enough for a call that would not wait for the claim.
  for (int turn = 0; turn < 1000; ++turn) sched_yield();
  claimed.passed = UINT32_MAX;
  discarder.join();
  reader.join();
  Failpoints::SetPause(PausePoint::kRangeOwned, nullptr);
  Failpoints::SetPause(PausePoint::kPageClaimed, nullptr);
  CHECK(status.ok());
  CHECK(found == 0);
  CHECK(WordOf(region, 8) == 9);
}

TEST_CASE("a budget that shrinks waits for zones that other sweeps own", "[space][race][uffd]") {
  static Gate sweeping;
  static thread_local bool passes = false;
  sweeping.arrived = sweeping.passed = 0;
  Options options{.budget = 10_MiB};
  options.evict.max_evictors = 0;
  options.evict.assist = EvictOptions::Assist::kAlways;
  auto space = MakeSpace(options);
  const AddressRange region = space->CreateRegion(16_MiB).value();
  // Every frame taken: two zones that may leave, and half a zone pinned.
  const AddressRange kept{region.begin + 2 * kZoneSize, Bytes(kZoneSize / 2)};
  const absl::Status pinned = space->Pin(kept);
  INFO(pinned.ToString());
  REQUIRE(pinned.ok());
  for (uint64_t page = 0; page < 2560; ++page) WordOf(region, page) = page + 1;

  // Two threads run out of frames, sweep those two zones and stop there.
  Failpoints::SetPause(PausePoint::kBeforeDrop, [] {
    if (!passes) sweeping.Stop();
  });
  std::vector<std::thread> writers;
  for (const uint64_t first : {2560, 3328}) {
    writers.emplace_back([&, first] {
      for (uint64_t page = first; page < first + 768 && sweeping.arrived.load() < 2; ++page) {
        WordOf(region, page) = page + 1;
      }
    });
  }
  sweeping.AwaitArrival(2);
  absl::Status status;
  std::atomic<bool> done{false};
  std::thread setter([&] {
    passes = true;
    status = space->SetBudget(6_MiB);
    done = true;
  });
  // Time enough for a call that takes what it cannot see for pinned.
  const uint64_t deadline = NowNs() + 100 * 1'000'000;
  YieldUntil([&] { return done.load() || NowNs() > deadline; });
  CHECK_FALSE(done);
  sweeping.passed = UINT32_MAX;
  setter.join();
  for (std::thread& writer : writers) writer.join();
  Failpoints::SetPause(PausePoint::kBeforeDrop, nullptr);
  INFO(status.ToString());
  CHECK(status.ok());
  CHECK(space->budget() == 6_MiB);
  uint64_t wrong = 0;
  for (uint64_t page = 0; page < 2560; ++page) wrong += WordOf(region, page) != page + 1;
  CHECK(wrong == 0);
  space->Unpin(kept);
}

TEST_CASE("a rescuer stopped between claim and ioctl for two sweeps loses nothing",
          "[space][race][uffd]") {
  static Gate frozen;
  static Gate rescue;
  for (const bool oldest : {false, true}) {
    frozen.arrived = frozen.passed = rescue.arrived = rescue.passed = 0;
    Options options{.budget = 16_MiB};
    options.fault.oldest_calls = oldest;
    options.prefetch.kind = PrefetchOptions::Kind::kNone;  // Nothing comes back by itself.
    auto space = MakeSpace(options);
    const AddressRange region = space->CreateRegion(4_MiB).value();
    constexpr uint64_t kPage = 500;
    constexpr uint32_t kSweeps = 3;
    for (uint64_t page = 0; page < 1024; ++page) WordOf(region, page) = page + 1;

    // The first sweep stops once the zone is frozen; the store finds it so.
    Failpoints::SetPause(PausePoint::kFrozen, [] { frozen.Stop(); });
    Failpoints::SetPause(PausePoint::kRescueClaimed, [] { rescue.Stop(); });
    std::atomic<uint32_t> swept{0};
    std::atomic<uint32_t> go{1};
    std::atomic<uint32_t> failed{0};
    std::thread sweeper([&] {
      for (uint32_t sweep = 0; sweep < kSweeps; ++sweep) {
        YieldUntil([&] { return go.load() > sweep; });
        failed += !space->Evict(region).ok();
        swept.fetch_add(1);
      }
    });
    frozen.AwaitArrival(1);
    std::thread writer([&] { WordOf(region, kPage, 7) = 77; });
    rescue.AwaitArrival(1);
    // The sweep that was met ends, and two whole ones come and go, each with the
    // other pages back in memory.
    for (uint32_t sweep = 1; sweep <= kSweeps; ++sweep) {
      frozen.passed = sweep;
      YieldUntil([&] { return swept.load() == sweep; });
      CHECK(ResidentPages(region) == 1);
      CHECK(SpaceTestPeer::WordOf(*space, region.begin + kPage * kPageSize).state() ==
            PageState::kThawing);
      for (uint64_t page = 0; page < 1024; ++page) {
        if (page != kPage) WordOf(region, page, 1) = WordOf(region, page, 1) + 1;
      }
      go = sweep + 1;
    }
    sweeper.join();
    rescue.passed = 1;
    writer.join();
    Failpoints::SetPause(PausePoint::kFrozen, nullptr);
    Failpoints::SetPause(PausePoint::kRescueClaimed, nullptr);

    REQUIRE(space->Evict(region).ok());
    CHECK(space->GetStats().used_frames == 0_pages);
    uint64_t wrong = 0;
    for (uint64_t page = 0; page < 1024; ++page) {
      wrong += WordOf(region, page).load() != page + 1;
      if (page != kPage) wrong += WordOf(region, page, 1).load() != kSweeps;
    }
    CHECK(wrong == 0);
    CHECK(failed == 0);
    CHECK(WordOf(region, kPage, 7).load() == 77);
  }
}

#endif

TEST_CASE("a page hammered while it leaves loses no increment", "[space][race][uffd]") {
  // At a distance, so that writes are in flight while stores come.
  auto owned = std::make_unique<UnrulyPool>(1, TestSeed());
  UnrulyPool& pool = *owned;
  auto made = SpaceTestPeer::Create({.budget = 8_MiB}, std::move(owned));
  REQUIRE(made.ok());
  Space& space = **made;
  const AddressRange region = space.CreateRegion(4_MiB).value();
  const AddressRange page{region.begin, Bytes(kPageSize)};
  const uint64_t increments = Rounds(10'000'000);
  const uint64_t evictions = Rounds(50'000);
  const uint64_t rescues = Rounds(1'000);
  std::atomic<bool> done{false};
  std::thread sweeper([&] {
    while (!done.load()) static_cast<void>(space.Evict(page));
  });
  // Plain load and store, as ++ is: what a lost write loses.
  auto counter = WordOf(region, 0, 3);
  uint64_t count = 0;
  bool enough = false;
  std::minstd_rand random(static_cast<unsigned>(TestSeed()));
  while (!enough) {
    for (int i = 0; i < 100; ++i, ++count) {
      counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }
    // Stores without a pause would take the page back each time, before its write
    // is posted: so the next burst meets any stage.
    for (uint32_t pause = random() % 4096; pause != 0; --pause) CpuRelax();
    if (count % 10'000 != 0) continue;
    const Stats stats = space.GetStats();
    enough = count >= increments && stats[Metric::kEvictedPages] >= evictions &&
             stats[Metric::kRescuesInFlight] >= rescues;
  }
  done = true;
  sweeper.join();
  const Stats stats = space.GetStats();
  UNSCOPED_INFO(count << " increments, " << stats[Metric::kEvictedPages] << " evictions, "
                      << stats[Metric::kRescues] << " rescues, " << stats[Metric::kRescuesInFlight]
                      << " in flight");
  CHECK(counter.load() == count);
  REQUIRE(space.Evict(page).ok());
  CHECK(counter.load() == count);
  CHECK(pool.trespasses().empty());
  CHECK(stats[Metric::kEvictedPages] >= evictions);
  CHECK(stats[Metric::kRescuesInFlight] >= rescues);
}

TEST_CASE("many faults on one page fetch it once", "[space][race][uffd]") {
  for (const FaultMode mode : {FaultMode::kSigbus, FaultMode::kThread}) {
    auto owned = std::make_unique<UnrulyPool>(1, TestSeed());
    UnrulyPool& pool = *owned;
    Options options{.budget = 8_MiB};
    options.fault.mode = mode;
    options.prefetch.kind = PrefetchOptions::Kind::kNone;
    auto made = SpaceTestPeer::Create(options, std::move(owned));
    REQUIRE(made.ok());
    Space& space = **made;
    const AddressRange region = space.CreateRegion(4_MiB).value();
    constexpr uint32_t kThreads = 6;
    const uint32_t rounds = Rounds(500);
    std::atomic<uint64_t> wrong{0};
    for (uint64_t p = 0; p < 8; ++p) WordOf(region, p * 100) = p + 1;
    std::atomic<uint32_t> at_start{0};
    RunTogether(kThreads, [&](uint32_t thread) {
      for (uint32_t round = 0; round < rounds; ++round) {
        // All of them, then one sends the page away, then all of them again.
        at_start.fetch_add(1);
        YieldUntil([&] { return at_start.load() >= (2 * round + 1) * kThreads; });
        if (thread == round % kThreads) wrong += !space.Evict(region).ok();
        at_start.fetch_add(1);
        YieldUntil([&] { return at_start.load() >= (2 * round + 2) * kThreads; });
        wrong += WordOf(region, round % 8 * 100).load() != round % 8 + 1;
      }
    });
    CHECK(wrong == 0);
    const Stats stats = space.GetStats();
    INFO("mode " << (mode == FaultMode::kSigbus ? "sigbus" : "thread"));
    // A handler thread that was overtaken serves its event when nobody waits for it
    // any more, and the page may have left again: it cannot know.
    const uint64_t overtaken = mode == FaultMode::kThread ? 1 + rounds / 50 : 0;
    CHECK(stats[Metric::kFetches] >= rounds);
    CHECK(stats[Metric::kFetches] <= rounds + overtaken);
    CHECK(pool.reads() == stats[Metric::kFetches]);
    CHECK(pool.trespasses().empty());
  }
}

TEST_CASE("buffers of threads blocked in read(2) stay, and the budget is held",
          "[space][race][uffd]") {
  Options options{.budget = 8_MiB};
  auto space = MakeSpace(options);
  const AddressRange region = space->CreateRegion(32_MiB).value();  // Eight zones.
  constexpr uint32_t kReaders = 24;                                 // More than zones.
  const auto buffer_page = [](uint32_t reader) { return uint64_t{reader} * 331; };
  std::array<std::array<int, 2>, kReaders> pipes;
  for (auto& ends : pipes) REQUIRE(pipe(ends.data()) == 0);
  std::atomic<uint32_t> reading{0};
  std::atomic<uint32_t> failed{0};
  std::vector<std::thread> readers;
  for (uint32_t r = 0; r < kReaders; ++r) {
    readers.emplace_back([&, r] {
      std::byte* const page = region.begin + buffer_page(r) * kPageSize;
      const AddressRange buffer{page, Bytes(kPageSize)};
      failed += !space->Pin(buffer).ok();
      reading.fetch_add(1);
      uint64_t value = 0;
      for (size_t word = 0; word < 4; ++word) {
        failed += read(pipes[r][0], page + word * 8, 8) != 8;
        std::memcpy(&value, page + word * 8, 8);
        failed += value != r * 1000 + word;
      }
      space->Unpin(buffer);
    });
  }
  YieldUntil([&] { return reading.load() == kReaders; });
  // Everything else is written again and again: the evictor has no rest, and
  // freezes around the buffers all the time.
  const uint64_t pages = region.size.raw() / kPageSize;
  const auto is_buffer = [&](uint64_t page) { return page % 331 == 0 && page / 331 < kReaders; };
  uint64_t most_resident = 0;
  const uint64_t rounds = Rounds(8);
  for (uint64_t round = 1; round <= rounds; ++round) {
    for (uint64_t i = 0; i < pages; ++i) {
      const uint64_t page = i * 1543 % pages;
      if (is_buffer(page)) continue;
      WordOf(region, page, 9) = page * rounds + round;
      if (i % 2048 == 0) most_resident = std::max(most_resident, ResidentPages(region));
    }
    // A word for each of them, half-way: they are still there, and block again.
    for (uint32_t r = 0; r < kReaders && round <= 4; ++r) {
      const uint64_t value = r * 1000 + (round - 1);
      REQUIRE(write(pipes[r][1], &value, 8) == 8);
    }
  }
  for (uint64_t word = std::min<uint64_t>(rounds, 4); word < 4; ++word) {
    for (uint32_t r = 0; r < kReaders; ++r) {
      const uint64_t value = r * 1000 + word;
      REQUIRE(write(pipes[r][1], &value, 8) == 8);
    }
  }
  for (std::thread& reader : readers) reader.join();
  for (auto& ends : pipes) {
    close(ends[0]);
    close(ends[1]);
  }
  CHECK(failed == 0);
  CHECK(most_resident <= 2048);
  CHECK(most_resident > 2048 / 2);
  uint64_t wrong = 0;
  for (uint64_t page = 0; page < pages; ++page) {
    if (!is_buffer(page)) wrong += WordOf(region, page, 9).load() != page * rounds + rounds;
  }
  CHECK(wrong == 0);
  space->Drain();
  CHECK(SpaceTestPeer::Count(*space).in_motion() == 0);
}

}  // namespace
}  // namespace spiritos
