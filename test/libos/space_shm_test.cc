// SPDX-License-Identifier: Apache-2.0
// Spaces over a memory server of the same machine that has its hands on their pages.
#include <atomic>
#include <catch2/catch.hpp>
#include <random>
#include <thread>

#include "libos/space.h"
#include "test/support/lost_access.h"
#include "test/support/rotting_server.h"
#include "test/support/temp_dir.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

constexpr uint64_t kPages = 1024;

// A space over shared memory, and its server.
struct Rig {
  TempDir dir;
  RottingServer server{"one", dir.file("socket")};
  std::unique_ptr<Space> space;
  AddressRange region;

  explicit Rig(Verify verify) {
    Options options{.budget = 4_MiB};
    options.prefetch.kind = PrefetchOptions::Kind::kNone;
    options.remote.pool = "shm://" + dir.file("socket");
    options.remote.verify = verify;
    space = Space::Create(options).value();
    region = space->CreateRegion(Bytes(kPages * kPageSize)).value();
  }
  std::byte* page(uint64_t i) const { return region.begin + i * kPageSize; }
  volatile uint64_t* words(uint64_t i) const { return reinterpret_cast<uint64_t*>(page(i)); }
  // Every word of a page says where it is.
  void WriteAll() const {
    for (uint64_t i = 0; i < kPages; ++i) {
      for (uint64_t w = 0; w < kPageSize / 8; ++w) words(i)[w] = i << 32 | w;
    }
  }
  bool Holds(uint64_t i) const {
    uint64_t other = 0;
    for (uint64_t w = 0; w < kPageSize / 8; ++w) other |= words(i)[w] ^ (i << 32 | w);
    return other == 0;
  }
};

}  // namespace

TEST_CASE("pages that rot in shared memory are lost, aloud", "[space][uffd]") {
  const Verify verify = GENERATE(Verify::kMapped, Verify::kCopied);
  const LostAccess lost;
  const Rig rig(verify);
  rig.WriteAll();
  REQUIRE(rig.space->Evict(rig.region).ok());
  for (uint64_t i = 0; i < kPages; ++i) rig.server.slab[i * kPageSize + i] ^= std::byte{4};
  uint64_t failed = 0;
  for (uint64_t i = 0; i < kPages; ++i) failed += lost.FailsAt(rig.page(i)) ? 1 : 0;
  CHECK(failed == kPages);
  for (uint64_t i = 0; i < kPages; ++i) rig.server.slab[i * kPageSize + i] ^= std::byte{4};
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < kPages; ++i) wrong += rig.Holds(i) ? 0 : 1;
  CHECK(wrong == 0);
}

// The server changes pages, and changes them back, while they are checked and copied.
TEST_CASE("with copies, what a server changes under the reader is never believed",
          "[space][uffd]") {
  const LostAccess lost;
  const Rig rig(Verify::kCopied);
  const uint64_t seed = TestSeed();
  INFO("SPIRITOS_TEST_SEED=" << seed);
  rig.WriteAll();
  uint64_t wrong = 0;
  uint64_t failed = 0;
  uint64_t right = 0;
  for (int round = 0; round < 20; ++round) {
    REQUIRE(rig.space->Evict(rig.region).ok());
    std::atomic<uint64_t> next{0};
    std::thread server([&] {
      std::mt19937_64 random(seed + static_cast<uint64_t>(round));
      while (next.load() < kPages) {
        // Its last word: what is copied last.
        volatile std::byte* const at = rig.server.slab + next.load() * kPageSize + kPageSize - 8;
        const auto flip = std::byte(1 << random() % 8);
        for (uint64_t n = random() % 64; n != 0; --n) {
          *at = *at ^ flip;
          *at = *at ^ flip;
        }
      }
    });
    for (uint64_t i = 0; i < kPages; ++i) {
      next.store(i);
      if (lost.FailsAt(rig.page(i))) {
        ++failed;
        continue;
      }
      rig.Holds(i) ? ++right : ++wrong;
    }
    next.store(kPages);
    server.join();
  }
  UNSCOPED_INFO(right << " right, " << failed << " failed");
  CHECK(wrong == 0);
  CHECK(right != 0);
}

}  // namespace spiritos
