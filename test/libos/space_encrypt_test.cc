// SPDX-License-Identifier: Apache-2.0
// Spaces whose pages are encrypted, over servers that alter, move or put back what they hold.
#include <algorithm>
#include <catch2/catch.hpp>
#include <functional>
#include <random>
#include <vector>

#include "libos/space.h"
#include "test/support/lost_access.h"
#include "test/support/rotting_server.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

constexpr uint64_t kPages = 4096;
using Slab = std::vector<std::byte>;

// What a server may do to its slab, which once was `old`: to every page.
struct Mischief {
  const char* name;
  std::function<void(std::byte* slab, const Slab& old, std::mt19937_64& random)> act;
};
const Mischief kMischiefs[] = {
    {"a bit of each page flips",
     [](std::byte* slab, const Slab&, std::mt19937_64& random) {
       for (uint64_t page = 0; page < kPages; ++page) {
         slab[page * kPageSize + random() % kPageSize] ^= std::byte(1 << random() % 8);
       }
     }},
    {"neighbours swap",
     [](std::byte* slab, const Slab&, std::mt19937_64&) {
       for (uint64_t page = 0; page < kPages; page += 2) {
         std::byte* const one = slab + page * kPageSize;
         std::swap_ranges(one, one + kPageSize, one + kPageSize);
       }
     }},
    {"what was there before is back",
     [](std::byte* slab, const Slab& old, std::mt19937_64&) {
       std::copy(old.begin(), old.end(), slab);
     }},
};

class Rig {
 public:
  Rig(const std::string& pool, uint32_t copies) {
    Options options{.budget = 8_MiB};
    options.remote.pool = pool;
    options.remote.copies = copies;
    options.remote.dead_after_ns = 4'000'000'000;  // None is suspected of a slow machine's doings.
    options.remote.encrypt = Encryption::kAes256Gcm;
    space_ = Space::Create(options).value();
    region_ = space_->CreateRegion(Bytes(kPages * kPageSize)).value();
  }
  volatile uint64_t& Word(uint64_t page, uint64_t i) const {
    return reinterpret_cast<volatile uint64_t*>(region_.begin + page * kPageSize)[i];
  }
  void WriteAndEvict(uint64_t value) const {
    for (uint64_t page = 0; page < kPages; ++page) {
      Word(page, 0) = page ^ (value << 32);
      Word(page, 511) = value;
    }
    REQUIRE(space_->Evict(region_).ok());
  }
  bool Holds(uint64_t page, uint64_t value) const {
    return Word(page, 0) == (page ^ (value << 32)) && Word(page, 511) == value;
  }
  const std::byte* At(uint64_t page) const { return region_.begin + page * kPageSize; }
  Space& space() const { return *space_; }

 private:
  std::unique_ptr<Space> space_;
  AddressRange region_;
};

Slab Copy(const RottingServer& server) { return {server.slab, server.slab + kPages * kPageSize}; }

TEST_CASE("of what the only server alters, moves or puts back every access fails",
          "[space][uffd]") {
  const auto& mischief = kMischiefs[GENERATE(0, 1, 2)];
  const uint64_t seed = TestSeed();
  INFO(mischief.name << ", SPIRITOS_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  const LostAccess lost;
  RottingServer server("one");
  const Rig rig(server.server->tcp().ToString(), 1);
  rig.WriteAndEvict(1);
  const Slab old = Copy(server);
  rig.WriteAndEvict(2);
  const Slab last = Copy(server);
  mischief.act(server.slab, old, random);
  uint64_t failed = 0;
  for (uint64_t page = 0; page < kPages; ++page) failed += lost.FailsAt(rig.At(page)) ? 1 : 0;
  CHECK(failed == kPages);
  CHECK(rig.space().GetStats()[Metric::kUnavailablePages] == kPages);
  // Nothing of it is lost for good.
  std::copy(last.begin(), last.end(), server.slab);
  uint64_t wrong = 0;
  for (uint64_t p = 0; p < kPages; ++p) wrong += rig.Holds(p, 2) ? 0 : 1;
  CHECK(wrong == 0);
}

TEST_CASE("what one of two servers alters, moves or puts back is repaired from the other",
          "[space][uffd]") {
  const auto& mischief = kMischiefs[GENERATE(0, 1, 2)];
  const uint64_t seed = TestSeed();
  INFO(mischief.name << ", SPIRITOS_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  RottingServer one("one");
  RottingServer two("two");
  const Rig rig(one.server->tcp().ToString() + "," + two.server->tcp().ToString(), 2);
  uint64_t noticed = 0;
  for (uint64_t value = 2; value <= 4; value += 2) {
    const RottingServer& culprit = value == 2 ? one : two;  // One of them is read first.
    rig.WriteAndEvict(value - 1);
    const Slab old = Copy(culprit);
    rig.WriteAndEvict(value);
    mischief.act(culprit.slab, old, random);
    const Stats before = rig.space().GetStats();
    uint64_t wrong = 0;
    for (uint64_t page = 0; page < kPages; ++page) wrong += rig.Holds(page, value) ? 0 : 1;
    const Stats after = rig.space().GetStats();
    CHECK(wrong == 0);
    const uint64_t found = after[Metric::kCorruptPages] - before[Metric::kCorruptPages];
    CHECK(after[Metric::kRewrittenPages] - before[Metric::kRewrittenPages] == found);
    noticed += found;
  }
  CHECK(noticed > 0);  // A read that is late asks both.
}

}  // namespace
}  // namespace spiritos
