// SPDX-License-Identifier: Apache-2.0
// AheadStreams: which run comes next, and for whom.
#include "libos/prefetch/ahead_streams.h"

#include <catch2/catch.hpp>
#include <set>
#include <thread>
#include <vector>

#include "test/support/together.h"

namespace spiritos {
namespace {

using Run = AheadStreams::Run;
constexpr uint64_t kFirst = 100 * kZonePages;
constexpr uint32_t kRun = AheadStreams::kRun;

TEST_CASE("helpers get what lies behind the fault's own run, up to the window", "[ahead]") {
  AheadStreams streams;
  CHECK_FALSE(streams.pending());
  REQUIRE(streams.GoOn({Vpn(kFirst), 1, kRun}, 256));
  CHECK(streams.pending());
  // The first window is two runs.
  for (const uint64_t behind : {1u, 2u}) {
    const Run run = streams.Take();
    CHECK(run.first == Vpn(kFirst + behind * kRun));
    CHECK(run.direction == 1);
    CHECK(run.count == kRun);
  }
  CHECK_FALSE(streams.pending());
  CHECK(streams.Take().count == 0);
}

TEST_CASE("a fault where helpers stopped doubles the window, up to the most", "[ahead]") {
  AheadStreams streams;
  uint64_t at = kFirst;
  for (const uint32_t runs : {2u, 4u, 6u, 6u}) {
    REQUIRE(streams.GoOn({Vpn(at), 1, kRun}, 6 * kRun));
    for (uint32_t i = 1; i <= runs; ++i) CHECK(streams.Take().first == Vpn(at + i * kRun));
    CHECK(streams.Take().count == 0);
    at += (runs + 1) * kRun;
    CHECK(streams.DirectionAt(Vpn(at)) == 1);
  }
}

TEST_CASE("streams run backwards too", "[ahead]") {
  AheadStreams streams;
  REQUIRE(streams.GoOn({Vpn(kFirst - 1), -1, kRun}, 64));
  const Run run = streams.Take();
  CHECK(run.first == Vpn(kFirst - 1 - kRun));
  CHECK(run.direction == -1);
  CHECK(streams.DirectionAt(Vpn(kFirst - 1 - 2 * kRun)) == -1);
}

TEST_CASE("a run ends at its zone's edge", "[ahead]") {
  const int32_t direction = GENERATE(1, -1);
  AheadStreams streams;
  // Five pages of the zone are left behind the fault's own run.
  const uint64_t first = direction > 0 ? kFirst - kRun - 5 : kFirst + kRun + 4;
  REQUIRE(streams.GoOn({Vpn(first), direction, kRun}, 64));
  CHECK(streams.Take().count == 5);
  const Run next = streams.Take();
  CHECK(next.first == Vpn(direction > 0 ? kFirst : kFirst - 1));
  CHECK(next.count == kRun);
}

TEST_CASE("a fault on what helpers have in hand gets the run beyond", "[ahead]") {
  AheadStreams streams;
  REQUIRE(streams.GoOn({Vpn(kFirst), 1, kRun}, 64));
  const Run helpers = streams.Take();
  CHECK(streams.TakeBeyond(helpers.first + PageCount(3)).first == helpers.first + PageCount(kRun));
  CHECK(streams.TakeBeyond(helpers.first).count == 0);  // All of the window is in hand.
}

TEST_CASE("faults elsewhere belong to no stream", "[ahead]") {
  AheadStreams streams;
  CHECK(streams.DirectionAt(Vpn(kFirst)) == 0);
  REQUIRE(streams.GoOn({Vpn(kFirst), 1, kRun}, 64));
  CHECK(streams.DirectionAt(Vpn(kFirst + kRun)) == 1);
  CHECK(streams.DirectionAt(Vpn(kFirst + kRun + 1)) == 0);  // Not read in sequence.
  CHECK(streams.DirectionAt(Vpn(kFirst)) == 0);             // Read already.
  CHECK(streams.TakeBeyond(Vpn(kFirst - 500)).count == 0);
  CHECK(streams.TakeBeyond(Vpn(kFirst + 5000)).count == 0);
}

TEST_CASE("no room to fill ahead, no stream", "[ahead]") {
  AheadStreams streams;
  CHECK_FALSE(streams.GoOn({Vpn(kFirst), 1, kRun}, kRun - 1));
  CHECK_FALSE(streams.pending());
  CHECK(streams.DirectionAt(Vpn(kFirst + kRun)) == 0);
}

TEST_CASE("several streams; the least recently faulted gives way", "[ahead]") {
  AheadStreams streams;
  const auto start = [](uint64_t stream) { return kFirst + stream * 10 * kZonePages; };
  for (uint64_t s = 0; s < 9; ++s) REQUIRE(streams.GoOn({Vpn(start(s)), 1, kRun}, 64));
  CHECK(streams.DirectionAt(Vpn(start(0) + kRun)) == 0);
  for (uint64_t s = 1; s < 9; ++s) CHECK(streams.DirectionAt(Vpn(start(s) + kRun)) == 1);
}

TEST_CASE("threads that share a stream share its runs out", "[ahead]") {
  AheadStreams streams;
  constexpr uint32_t kRounds = 500;
  std::atomic<bool> stop{false};
  std::vector<Run> taken[2];
  std::vector<std::thread> helpers;
  for (std::vector<Run>& mine : taken) {
    helpers.emplace_back([&] {
      while (!stop || streams.pending()) {
        const Run run = streams.Take();
        if (run.count != 0) mine.push_back(run);
        if (run.count == 0) std::this_thread::yield();
      }
    });
  }
  uint64_t at = kFirst;
  for (uint32_t round = 0; round < kRounds; ++round) {
    YieldUntil([&] { return streams.GoOn({Vpn(at), 1, kRun}, 2 * kRun); });
    YieldUntil([&] { return !streams.pending(); });
    at += 3 * kRun;
  }
  stop = true;
  for (std::thread& helper : helpers) helper.join();
  std::set<uint64_t> pages;
  uint64_t count = 0;
  for (const std::vector<Run>& mine : taken) {
    for (const Run& run : mine) {
      for (uint64_t i = 0; i < run.count; ++i) pages.insert(run.first.raw() + i);
      count += run.count;
    }
  }
  CHECK(count == kRounds * 2 * kRun);
  CHECK(pages.size() == count);  // No page twice.
}

}  // namespace
}  // namespace spiritos
