// SPDX-License-Identifier: Apache-2.0
// What a space refuses, and what it says: the value, the knob, the way out; and
// that it goes on working afterwards.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>
#include <thread>

#include "libos/options_env.h"
#include "test/support/child.h"
#include "test/support/space_peer.h"
#include "test/support/unruly_pool.h"

namespace spiritos {
namespace {

bool Names(const absl::Status& status, std::initializer_list<const char*> words) {
  const std::string text = status.ToString();
  for (const char* word : words) {
    if (text.find(word) == std::string::npos) return false;
  }
  return true;
}

volatile uint64_t& WordOf(AddressRange region, uint64_t page) {
  return *reinterpret_cast<volatile uint64_t*>(region.begin + page * kPageSize);
}

TEST_CASE("a budget below the minimum is refused by name", "[space][errors]") {
  const auto space = Space::Create({.budget = 1_MiB});
  REQUIRE_FALSE(space.ok());
  INFO(space.status().ToString());
  CHECK(absl::IsInvalidArgument(space.status()));
  CHECK(Names(space.status(), {"1048576", "4194304", "SPIRITOS_BUDGET"}));
}

TEST_CASE("a region larger than the pool is refused and smaller ones are not",
          "[space][errors][uffd]") {
  Options options{.budget = 8_MiB};
  options.remote.pool_size = 128_MiB;
  auto space = Space::Create(options);
  REQUIRE(space.ok());
  const auto large = (*space)->CreateRegion(192_MiB);
  REQUIRE_FALSE(large.ok());
  INFO(large.status().ToString());
  CHECK(absl::IsResourceExhausted(large.status()));
  CHECK(Names(large.status(), {"3 slabs", "2 of 2 left", "SPIRITOS_POOL_SIZE"}));
  const auto first = (*space)->CreateRegion(64_MiB);
  REQUIRE(first.ok());
  REQUIRE((*space)->CreateRegion(64_MiB).ok());
  CHECK_FALSE((*space)->CreateRegion(4_MiB).ok());
  // What a region had is there for the next.
  WordOf(*first, 1) = 1;
  REQUIRE((*space)->Unmap(*first).ok());
  CHECK((*space)->CreateRegion(64_MiB).ok());
}

TEST_CASE("ranges that are not the space's are refused", "[space][errors][uffd]") {
  auto space = Space::Create({.budget = 8_MiB});
  REQUIRE(space.ok());
  const AddressRange region = (*space)->CreateRegion(8_MiB).value();
  const AddressRange odd{region.begin + 1, Bytes(kPageSize)};
  const AddressRange beyond{region.begin + region.size.raw() - kPageSize, Bytes(2 * kPageSize)};
  const AddressRange empty{region.begin, Bytes(0)};
  for (const AddressRange& range : {odd, beyond, empty}) {
    CHECK(absl::IsInvalidArgument((*space)->Evict(range)));
    CHECK(absl::IsInvalidArgument((*space)->Prefetch(range)));
    CHECK(absl::IsInvalidArgument((*space)->Discard(range)));
    CHECK(absl::IsInvalidArgument((*space)->Pin(range)));
    CHECK(absl::IsInvalidArgument((*space)->Unmap(range)));
    CHECK(absl::IsInvalidArgument((*space)->Protect(range, PROT_READ)));
    CHECK(absl::IsInvalidArgument((*space)->Move(range, 8_MiB).status()));
  }
  CHECK(absl::IsInvalidArgument((*space)->Protect(region, PROT_EXEC)));
  CHECK(absl::IsInvalidArgument((*space)->CreateRegion(Bytes(0)).status()));
  WordOf(region, 0) = 7;
  REQUIRE((*space)->Evict(region).ok());
  CHECK(WordOf(region, 0) == 7);
}

TEST_CASE("pins stop before faults run out of frames", "[space][errors][uffd]") {
  auto space = Space::Create({.budget = 8_MiB});
  REQUIRE(space.ok());
  const AddressRange region = (*space)->CreateRegion(32_MiB).value();
  uint64_t pinned = 0;
  absl::Status status;
  while (true) {
    status = (*space)->Pin({region.begin + pinned * 64 * kPageSize, Bytes(64 * kPageSize)});
    if (!status.ok()) break;
    ++pinned;
  }
  INFO(status.ToString());
  CHECK(absl::IsResourceExhausted(status));
  CHECK(Names(status, {"64 pages", "2048", "SPIRITOS_BUDGET"}));
  CHECK(pinned >= 20);
  // Neither can the budget go below what is pinned, and it stays what it was.
  const absl::Status shrink = (*space)->SetBudget(4_MiB);
  INFO(shrink.ToString());
  CHECK(absl::IsResourceExhausted(shrink));
  CHECK((*space)->budget() == 8_MiB);
  // Pinned memory is not taken away, and the rest is served with what is left.
  CHECK(absl::IsFailedPrecondition((*space)->Discard(region)));
  for (uint64_t page = 0; page < 8192; ++page) WordOf(region, page) = page + 1;
  uint64_t wrong = 0;
  for (uint64_t page = 0; page < 8192; ++page) wrong += WordOf(region, page) != page + 1;
  CHECK(wrong == 0);
  (*space)->Unpin({region.begin, Bytes(pinned * 64 * kPageSize)});
  CHECK((*space)->SetBudget(4_MiB).ok());
}

TEST_CASE("without permission thread mode says what is missing", "[space][errors][uffd]") {
  const ChildEnd end = RunInChild([] {
    constexpr uid_t kNobody = 65534;
    if (setgid(kNobody) != 0 || setuid(kNobody) != 0) return 3;
    Options options{.budget = 8_MiB};
    options.fault.mode = FaultMode::kThread;
    const auto space = Space::Create(options);
    if (space.ok()) return 4;  // This machine lets anybody.
    dprintf(STDOUT_FILENO, "%s\n", space.status().ToString().c_str());
    // The other mode needs no permission.
    options.fault.mode = FaultMode::kSigbus;
    const auto sigbus = Space::Create(options);
    if (!sigbus.ok()) dprintf(STDOUT_FILENO, "%s\n", sigbus.status().ToString().c_str());
    return sigbus.ok() ? 0 : 5;
  });
  INFO(end.text);
  if (end.status == 3) {
    WARN("skipped: only root can give up its permissions");
    return;
  }
  if (end.status == 4) {
    WARN("skipped: vm.unprivileged_userfaultfd lets everybody");
    return;
  }
  CHECK(end.status == 0);
  CHECK(end.text.find("/dev/userfaultfd") != std::string::npos);
  CHECK(end.text.find("CAP_SYS_PTRACE") != std::string::npos);
}

TEST_CASE("evictors rest when the pool takes no page", "[space][errors][uffd]") {
  auto pool = std::make_unique<UnrulyPool>(1, 1);
  SlotId only;
  REQUIRE(pool->PlaceSlab(&only) == IoResult::kOk);  // Somebody else has it.
  Options options{.budget = 8_MiB};
  options.evict.assist = EvictOptions::Assist::kNever;  // However busy the machine is.
  auto space = SpaceTestPeer::Create(options, std::move(pool)).value();
  const AddressRange region = space->CreateRegion(16_MiB).value();
  // Until fewer frames are left than evictors are woken at.
  uint64_t page = 0;
  while (space->GetStats().free_frames >= 64_pages) WordOf(region, page++) = 1;
  while (space->GetStats()[Metric::kSweeps] == 0) std::this_thread::yield();
  space->Drain();  // Returns when no evictor works.
  CHECK(SpaceTestPeer::Count(*space).in_motion() == 0);
  CHECK(space->GetStats()[Metric::kEvictedPages] == 0);
}

TEST_CASE("a pool that never places a slab stops the process by name, not with a hang",
          "[.long][space][errors][uffd]") {
  const ChildEnd end = RunInChild([] {
    auto pool = std::make_unique<UnrulyPool>(1, 1);
    SlotId only;
    if (pool->PlaceSlab(&only) != IoResult::kOk) return 2;  // Somebody else has it.
    auto space = SpaceTestPeer::Create({.budget = 8_MiB}, std::move(pool));
    if (!space.ok()) return 3;
    const auto region = (*space)->CreateRegion(16_MiB);
    if (!region.ok()) return 4;
    for (uint64_t page = 0; page < 4096; ++page) WordOf(*region, page) = page + 1;
    return 5;
  });
  INFO(end.text);
  CHECK(end.signal == SIGABRT);
  CHECK(end.text.find("no page could be evicted") != std::string::npos);
  CHECK(end.text.find("SPIRITOS_POOL_SIZE") != std::string::npos);
}

}  // namespace
}  // namespace spiritos
