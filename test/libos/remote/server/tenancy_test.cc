// SPDX-License-Identifier: Apache-2.0
// Who has which slab, how many references, and for how long.
#include "libos/remote/server/tenancy.h"

#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "libos/remote/server/reclaim.h"
#include "test/libos/remote/server/session_rig.h"

namespace spiritos {
namespace {

TEST_CASE("a question that is asked again is done once", "[remote][server]") {
  Books books(2);
  Client& client = books.Enter(1);
  uint64_t slab = 0;
  FrameHeader place = Request(WireOp::kPlace, 0);
  place.id = 41;
  for (int time = 0; time < 3; ++time) {
    Peer peer(books, client);  // Each time over another connection.
    REQUIRE(peer.Feed(Peer::Bytes(place)));
    const FrameHeader answer = Peer::HeaderOf(peer.Take());
    REQUIRE(answer.status == WireStatus::kOk);
    CHECK((slab == 0 || slab == answer.slab));
    slab = answer.slab;
  }
  CHECK(client.slabs.size() == 1);
  CHECK(books.store.rented() == 1);
  // And one that was answered before the last is not done at all.
  Peer peer(books, client);
  place.id = 40;
  CHECK(StatusOf(peer, Peer::Bytes(place)) == WireStatus::kNotPermitted);
  CHECK(client.slabs.size() == 1);
}

TEST_CASE("a shared slab is freed by the last release", "[remote][server]") {
  Books books(1);
  Peer peer(books, books.Enter(1));
  const uint64_t slab = PlacedBy(peer);
  REQUIRE(peer.Ask(Request(WireOp::kShare, slab)).status == WireStatus::kOk);
  REQUIRE(peer.Ask(Request(WireOp::kRelease, slab)).status == WireStatus::kOk);
  CHECK(ValueAt(peer, slab, 0) == 0);
  REQUIRE(peer.Ask(Request(WireOp::kRelease, slab)).status == WireStatus::kOk);
  CHECK(ValueAt(peer, slab, 0) == 1000);
  CHECK(books.store.rented() == 0);
}

WireId IdOf(uint8_t first) {
  WireId id{};
  id[0] = std::byte{first};
  id[15] = std::byte{0xEE};
  return id;
}

TEST_CASE("a forked client has its parent's slabs, and each gives back its own references",
          "[remote][server]") {
  Books books(3, 2);
  Client& parent_client = books.Enter(1, "a");
  Peer parent(books, parent_client);
  const uint64_t slab = PlacedBy(parent);
  const uint64_t another = PlacedBy(parent);
  REQUIRE(StatusOf(parent, Write(slab, 0, 1, 0x11, 1)) == WireStatus::kOk);
  const auto others = [](Peer& peer, uint64_t of) {
    const FrameHeader answer = peer.Ask(Request(WireOp::kHolders, of));
    REQUIRE(answer.status == WireStatus::kOk);
    return answer.argument;
  };
  CHECK(others(parent, slab) == 0);
  FrameHeader fork = Request(WireOp::kFork, 0);
  PutForked(IdOf(9), &fork);
  const FrameHeader forked = parent.Ask(fork);
  REQUIRE(forked.status == WireStatus::kOk);
  CHECK(forked.first == 2);
  CHECK(parent.Ask(fork).status == WireStatus::kNotPermitted);  // That id is taken.
  CHECK(others(parent, slab) == 1);

  CHECK(books.tenancy.Enter(IdOf(9), "b", 0) == nullptr);  // Of another tenant.
  Client* const child_client = books.tenancy.Enter(IdOf(9), "a", 0);
  REQUIRE(child_client != nullptr);
  {
    Peer child(books, *child_client);
    CHECK(ValueAt(child, slab, 0) == 0x11);
    CHECK(others(child, slab) == 1);
    // No slab more than before: the quota of two is used up, not overrun.
    CHECK(child.Ask(Request(WireOp::kPlace, 0)).status == WireStatus::kOverQuota);
    REQUIRE(parent.Ask(Request(WireOp::kRelease, slab)).status == WireStatus::kOk);
    CHECK(parent.Ask(Request(WireOp::kHolders, slab)).status == WireStatus::kNoSlab);
    CHECK(ValueAt(child, slab, 0) == 0x11);
    CHECK(others(child, slab) == 0);
    REQUIRE(child.Ask(Request(WireOp::kRelease, slab)).status == WireStatus::kOk);
    CHECK(books.store.rented() == 1);
    CHECK(others(parent, another) == 1);
  }
  // What the child has not given back ends with its lease; the parent's stays.
  books.tenancy.Enter(parent_client.id, "a", 500);
  CHECK(books.tenancy.Expire(1000) == 1);
  CHECK(others(parent, another) == 0);
  CHECK(books.store.rented() == 1);
}

TEST_CASE("a client ends with its process", "[remote][server]") {
  Books books(1);
  Client& client = books.Enter(1);
  { PlacedBy(*std::make_unique<Peer>(books, client)); }
  std::array<int, 2> ends;
  REQUIRE(pipe(ends.data()) == 0);
  const pid_t child = fork();
  if (child == 0) {
    char nothing;
    close(ends[1]);
    _exit(read(ends[0], &nothing, 1) == 0 ? 0 : 1);
  }
  client.process = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
  REQUIRE(client.process.valid());
  CHECK(books.tenancy.Expire(1) == 0);
  close(ends[1]);
  int status;
  REQUIRE(waitpid(child, &status, 0) == child);
  close(ends[0]);
  CHECK(books.tenancy.Expire(2) == 1);  // Long before its lease is over.
  CHECK(books.store.rented() == 0);
}

TEST_CASE("slabs end with the memory, and with the tenant's quota", "[remote][server]") {
  Books books(3, 2);
  Peer one(books, books.Enter(1, "a"));
  Peer same_tenant(books, books.Enter(2, "a"));
  Peer other(books, books.Enter(3, "b"));
  PlacedBy(one);
  PlacedBy(same_tenant);
  CHECK(one.Ask(Request(WireOp::kPlace, 0)).status == WireStatus::kOverQuota);
  PlacedBy(other);
  CHECK(other.Ask(Request(WireOp::kPlace, 0)).status == WireStatus::kNoSpace);
}

TEST_CASE("a client's slabs go when its lease is over, and not while a reply reads them",
          "[remote][server]") {
  Books books(2);
  {
    Peer silent(books, books.Enter(1));
    const uint64_t slab = PlacedBy(silent);
    REQUIRE(silent.Feed(Peer::Bytes(Request(WireOp::kRead, slab, 0, 1))));
    FrameHeader release = Request(WireOp::kRelease, slab);
    release.id = ++silent.last_id;
    REQUIRE(silent.Feed(Peer::Bytes(release)));
    CHECK(books.store.rented() == 1);  // The reply of the read is still to be sent.
    silent.Take();
    CHECK(books.store.rented() == 0);
    PlacedBy(silent);
  }
  books.tenancy.Enter(books.Enter(2).id, "t", 500);
  CHECK(books.tenancy.Expire(999) == 0);
  CHECK(books.store.rented() == 1);
  CHECK(books.tenancy.Expire(1000) == 1);
  CHECK(books.store.rented() == 0);
  CHECK(books.tenancy.client_count() == 1);
}

TEST_CASE("clients without slabs are forgotten with their last connection", "[remote][server]") {
  Books books(2);
  Client& keeper = books.Enter(200);
  auto keeps = std::make_unique<Peer>(books, keeper);
  PlacedBy(*keeps);
  for (int i = 0; i < 20; ++i) {
    Client& client = books.Enter(static_cast<uint8_t>(i), fmt::format("tenant {}", i));
    Peer control(books, client);
    Peer lane(books, client);
    CHECK(books.tenancy.client_count() == 2);
    const uint64_t slab = PlacedBy(control);
    CHECK(books.tenancy.tenant_count() == 2);
    REQUIRE(control.Ask(Request(WireOp::kRelease, slab)).status == WireStatus::kOk);
    REQUIRE(books.store.Refill().ok());
  }
  CHECK(books.tenancy.client_count() == 1);
  CHECK(books.tenancy.tenant_count() == 1);
  keeps.reset();
  CHECK(books.tenancy.client_count() == 1);  // It has a slab, for a lease.
  CHECK(books.tenancy.Expire(1000) == 1);
  CHECK(books.tenancy.client_count() == 0);
  CHECK(books.tenancy.tenant_count() == 0);
}

TEST_CASE("a tenant has no more clients than can be afforded, others have theirs",
          "[remote][server]") {
  Books books(1);
  const auto enter = [&](size_t number, std::string_view tenant) {
    WireId id{};
    std::memcpy(id.data(), &number, sizeof(number));
    return books.tenancy.Enter(id, tenant, 0);
  };
  for (size_t i = 0; i < Tenancy::kMaxClients; ++i) REQUIRE(enter(i, "a") != nullptr);
  CHECK(enter(Tenancy::kMaxClients, "a") == nullptr);
  CHECK(books.tenancy.client_count() == Tenancy::kMaxClients);
  CHECK(enter(0, "a") != nullptr);
  CHECK(enter(Tenancy::kMaxClients, "b") != nullptr);
  CHECK(books.tenancy.Expire(1000) == Tenancy::kMaxClients + 1);
  CHECK(enter(Tenancy::kMaxClients, "a") != nullptr);
}

TEST_CASE("an id belongs to the tenant that came with it first", "[remote][server]") {
  Books books(1);
  Client& client = books.Enter(1, "a");
  CHECK(books.tenancy.Enter(client.id, "b", 0) == nullptr);
  CHECK(books.tenancy.FindByToken(client.id, client.token) == &client);
  WireId wrong = client.token;
  wrong[15] ^= std::byte{1};
  CHECK(books.tenancy.FindByToken(client.id, wrong) == nullptr);
}

// Access that says whether it is still there.
struct CountedAccess final : RemoteAccess {
  explicit CountedAccess(int* alive) : alive_(alive) { ++*alive_; }
  ~CountedAccess() override { --*alive_; }
  int* alive_;
};
struct CountingExposer final : SlabExposer {
  WireStatus Expose(Client&, RentedSlab& slab, uint32_t* key) override {
    if (refuses) return WireStatus::kNoSpace;
    slab.access = std::make_unique<CountedAccess>(&alive);
    *key = 0xABCD0000u + static_cast<uint32_t>(alive);
    return WireStatus::kOk;
  }
  int alive = 0;
  bool refuses = false;
};

TEST_CASE("a slab placed for queue pairs comes with its key, and access ends before it",
          "[remote][server]") {
  CountingExposer exposer;
  Books books(3);
  books.tenancy.set_exposer(&exposer);
  Peer peer(books, books.Enter(1));
  FrameHeader place = Request(WireOp::kPlace, 0);
  place.flags = WireFlags::kExpose;
  const FrameHeader placed = peer.Ask(place);
  REQUIRE(placed.status == WireStatus::kOk);
  CHECK(placed.argument == 0xABCD0001);
  CHECK(peer.Ask(Request(WireOp::kPlace, 0)).status == WireStatus::kOk);  // An ordinary one.
  CHECK(exposer.alive == 1);

  // A reply that is not taken yet holds the memory, not the access to it.
  REQUIRE(peer.Feed(Peer::Bytes(Request(WireOp::kRead, placed.slab, 0, 1))));
  REQUIRE(peer.Feed(Peer::Bytes(Request(WireOp::kRelease, placed.slab))));
  CHECK(exposer.alive == 0);
  CHECK(books.store.rented() == 2);
}

TEST_CASE("a slab that queue pairs cannot be let at is not placed", "[remote][server]") {
  CountingExposer exposer;
  exposer.refuses = true;
  Books books(1);
  Peer peer(books, books.Enter(1));
  FrameHeader place = Request(WireOp::kPlace, 0);
  place.flags = WireFlags::kExpose;
  CHECK(peer.Ask(place).status == WireStatus::kNotPermitted);  // No queue pairs here.
  CHECK(books.store.rented() == 0);
  books.tenancy.set_exposer(&exposer);
  CHECK(peer.Ask(place).status == WireStatus::kNoSpace);
  CHECK(books.store.rented() == 0);
}

TEST_CASE("access to the slabs of a client whose lease is over ends with them",
          "[remote][server]") {
  CountingExposer exposer;
  Books books(1);
  books.tenancy.set_exposer(&exposer);
  {
    Peer peer(books, books.Enter(1));
    FrameHeader place = Request(WireOp::kPlace, 0);
    place.flags = WireFlags::kExpose;
    REQUIRE(peer.Ask(place).status == WireStatus::kOk);
  }
  CHECK(exposer.alive == 1);
  CHECK(books.tenancy.Expire(2000) == 1);
  CHECK(exposer.alive == 0);
}

TEST_CASE("slabs are asked back from clients that can move them, each for its share",
          "[remote][server]") {
  Books books(7);
  CountingExposer exposer;
  books.tenancy.set_exposer(&exposer);
  Peer large(books, books.Enter(1));
  Peer small(books, books.Enter(2, "u"));
  Peer fixed(books, books.Enter(3));
  uint64_t slab = 0;
  for (int i = 0; i < 3; ++i) slab = large.Ask(Request(WireOp::kPlace, 0)).slab;
  REQUIRE(small.Ask(Request(WireOp::kPlace, 0)).status == WireStatus::kOk);
  FrameHeader exposed = Request(WireOp::kPlace, 0);
  exposed.flags = WireFlags::kExpose;
  REQUIRE(fixed.Ask(exposed).status == WireStatus::kOk);
  const auto asked = [](Peer& peer) { return peer.Ask(Request(WireOp::kPing, 0)).first; };

  CHECK(asked(large) == 0);
  for (uint32_t excess = 1; excess <= 7; ++excess) {
    books.tenancy.AskBack(excess);
    CHECK(asked(large) + asked(small) == std::min(excess, 4u));
    CHECK(asked(fixed) == 0);
  }
  CHECK(books.tenancy.AskBack(5) == 1);  // Which has to stay.
  CHECK(asked(large) == 3);
  CHECK(asked(small) == 1);
  CHECK(large.Ask(Request(WireOp::kRelease, slab)).status == WireStatus::kOk);
  CHECK(asked(large) == 2);
  CHECK(books.counters.Get(ServerCounter::kSlabsReclaimed) == 1);
  books.tenancy.AskBack(0);
  CHECK(asked(large) + asked(small) == 0);
}

TEST_CASE("less memory is to be had at once, and more when it has been cleared",
          "[remote][server]") {
  Books books(4);
  Peer peer(books, books.Enter(1));
  REQUIRE(peer.Ask(Request(WireOp::kPlace, 0)).status == WireStatus::kOk);
  REQUIRE(peer.Ask(Request(WireOp::kPlace, 0)).status == WireStatus::kOk);
  books.store.SetLimit(1);
  CHECK(books.store.excess() == 1);
  CHECK(peer.Ask(Request(WireOp::kPlace, 0)).status == WireStatus::kNoSpace);  // Though ready.
  REQUIRE(books.store.Refill().ok());
  CHECK(books.store.ready() == 0);
  CHECK(books.store.rented() == 2);
  books.store.SetLimit(3);
  const FrameHeader soon = peer.Ask(Request(WireOp::kPlace, 0));
  CHECK(soon.status == WireStatus::kNoSpace);
  CHECK(soon.argument == 1);
  REQUIRE(books.store.Refill().ok());
  CHECK(peer.Ask(Request(WireOp::kPlace, 0)).status == WireStatus::kOk);
}

TEST_CASE("slabs that nobody gives back are noticed once, until one comes", "[remote][server]") {
  Reclaim reclaim;
  constexpr uint64_t kWhile = Reclaim::kStuckNs;
  CHECK_FALSE(reclaim.Look(0, 0, kWhile));
  CHECK_FALSE(reclaim.Look(3, 1, 10 * kWhile));
  CHECK_FALSE(reclaim.Look(3, 1, 11 * kWhile - 1));
  CHECK(reclaim.Look(3, 1, 11 * kWhile));
  CHECK_FALSE(reclaim.Look(3, 1, 99 * kWhile));
  CHECK_FALSE(reclaim.Look(2, 1, 100 * kWhile));
  CHECK(reclaim.Look(2, 1, 101 * kWhile));
  CHECK_FALSE(reclaim.Look(0, 0, 102 * kWhile));
  CHECK_FALSE(reclaim.Look(2, 0, 103 * kWhile));
}

}  // namespace
}  // namespace spiritos
