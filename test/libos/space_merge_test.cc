// SPDX-License-Identifier: Apache-2.0
// Merging: what was shared and is so no more becomes one place of each slab again, and
// nothing of it is written to before.
#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "libos/remote/embedded_backend.h"
#include "test/support/space_peer.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

// An embedded pool that says which slabs others have, and sees every write to those. Some
// of its calls come from signal handlers: it allocates nothing there.
class SharingPool final : public RemoteBackend {
 public:
  SharingPool(bool addressable, std::unique_ptr<EmbeddedBackend> inner)
      : addressable_(addressable), inner_(std::move(inner)) {}

  IoResult PlaceSlab(SlotId* first) noexcept override {
    const IoResult result = inner_->PlaceSlab(first);
    if (result == IoResult::kOk) At(*first).placed = true;
    return result;
  }
  void ReleaseSlab(SlotId first) noexcept override {
    const std::lock_guard guard(mutex_);
    At(first).placed = false;
    if (!At(first).shared) inner_->ReleaseSlab(first);  // Else the others have it still.
  }
  bool addressable() const override { return addressable_; }
  std::byte* Direct(SlotId slot) noexcept override {
    return addressable_ ? inner_->Direct(slot) : nullptr;
  }
  IoResult Submit(IoRequest& request) noexcept override {
    if (request.op == IoOp::kWrite && shared(request.first)) ++trespasses;
    return inner_->Submit(request);
  }
  bool Poll(Lane) noexcept override { return false; }
  void Wait(IoRequest&) noexcept override {}
  void Forget(SlotId first, uint32_t pages) noexcept override {
    if (shared(first)) ++trespasses;
    inner_->Forget(first, pages);
  }
  bool shared(SlotId slot) noexcept override { return At(slot).shared; }
  Bytes capacity() const override { return inner_->capacity(); }
  std::string description() const override { return "shared"; }

  // All that is placed now; what each slot holds is remembered. REQUIRES: all is at rest.
  void ShareAll() {
    for (size_t i = 0; i < kSlabs; ++i) {
      Slab& slab = slabs_[i];
      slab.shared = slab.placed.load();
      if (!slab.shared) continue;
      const std::byte* const bytes = inner_->Direct(SlotId(i * kSlabPages));
      slab.copy.assign(bytes, bytes + kSlabSize);
    }
  }
  // Whether the others' bytes are as they were.
  bool Untouched() {
    for (size_t i = 0; i < kSlabs; ++i) {
      const std::byte* const bytes = inner_->Direct(SlotId(i * kSlabPages));
      if (slabs_[i].shared && std::memcmp(bytes, slabs_[i].copy.data(), kSlabSize) != 0) {
        return false;
      }
    }
    return true;
  }
  void ShareNone() {
    const std::lock_guard guard(mutex_);
    for (size_t i = 0; i < kSlabs; ++i) {
      if (slabs_[i].shared && !slabs_[i].placed) inner_->ReleaseSlab(SlotId(i * kSlabPages));
      slabs_[i].shared = false;
    }
  }
  size_t placed() const {
    return static_cast<size_t>(std::count_if(slabs_.begin(), slabs_.end(),
                                             [](const Slab& slab) { return slab.placed.load(); }));
  }
  std::atomic<uint64_t> trespasses{0};

 private:
  static constexpr size_t kSlabs = 16;
  struct Slab {
    std::atomic<bool> placed{false};
    std::atomic<bool> shared{false};
    std::vector<std::byte> copy;
  };
  Slab& At(SlotId slot) { return slabs_[slot.raw() / kSlabPages]; }

  const bool addressable_;
  const std::unique_ptr<EmbeddedBackend> inner_;
  std::array<Slab, kSlabs> slabs_;
  std::mutex mutex_;  // Whose it is to give a slab back.
};

constexpr uint64_t kPages = 20'000;  // In two slabs.

class MergeRig {
 public:
  explicit MergeRig(bool addressable, uint64_t slabs = 16) {
    auto made = std::make_unique<SharingPool>(
        addressable, EmbeddedBackend::Create(Bytes(slabs * kSlabSize)).value());
    pool = made.get();
    Options options{.budget = 16_MiB};
    space = SpaceTestPeer::Create(options, std::move(made)).value();
    region = space->CreateRegion(BytesOf(PageCount(kPages))).value();
  }
  volatile uint64_t& Word(uint64_t page) const {
    return *reinterpret_cast<volatile uint64_t*>(region.begin + page * kPageSize);
  }
  // All goes to the pool, which others share from then on.
  void Fork() const {
    SpaceTestPeer::BeginGenerationAtRest(*space, [this] { pool->ShareAll(); });
  }
  SharingPool* pool;
  std::unique_ptr<Space> space;
  AddressRange region;
};

TEST_CASE("after forks every slab has one place again, and every page its bytes", "[space]") {
  const bool addressable = GENERATE(true, false);
  const MergeRig rig(addressable);
  const auto seed = TestSeed();
  CAPTURE(addressable, seed);
  std::mt19937_64 random(seed);
  std::vector<uint64_t> expected(kPages);
  const auto store = [&](uint64_t one_in) {
    for (uint64_t page = 0; page < kPages; ++page) {
      if (random() % one_in == 0) rig.Word(page) = expected[page] = random() | 1;
    }
  };
  const auto wrong = [&] {
    uint64_t count = 0;
    for (uint64_t page = 0; page < kPages; ++page) count += rig.Word(page) != expected[page];
    return count;
  };
  store(1);
  for (int fork = 0; fork < 4; ++fork) {
    rig.Fork();
    store(3);
    // Some are out of reach, some given up while it is shared.
    const AddressRange hidden{rig.region.begin + 300 * kPageSize, Bytes(50 * kPageSize)};
    const AddressRange gone{rig.region.begin + 900 * kPageSize, Bytes(64 * kPageSize)};
    REQUIRE(rig.space->Protect(hidden, 0).ok());
    REQUIRE(rig.space->Discard(gone).ok());
    std::fill_n(expected.begin() + 900, 64, 0);
    CHECK(SpaceTestPeer::Merge(*rig.space));  // Nothing yet: others have it.
    CHECK(rig.pool->Untouched());
    CHECK(rig.pool->placed() > 2);
    rig.pool->ShareNone();
    for (int pass = 0; SpaceTestPeer::Merge(*rig.space); ++pass) REQUIRE(pass < 100);
    CHECK(rig.pool->placed() == 2);
    REQUIRE(rig.space->Protect(hidden, 3).ok());
    CHECK(wrong() == 0);
  }
  CHECK(rig.pool->trespasses == 0);
  CHECK(rig.space->GetStats()[Metric::kMergedPages] > kPages / 4);
  CHECK(rig.space->GetStats()[Metric::kCorruptPages] == 0);
}

TEST_CASE("what finds no room beside what is shared stays here, with its bytes", "[space]") {
  const bool addressable = GENERATE(true, false);
  const MergeRig rig(addressable, 2);  // As much as the region needs by itself.
  for (uint64_t page = 0; page < kPages; ++page) rig.Word(page) = page + 1;
  REQUIRE(rig.space->Evict(rig.region).ok());
  rig.Fork();
  // Of pages that have old bytes in the pool, as many as fit.
  constexpr uint64_t kStored = 1000;
  for (uint64_t page = 0; page < kStored; ++page) rig.Word(page) = page + 1'000'000;
  static_cast<void>(rig.space->Evict(rig.region));
  uint64_t wrong = 0;
  for (uint64_t page = 0; page < kPages; ++page) {
    wrong += rig.Word(page) != page + (page < kStored ? 1'000'000 : 1);
  }
  CHECK(wrong == 0);
  CHECK(rig.pool->Untouched());
  CHECK(rig.space->GetStats()[Metric::kWriteErrors] >= kStored);
  rig.pool->ShareNone();
  for (int pass = 0; SpaceTestPeer::Merge(*rig.space); ++pass) REQUIRE(pass < 100);
  REQUIRE(rig.space->Evict(rig.region).ok());
  for (uint64_t page = 0; page < kStored; ++page) wrong += rig.Word(page) != page + 1'000'000;
  CHECK(wrong == 0);
}

TEST_CASE("forks that end and merges amid other threads' stores", "[space]") {
  const bool addressable = GENERATE(true, false);
  const MergeRig rig(addressable);
  for (uint64_t page = 0; page < kPages; ++page) rig.Word(page) = 0;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> wrong{0};
  constexpr uint64_t kThreads = 3;
  std::vector<std::thread> threads;
  const auto seed = TestSeed();
  std::mt19937_64 random(seed + kThreads);
  CAPTURE(addressable, seed);
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(seed + t);
      std::vector<uint64_t> mine(kPages);
      while (!stop) {
        const uint64_t page = random() % (kPages / kThreads) * kThreads + t;
        if (page >= kPages) continue;
        if (rig.Word(page) != mine[page]) ++wrong;
        if (random() % 2 == 0) rig.Word(page) = mine[page] = random();
      }
      for (uint64_t page = t; page < kPages; page += kThreads)
        wrong += rig.Word(page) != mine[page];
    });
  }
  // Forks come in the middle of merges, too. Between two of them, pages leave: a merge owns
  // each zone for a while, and one after the other would leave the stores no time.
  std::atomic<uint64_t> complete{0};
  std::thread merger([&] {
    while (!stop) {
      if (!SpaceTestPeer::Merge(*rig.space)) ++complete;
      const uint64_t evicted = rig.space->GetStats()[Metric::kEvictedPages];
      while (!stop && rig.space->GetStats()[Metric::kEvictedPages] < evicted + 200) {
        std::this_thread::yield();
      }
    }
  });
  for (uint32_t fork = 0; fork < Rounds(12); ++fork) {
    rig.Fork();
    const uint64_t evicted = rig.space->GetStats()[Metric::kEvictedPages];
    while (rig.space->GetStats()[Metric::kEvictedPages] < evicted + 2000) std::this_thread::yield();
    CHECK(rig.pool->Untouched());
    rig.pool->ShareNone();
    const uint64_t merged = rig.space->GetStats()[Metric::kMergedPages];
    const uint64_t some = random() % 2000;
    const uint64_t until = complete + 2;  // The one that is under way may have been before.
    while (complete < until && rig.space->GetStats()[Metric::kMergedPages] < merged + some) {
      std::this_thread::yield();
    }
  }
  stop = true;
  merger.join();
  for (std::thread& thread : threads) thread.join();
  for (int pass = 0; SpaceTestPeer::Merge(*rig.space); ++pass) REQUIRE(pass < 100);
  CHECK(rig.pool->placed() == 2);
  CHECK(wrong == 0);
  CHECK(rig.pool->trespasses == 0);
}

}  // namespace
}  // namespace spiritos
