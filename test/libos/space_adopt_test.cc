// SPDX-License-Identifier: Apache-2.0
// Memory that was there before the space: its bytes, its frames, stores meanwhile.
#include <sys/mman.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "libos/base/mapping.h"
#include "libos/space.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

std::unique_ptr<Space> MakeSpace(Bytes budget, FaultMode mode) {
  Options options;
  options.budget = budget;
  options.fault.mode = mode;
  auto space = Space::Create(options);
  if (!space.ok()) FAIL(space.status().ToString());
  return *std::move(space);
}

// A range of pages that the space will own: it is unmapped with its region.
AddressRange MapPages(Bytes size) {
  return Mapping::Anonymous(size, kZoneSize, "test").value().Release();
}

// Part of a region becomes a hole, and what is mapped there another region.
void ReplaceByNew(Space& space, AddressRange part) {
  REQUIRE(space.Unmap(part).ok());
  void* const at = mmap(part.begin, part.size.raw(), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  REQUIRE(at == part.begin);
  REQUIRE(space.Adopt(part).ok());
}

uint64_t* WordOf(AddressRange range, size_t page) {
  return reinterpret_cast<uint64_t*>(range.begin + page * kPageSize);
}

// Threads that each add to words of their own, and know what these must be.
class Adders {
 public:
  Adders(AddressRange range, uint64_t seed) : range_(range), seed_(seed) {}

  // Runs work(t, random) on every thread.
  template <typename Work>
  void Start(Work work) {
    for (size_t t = 0; t < kThreads; ++t) {
      threads_.emplace_back([this, t, work] {
        std::mt19937_64 random(seed_ + t);
        work(t, random);
      });
    }
  }
  // By thread t.
  void Add(size_t t, size_t page) {
    ++WordOf(range_, page)[t];
    ++expected_[t][page];
  }
  void Join() {
    for (std::thread& thread : threads_) thread.join();
  }
  size_t CountWrong() const {
    size_t wrong = 0;
    for (size_t t = 0; t < kThreads; ++t) {
      for (size_t page = 0; page < pages_; ++page) {
        wrong += WordOf(range_, page)[t] != expected_[t][page];
      }
    }
    return wrong;
  }

 private:
  static constexpr size_t kThreads = 3;
  AddressRange range_;
  uint64_t seed_;
  size_t pages_ = range_.size.raw() / kPageSize;
  std::vector<std::vector<uint64_t>> expected_{kThreads, std::vector<uint64_t>(pages_)};
  std::vector<std::thread> threads_;
};

TEST_CASE("memory that was there keeps its bytes when it becomes far", "[space][uffd]") {
  const auto mode = GENERATE(FaultMode::kSigbus, FaultMode::kThread);
  const bool huge = GENERATE(false, true);
  const Bytes size = 40_MiB + Bytes(3 * kPageSize);  // Its last zone is not whole.
  const AddressRange range = MapPages(size);
  if (huge) REQUIRE(madvise(range.begin, size.raw(), MADV_HUGEPAGE) == 0);
  const size_t pages = size.raw() / kPageSize;
  uint64_t read = 0;
  size_t touched = 0;
  for (size_t page = 0; page < pages; ++page) {
    if (page % 3 == 0) *WordOf(range, page) = page + 1;
    if (page % 3 == 1) read += *WordOf(range, page);
    touched += page % 3 != 2;
  }
  REQUIRE(read == 0);
  auto space = MakeSpace(8_MiB, mode);
  REQUIRE(space->Adopt(range).ok());
  const Stats before = space->GetStats();
  INFO(before.ToText());
  CHECK(before.used_frames <= before.budget);
  CHECK(before[Metric::kEvictedPages] >= touched - 2048);
  CHECK(before.far_pages == PageCount(static_cast<int64_t>(pages)));
  size_t wrong = 0;
  for (size_t page = 0; page < pages; ++page) {
    wrong += *WordOf(range, page) != (page % 3 == 0 ? page + 1 : 0);
  }
  CHECK(wrong == 0);
  space->Drain();
  CHECK(space->GetStats().used_frames <= space->GetStats().budget);
  REQUIRE(space->Unmap(range).ok());
  CHECK(space->GetStats().used_frames == 0_pages);
}

TEST_CASE("two regions in one zone keep out of each other's pages", "[space][uffd]") {
  const AddressRange range = MapPages(16_MiB);
  constexpr size_t kPages = 4096;
  for (size_t page = 0; page < kPages; page += 2) *WordOf(range, page) = page + 1;
  auto space = MakeSpace(4_MiB, FaultMode::kSigbus);
  // The middle of a zone is whole pages of neither: it stays near.
  const AddressRange low{range.begin, Bytes(1500 * kPageSize)};
  const AddressRange high{range.begin + 1510 * kPageSize, Bytes((kPages - 1510) * kPageSize)};
  REQUIRE(space->Adopt(low).ok());
  REQUIRE(space->Adopt(high).ok());
  size_t wrong = 0;
  for (int pass = 0; pass < 3; ++pass) {
    for (size_t page = 0; page < kPages; ++page) {
      uint64_t& word = *WordOf(range, page);
      const uint64_t expected = (page % 2 == 0 ? page + 1 : 0) + static_cast<uint64_t>(pass);
      wrong += word != expected;
      ++word;
    }
  }
  CHECK(wrong == 0);
  CHECK(space->GetStats()[Metric::kEvictedPages] > kPages);
  REQUIRE(space->Unmap({low.begin + kPageSize, low.size - Bytes(kPageSize)}).ok());
  for (size_t page = 1510; page < kPages; ++page) {
    wrong += *WordOf(range, page) != (page % 2 == 0 ? page + 1 : 0) + 3;
  }
  CHECK(*WordOf(range, 0) == 4);
  CHECK(wrong == 0);
  munmap(WordOf(range, 1500), 10 * kPageSize);
}

TEST_CASE("sweeps of regions in one zone lose none of each other's stores", "[space][uffd]") {
  const auto seed = std::random_device()();
  CAPTURE(seed);
  const AddressRange range = MapPages(16_MiB);
  constexpr size_t kPages = 4096;
  constexpr size_t kStripe = 16;
  Options options{.budget = 14_MiB};  // So that what leaves is as likely to be used as any.
  options.remote.emulated_latency_ns = 20'000;  // Frozen pages stay so for a while.
  auto space = Space::Create(options).value();
  // One region has every other stripe, each of the rest is a region of its own: a sweep
  // of the first freezes and thaws to and fro over the others' pages.
  REQUIRE(space->Adopt(range).ok());
  for (size_t page = kStripe; page + kStripe <= kPages; page += 2 * kStripe) {
    ReplaceByNew(*space, {range.begin + page * kPageSize, Bytes(kStripe * kPageSize)});
  }
  Adders adders(range, seed);
  adders.Start([&](size_t t, std::mt19937_64& random) {
    for (uint32_t i = 0; i < Rounds(100'000); ++i) adders.Add(t, random() % kPages);
  });
  adders.Join();
  CHECK(adders.CountWrong() == 0);
  CHECK(space->GetStats()[Metric::kRescues] + space->GetStats()[Metric::kUnfreezes] > 0);
  CHECK(space->GetStats()[Metric::kEvictedPages] > kPages);
}

TEST_CASE("a call on a region and on what lies in its hole treats each as its own",
          "[space][uffd]") {
  const AddressRange range = MapPages(8_MiB);
  constexpr size_t kPages = 2048;
  auto space = MakeSpace(4_MiB, FaultMode::kSigbus);
  REQUIRE(space->Adopt(range).ok());
  ReplaceByNew(*space, {range.begin + 100 * kPageSize, Bytes(200 * kPageSize)});
  for (size_t page = 0; page < kPages; ++page) *WordOf(range, page) = page + 1;
  REQUIRE(space->Discard({range.begin + 50 * kPageSize, Bytes(100 * kPageSize)}).ok());
  size_t wrong = 0;
  for (size_t page = 0; page < kPages; ++page) {
    wrong += *WordOf(range, page) != (page >= 50 && page < 150 ? 0 : page + 1);
  }
  CHECK(wrong == 0);
  REQUIRE(space->Protect(range, PROT_NONE).ok());
  REQUIRE(space->Protect(range, PROT_READ | PROT_WRITE).ok());
  for (size_t page = 150; page < kPages; ++page) wrong += *WordOf(range, page) != page + 1;
  CHECK(wrong == 0);
  REQUIRE(space->Unmap(range).ok());
  CHECK(space->GetStats().used_frames == 0_pages);
}

TEST_CASE("stores while memory becomes far are not lost", "[space][uffd]") {
  const auto mode = GENERATE(FaultMode::kSigbus, FaultMode::kThread);
  const auto seed = std::random_device()();
  CAPTURE(seed);
  const AddressRange range = MapPages(32_MiB);
  const size_t pages = range.size.raw() / kPageSize;
  for (size_t page = 0; page < pages; page += 2) *WordOf(range, page) = 0;
  auto space = MakeSpace(16_MiB, mode);
  std::atomic<uint64_t> steps{0};
  std::atomic<bool> stop{false};
  Adders adders(range, seed);
  adders.Start([&](size_t t, std::mt19937_64& random) {
    while (!stop.load(std::memory_order_relaxed)) {
      adders.Add(t, random() % pages);
      steps.fetch_add(1, std::memory_order_relaxed);
    }
  });
  while (steps.load() < 1000) std::this_thread::yield();
  const absl::Status status = space->Adopt(range);
  const uint64_t since = steps.load();
  while (steps.load() < since + 20000) std::this_thread::yield();
  stop = true;
  adders.Join();
  REQUIRE(status.ok());
  CHECK(adders.CountWrong() == 0);
  CHECK(space->GetStats()[Metric::kEvictedPages] > 0);
}

TEST_CASE("small regions share the pool's slabs", "[space][uffd]") {
  Options options{.budget = 4_MiB};
  options.remote.pool_size = 192_MiB;  // Three slabs.
  auto space = Space::Create(options).value();
  const AddressRange range = MapPages(512_MiB);
  size_t next_page = 0;
  std::vector<AddressRange> regions;
  const auto adopt = [&](size_t pages) {
    const AddressRange part{range.begin + next_page * kPageSize, Bytes(pages * kPageSize)};
    const absl::Status status = space->Adopt(part);
    if (status.ok()) regions.push_back(part);
    next_page += status.ok() ? pages + 5 : 0;  // Regions do not begin at zones.
    return status;
  };
  // 17 zones of 16 in a slab, the rest of the second of which is for others.
  REQUIRE(adopt(16 * kZonePages + 1).ok());
  for (int i = 0; i < 7; ++i) REQUIRE(adopt(kZonePages / 2).ok());
  REQUIRE(adopt(4 * kZonePages).ok());
  while (adopt(kZonePages / 3).ok()) {
  }
  const absl::Status full = adopt(kZonePages / 3);
  CHECK(full.message().find("SPIRITOS_POOL_SIZE") != std::string::npos);
  CHECK(regions.size() > 20);
  size_t wrong = 0;
  for (uint64_t pass = 0; pass < 3; ++pass) {
    for (const AddressRange region : regions) {
      for (size_t page = 0; page < region.size.raw() / kPageSize; ++page) {
        uint64_t& word = *WordOf(region, page);
        wrong += word != pass * (reinterpret_cast<uintptr_t>(&word) + 1);
        word += reinterpret_cast<uintptr_t>(&word) + 1;
      }
    }
  }
  CHECK(wrong == 0);
  CHECK(space->GetStats()[Metric::kEvictedPages] > 17 * kZonePages);
  // With the last region of a slab the slab goes back.
  for (const AddressRange region : regions) REQUIRE(space->Unmap(region).ok());
  regions.clear();
  next_page = 0;
  munmap(range.begin, range.size.raw());
  const AddressRange again = MapPages(128_MiB);
  CHECK(space->Adopt(again).ok());
}

TEST_CASE("a small region that moves keeps off its neighbour's slots", "[space][uffd]") {
  auto space = MakeSpace(4_MiB, FaultMode::kSigbus);
  const AddressRange range = MapPages(16_MiB);
  const AddressRange low{range.begin + 2 * 1024 * 1024, 2_MiB};  // Half a zone.
  const AddressRange high{range.begin + 4 * 1024 * 1024, 12_MiB};
  REQUIRE(space->Adopt(low).ok());
  REQUIRE(space->Adopt(high).ok());
  for (size_t page = 0; page < 512; ++page) *WordOf(low, page) = page + 1;
  for (size_t page = 0; page < 3072; ++page) *WordOf(high, page) = page + 10'000;
  CHECK_FALSE(space->Move(low, 4_MiB).ok());
  const AddressRange moved = space->Move(low, low.size).value();
  CHECK(moved.size == low.size);
  size_t wrong = 0;
  for (size_t page = 0; page < 512; ++page) wrong += (*WordOf(moved, page))++ != page + 1;
  for (size_t page = 0; page < 3072; ++page) wrong += *WordOf(high, page) != page + 10'000;
  for (size_t page = 0; page < 512; ++page) wrong += *WordOf(moved, page) != page + 2;
  CHECK(wrong == 0);
  munmap(range.begin, low.begin - range.begin);
}

TEST_CASE("what cannot be adopted is refused and stays as it is", "[space][uffd]") {
  auto space = MakeSpace(8_MiB, FaultMode::kSigbus);
  const AddressRange range = MapPages(8_MiB);
  *WordOf(range, 5) = 7;
  const auto refused = [&](AddressRange part) { return std::string(space->Adopt(part).message()); };
  CHECK(refused({range.begin, Bytes(100)}).find("whole pages") != std::string::npos);
  REQUIRE(space->Adopt({range.begin, 4_MiB}).ok());
  CHECK(refused(range).find("already") != std::string::npos);
  CHECK(*WordOf(range, 5) == 7);
  Options small;
  small.budget = 8_MiB;
  small.remote.pool_size = 64_MiB;
  auto other = Space::Create(small).value();
  const AddressRange large = MapPages(72_MiB);
  *WordOf(large, 1) = 9;
  CHECK(other->Adopt(large).message().find("SPIRITOS_POOL_SIZE") != std::string::npos);
  CHECK(*WordOf(large, 1) == 9);
  munmap(large.begin, large.size.raw());
  REQUIRE(space->Unmap({range.begin, 4_MiB}).ok());
  munmap(WordOf(range, 1024), 4 << 20);
}

}  // namespace
}  // namespace spiritos
