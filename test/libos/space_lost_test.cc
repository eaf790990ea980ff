// SPDX-License-Identifier: Apache-2.0
// Pages whose bytes the pool has lost: the access fails, and nothing else does.
#include <setjmp.h>
#include <signal.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "libos/remote/embedded_backend.h"
#include "libos/remote/shaped_backend.h"
#include "test/support/space_peer.h"

namespace spiritos {
namespace {

constexpr uint64_t kPages = 4096;

sigjmp_buf back;
const void* volatile failed_at = nullptr;

void OnLoss(int, siginfo_t* info, void*) {
  failed_at = info->si_addr;
  siglongjmp(back, 1);
}

// A handler of the program's, there before the space.
class Handler {
 public:
  Handler() {
    struct sigaction action {};
    action.sa_sigaction = OnLoss;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    REQUIRE(sigaction(SIGBUS, &action, &before_) == 0);
  }
  ~Handler() { sigaction(SIGBUS, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

struct Rig {
  explicit Rig(bool at_a_distance) {
    auto made = EmbeddedBackend::Create(128_MiB);
    REQUIRE(made.ok());
    embedded = made->get();
    std::unique_ptr<RemoteBackend> pool = *std::move(made);
    if (at_a_distance) {
      auto shaped = ShapedBackend::Create(std::move(pool), {.latency_ns = 5'000});
      REQUIRE(shaped.ok());
      pool = *std::move(shaped);
    }
    auto created = SpaceTestPeer::Create({.budget = 8_MiB}, std::move(pool));
    REQUIRE(created.ok());
    space = *std::move(created);
    region = space->CreateRegion(Bytes(kPages * kPageSize)).value();
    for (uint64_t page = 0; page < kPages; ++page) At(page) = page + 1;
    REQUIRE(space->Evict(region).ok());
  }
  volatile uint64_t& At(uint64_t page) const {
    return *reinterpret_cast<volatile uint64_t*>(region.begin + page * kPageSize);
  }
  // The region's first slab is the pool's.
  void Flip(uint64_t page) const { embedded->Direct(SlotId(page))[99] ^= std::byte{4}; }
  // The page's first word, or 0 when the access failed.
  uint64_t Read(uint64_t page) const {
    if (sigsetjmp(back, 1) != 0) return 0;
    return At(page);
  }

  Handler handler;
  EmbeddedBackend* embedded = nullptr;
  std::unique_ptr<Space> space;
  AddressRange region;
};

TEST_CASE("an access to a lost page fails with its address, and is served when the page is back",
          "[space][errors][uffd]") {
  const bool at_a_distance = GENERATE(false, true);
  const Rig rig(at_a_distance);
  constexpr uint64_t kLost = 1234;
  rig.Flip(kLost);
  for (int time = 1; time <= 2; ++time) {
    failed_at = nullptr;
    CHECK(rig.Read(kLost) == 0);
    CHECK(failed_at == rig.region.begin + kLost * kPageSize);
    CHECK(rig.space->GetStats()[Metric::kUnavailablePages] == static_cast<uint64_t>(time));
  }
  CHECK(rig.Read(kLost - 1) == kLost);
  CHECK(rig.Read(kLost + 1) == kLost + 2);
  rig.Flip(kLost);
  CHECK(rig.Read(kLost) == kLost + 1);
}

TEST_CASE("reading past lost pages loses none but them", "[space][errors][uffd]") {
  const bool at_a_distance = GENERATE(false, true);
  const bool backwards = GENERATE(false, true);
  const Rig rig(at_a_distance);
  const auto lost = [](uint64_t page) { return page % 97 == 5; };
  uint64_t expected = 0;
  for (uint64_t page = 0; page < kPages; ++page) {
    if (!lost(page)) continue;
    rig.Flip(page);
    ++expected;
  }
  uint64_t failed = 0;
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < kPages; ++i) {
    const uint64_t page = backwards ? kPages - 1 - i : i;
    const uint64_t found = rig.Read(page);
    failed += found == 0;
    wrong += lost(page) ? found != 0 : found != page + 1;
  }
  CHECK(failed == expected);
  CHECK(wrong == 0);
  rig.space->Drain();
  CHECK(SpaceTestPeer::Count(*rig.space).in_motion() == 0);
}

TEST_CASE("a range with a lost page cannot be pinned, and can be discarded",
          "[space][errors][uffd]") {
  const Rig rig(false);
  rig.Flip(7);
  const AddressRange range{rig.region.begin, Bytes(16 * kPageSize)};
  const absl::Status status = rig.space->Pin(range);
  CHECK(absl::IsFailedPrecondition(status));
  CHECK(status.message().find("lost") != status.message().npos);
  REQUIRE(rig.space->Discard(range).ok());
  CHECK(rig.At(7) == 0);
  CHECK(rig.Read(16) == 17);
}

}  // namespace
}  // namespace spiritos
