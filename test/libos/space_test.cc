// SPDX-License-Identifier: Apache-2.0
// Space on this machine's kernel: loads, stores and range calls against a shadow.
#include "libos/space.h"

#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <random>

#include "libos/base/core.h"
#include "test/support/space_peer.h"

namespace spiritos {
namespace {

std::unique_ptr<Space> MakeSpace(Bytes budget) {
  Options options;
  options.budget = budget;
  auto space = Space::Create(options);
  if (!space.ok()) FAIL(space.status().ToString());
  return *std::move(space);
}

TEST_CASE("a region larger than the budget keeps every byte", "[space][uffd]") {
  auto space = MakeSpace(8_MiB);
  INFO(space->description());
  const AddressRange region = space->CreateRegion(64_MiB).value();
  auto* words = reinterpret_cast<uint64_t*>(region.begin);
  const size_t count = region.size.raw() / 8;
  for (size_t i = 0; i < count; i += 64) words[i] = i * 0x9E3779B97F4A7C15ull;
  size_t wrong = 0;
  for (size_t i = 0; i < count; i += 64) wrong += words[i] != i * 0x9E3779B97F4A7C15ull;
  CHECK(wrong == 0);
  space->Drain();
  const Stats stats = space->GetStats();
  INFO(stats.ToText());
  CHECK(stats.used_frames <= stats.budget);
  CHECK(stats[Metric::kEvictedPages] >= 64 * 256 - 2048);
  CHECK(stats[Metric::kWrittenPages] >= 64 * 256 - 2048);
  CHECK(stats[Metric::kLostPages] == 0);
}

TEST_CASE("a page never written reads as zeroes, evicted or not", "[space][uffd]") {
  auto space = MakeSpace(4_MiB);
  const AddressRange region = space->CreateRegion(32_MiB).value();
  for (int pass = 0; pass < 3; ++pass) {
    uint64_t sum = 0;
    for (size_t at = 0; at < region.size.raw(); at += 512) {
      sum += static_cast<uint64_t>(region.begin[at]);
    }
    CHECK(sum == 0);
  }
  CHECK(space->GetStats()[Metric::kWrittenPages] == 0);
}

TEST_CASE("a clean page is dropped without a write", "[space][uffd]") {
  auto space = MakeSpace(4_MiB);
  const AddressRange region = space->CreateRegion(16_MiB).value();
  for (size_t at = 0; at < region.size.raw(); at += kPageSize) region.begin[at] = std::byte{7};
  REQUIRE(space->Evict(region).ok());
  const uint64_t written = space->GetStats()[Metric::kWrittenPages];
  CHECK(written == 4096);
  uint64_t sum = 0;
  for (size_t at = 0; at < region.size.raw(); at += kPageSize) {
    sum += static_cast<uint64_t>(region.begin[at]);
  }
  CHECK(sum == 7 * 4096);
  REQUIRE(space->Evict(region).ok());
  const Stats stats = space->GetStats();
  CHECK(stats[Metric::kWrittenPages] == written);
  CHECK(stats.used_frames == 0_pages);
}

TEST_CASE("where there is a CPU to spare, evictors fill ahead of streams", "[space][uffd]") {
  if (UsableCores() < 2) {
    WARN("one CPU: nobody fills ahead");
    return;
  }
  const int64_t step = GENERATE(1, -1);
  CAPTURE(step);
  Options options{.budget = 16_MiB};
  options.evict.assist = EvictOptions::Assist::kNever;  // However busy the machine is.
  auto space = Space::Create(options).value();
  const AddressRange region = space->CreateRegion(64_MiB).value();
  const uint64_t pages = region.size.raw() / kPageSize;
  const auto word = [&](uint64_t page) -> volatile uint64_t& {
    return *reinterpret_cast<volatile uint64_t*>(region.begin + page * kPageSize);
  };
  const auto pass = [&](auto&& visit) {
    for (uint64_t i = 0; i < pages; ++i) visit(step > 0 ? i : pages - 1 - i);
  };
  pass([&](uint64_t page) { word(page) = page + 1; });
  constexpr uint64_t kEnough = 256;
  uint64_t wrong = 0;
  uint64_t passes = 0;
  while (space->GetStats()[Metric::kHelpedPages] < kEnough && ++passes < 1000) {
    pass([&](uint64_t page) { wrong += word(page) != page + 1; });
  }
  CHECK(wrong == 0);
  const Stats stats = space->GetStats();
  CHECK(stats[Metric::kHelpedPages] >= kEnough);
  CHECK(stats[Metric::kPrefetchedPages] >= stats[Metric::kHelpedPages]);
  // What was filled for nobody: the end of a pass, and what left before it was read.
  CHECK(stats[Metric::kFetchedPages] < passes * (pages + pages / 8));
}

TEST_CASE("after a drain no page is on its way, whatever evictors were at", "[space][uffd]") {
  Options options;
  options.budget = 64_MiB;  // Evictors take several zones to free what they want free.
  options.remote.emulated_latency_ns = 5'000'000;
  auto space = Space::Create(options).value();
  const AddressRange region = space->CreateRegion(512_MiB).value();
  size_t page = 0;
  uint64_t in_motion = 0;
  for (uint32_t round = 0; round < 20; ++round) {
    // First touches need no reads, and are faster than evictors at that distance.
    for (int i = 0; i < 5000; ++i) region.begin[page++ * kPageSize] = std::byte{1};
    space->Drain();
    in_motion += SpaceTestPeer::Count(*space).in_motion();
  }
  CHECK(in_motion == 0);
}

TEST_CASE("the middle of a region moves, and what stays keeps its slots", "[space][uffd]") {
  auto space = MakeSpace(8_MiB);
  const AddressRange region = space->CreateRegion(16_MiB).value();
  const auto word = [](std::byte * begin, uint64_t page) -> volatile uint64_t& {
    return *reinterpret_cast<volatile uint64_t*>(begin + page * kPageSize);
  };
  constexpr uint64_t kPages = 4096;
  for (uint64_t page = 0; page < kPages; ++page) word(region.begin, page) = page + 1;
  const AddressRange middle{region.begin + 1100 * kPageSize, Bytes(100 * kPageSize)};
  const AddressRange moved = space->Move(middle, middle.size).value();
  REQUIRE(moved.size == middle.size);
  for (uint64_t page = 0; page < 100; ++page) word(moved.begin, page) = page + 7;
  uint64_t wrong = 0;
  for (int pass = 0; pass < 2; ++pass) {
    for (uint64_t page = 0; page < 100; ++page) wrong += word(moved.begin, page) != page + 7;
    for (uint64_t page = 0; page < kPages; ++page) {
      if (page >= 1100 && page < 1200) continue;
      wrong += word(region.begin, page) != page + 1;
    }
  }
  CHECK(wrong == 0);
  CHECK(absl::IsInvalidArgument(space->Move(moved, 4_MiB).status()));
  // Ranges with a hole in them are no ranges of the space; nothing is changed.
  CHECK(absl::IsInvalidArgument(space->Discard(region)));
  CHECK(word(region.begin, 0) == 1);
  // And a space whose regions have holes ends in peace.
}

TEST_CASE("pages that are discarded under PROT_NONE come back as zeroes", "[space][uffd]") {
  auto space = MakeSpace(8_MiB);
  const AddressRange region = space->CreateRegion(4_MiB).value();
  auto* const words = reinterpret_cast<volatile uint64_t*>(region.begin);
  for (size_t page = 0; page < 1024; ++page) words[page * 512] = page + 1;
  const AddressRange half{region.begin, 2_MiB};
  REQUIRE(space->Protect(half, PROT_NONE).ok());
  REQUIRE(space->Discard({region.begin, 1_MiB}).ok());
  REQUIRE(space->Protect(half, PROT_READ | PROT_WRITE).ok());
  uint64_t wrong = 0;
  for (size_t page = 0; page < 1024; ++page) {
    wrong += words[page * 512] != (page < 256 ? 0 : page + 1);
  }
  CHECK(wrong == 0);
}

}  // namespace
}  // namespace spiritos
