// SPDX-License-Identifier: Apache-2.0
// What a server's session does with frames, good and bad, without a socket.
#include "libos/remote/server/session.h"

#include <fmt/core.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "libos/remote/server/reclaim.h"

namespace spiritos {
namespace {

using ByteVector = std::vector<std::byte>;

void Append(ByteVector& to, const void* bytes, size_t size) {
  const auto* const begin = static_cast<const std::byte*>(bytes);
  to.insert(to.end(), begin, begin + size);
}

// A server's books with room for some slabs, and clients that come and go.
struct Books {
  explicit Books(uint64_t slabs, uint64_t quota = 0)
      : store({.slabs = slabs, .lock = false}),
        tenancy(store, {.lease_ns = 1000, .slab_quota = quota}) {
    REQUIRE(store.Refill().ok());
  }
  Client& Enter(uint8_t id, std::string_view tenant = "t") {
    WireId wire_id{};
    wire_id[0] = std::byte{id};
    Client* const client = tenancy.Enter(wire_id, tenant, 0);
    REQUIRE(client != nullptr);
    return *client;
  }
  SlabStore store;
  Tenancy tenancy;
  ServerCounters counters;
};

// One connection, and the peer at its other end.
class Peer {
 public:
  Peer(Books& books, Client& client)
      : session(books.tenancy, books.counters, client, kWireVersion, false) {}

  // False when the session wants to close. Bytes that it has no room for stay.
  bool Feed(ByteVector bytes, size_t at_most = SIZE_MAX) {
    unread.insert(unread.end(), bytes.begin(), bytes.end());
    while (!unread.empty()) {
      const auto parts = session.Want();
      if (parts.empty()) return true;
      size_t given = 0;
      for (const iovec& part : parts) {
        const size_t n = std::min({part.iov_len, unread.size() - given, at_most - given});
        std::memcpy(part.iov_base, unread.data() + given, n);
        given += n;
        if (n < part.iov_len) break;
      }
      unread.erase(unread.begin(), unread.begin() + static_cast<ptrdiff_t>(given));
      if (!session.Received(given, 0)) return false;
    }
    return true;
  }
  // Takes replies as a socket would, `at_most` bytes at a time.
  ByteVector Take(size_t at_most = SIZE_MAX) {
    ByteVector taken;
    while (session.has_outgoing()) {
      int file = -1;
      size_t sent = 0;
      for (const iovec& part : session.Outgoing(&file)) {
        const size_t n = std::min(part.iov_len, at_most - sent);
        Append(taken, part.iov_base, n);
        sent += n;
      }
      REQUIRE(sent != 0);
      REQUIRE(session.Sent(sent, 0));
    }
    return taken;
  }
  FrameHeader Ask(FrameHeader request) {
    request.id = ++last_id;
    REQUIRE(Feed(Bytes(request)));
    return HeaderOf(Take());
  }

  static ByteVector Bytes(const FrameHeader& header) {
    FrameBytes bytes;
    EncodeFrame(header, &bytes);
    return {bytes.begin(), bytes.end()};
  }
  static FrameHeader HeaderOf(const ByteVector& bytes) {
    REQUIRE(bytes.size() >= FrameHeader::kSize);
    FrameBytes header_bytes;
    std::copy_n(bytes.begin(), header_bytes.size(), header_bytes.begin());
    FrameHeader header;
    REQUIRE(DecodeFrame(header_bytes, &header) == FrameError::kNone);
    CHECK(header.reply());
    return header;
  }

  ServerSession session;
  ByteVector unread;
  uint64_t last_id = 0;
};

ByteVector PageOf(uint8_t value) { return ByteVector(kPageSize, std::byte{value}); }

FrameHeader Request(WireOp op, uint64_t slab, uint32_t first = 0, uint32_t pages = 0) {
  FrameHeader header;
  header.op = op;
  header.id = 1000;
  header.slab = slab;
  header.epoch = 1;
  header.first = first;
  header.pages = pages;
  return header;
}

// A write of pages that hold `value` each, of one version.
ByteVector Write(uint64_t slab, uint32_t first, uint32_t pages, uint8_t value, uint32_t version,
                 uint32_t epoch = 1) {
  FrameHeader header = Request(WireOp::kWrite, slab, first, pages);
  header.epoch = epoch;
  header.payload = pages * static_cast<uint32_t>(kPageSize + sizeof(PageTrailer));
  const ByteVector page = PageOf(value);
  const std::vector<PageTrailer> trailers(pages, PageTrailer{version, Crc32c(page)});
  ByteVector list;
  Append(list, trailers.data(), trailers.size() * sizeof(PageTrailer));
  header.payload_crc = Crc32c(list);
  ByteVector bytes = Peer::Bytes(header);
  Append(bytes, list.data(), list.size());
  for (uint32_t i = 0; i < pages; ++i) Append(bytes, page.data(), page.size());
  return bytes;
}

uint64_t PlacedBy(Peer& peer) {
  const FrameHeader answer = peer.Ask(Request(WireOp::kPlace, 0));
  REQUIRE(answer.status == WireStatus::kOk);
  return answer.slab;
}

WireStatus StatusOf(Peer& peer, const ByteVector& request) {
  REQUIRE(peer.Feed(request));
  return Peer::HeaderOf(peer.Take()).status;
}

// The value that all bytes of a page have; 1000 when they differ or cannot be read.
int ValueAt(Peer& peer, uint64_t slab, uint32_t page) {
  REQUIRE(peer.Feed(Peer::Bytes(Request(WireOp::kRead, slab, page, 1))));
  const ByteVector reply = peer.Take();
  REQUIRE(reply.size() == FrameHeader::kSize + kPageSize);
  if (Peer::HeaderOf(reply).status != WireStatus::kOk) return 1000;
  const std::byte first = reply[FrameHeader::kSize];
  const bool same = std::all_of(reply.begin() + FrameHeader::kSize, reply.end(),
                                [&](std::byte b) { return b == first; });
  return same ? static_cast<int>(first) : 1000;
}

TEST_CASE("pages that were written are read back, however the bytes are cut up",
          "[remote][server]") {
  Books books(1);
  Peer peer(books, books.Enter(1));
  const uint64_t slab = PlacedBy(peer);
  const size_t cut = GENERATE(1, 7, 64, 1000, 4096, 100000);
  INFO("pieces of " << cut << " bytes");
  ByteVector bytes = Write(slab, 10, 5, 0xA1, 3);
  const ByteVector more = Write(slab, 15, 2, 0xA2, 3);
  Append(bytes, more.data(), more.size());
  const ByteVector read = Peer::Bytes(Request(WireOp::kRead, slab, 14, 2));
  Append(bytes, read.data(), read.size());
  REQUIRE(peer.Feed(bytes, cut));
  const ByteVector replies = peer.Take(cut);
  REQUIRE(replies.size() == 3 * FrameHeader::kSize + 2 * kPageSize);
  CHECK(replies[3 * FrameHeader::kSize] == std::byte{0xA1});
  CHECK(replies[3 * FrameHeader::kSize + kPageSize] == std::byte{0xA2});
  CHECK(ValueAt(peer, slab, 9) == 0);
  CHECK(ValueAt(peer, slab, 17) == 0);
}

TEST_CASE("a client reaches no slab of another, and learns nothing of it", "[remote][server]") {
  Books books(2);
  Peer owner(books, books.Enter(1));
  Peer other(books, books.Enter(2));
  const uint64_t slab = PlacedBy(owner);
  REQUIRE(StatusOf(owner, Write(slab, 0, 1, 0x11, 1)) == WireStatus::kOk);
  CHECK(ValueAt(other, slab, 0) == 1000);
  CHECK(StatusOf(other, Write(slab, 0, 1, 0x22, 9)) == WireStatus::kNoSlab);
  for (const WireOp op : {WireOp::kRelease, WireOp::kShare, WireOp::kFence}) {
    CHECK(other.Ask(Request(op, slab)).status == WireStatus::kNoSlab);
    CHECK(other.Ask(Request(op, slab + 77)).status == WireStatus::kNoSlab);
  }
  CHECK(StatusOf(other, Peer::Bytes(Request(WireOp::kForget, slab, 0, 1))) == WireStatus::kNoSlab);
  CHECK(ValueAt(owner, slab, 0) == 0x11);
}

TEST_CASE("a slab that comes back is never rented out again with its bytes", "[remote][server]") {
  Books books(1);
  Peer first(books, books.Enter(1));
  const uint64_t slab = PlacedBy(first);
  REQUIRE(StatusOf(first, Write(slab, 0, 8, 0x77, 1)) == WireStatus::kOk);
  REQUIRE(first.Ask(Request(WireOp::kRelease, slab)).status == WireStatus::kOk);
  CHECK(ValueAt(first, slab, 0) == 1000);
  REQUIRE(books.store.Refill().ok());
  Peer second(books, books.Enter(2));
  const uint64_t again = PlacedBy(second);
  CHECK(again != slab);
  for (uint32_t page = 0; page < 8; ++page) CHECK(ValueAt(second, again, page) == 0);
}

TEST_CASE("a write that a newer one has overtaken is acknowledged and ignored",
          "[remote][server]") {
  Books books(1);
  Client& client = books.Enter(1);
  Peer old_lane(books, client);
  Peer new_lane(books, client);
  const uint64_t slab = PlacedBy(old_lane);

  SECTION("when it comes after") {
    REQUIRE(StatusOf(new_lane, Write(slab, 4, 1, 0x22, 5)) == WireStatus::kOk);
    CHECK(StatusOf(old_lane, Write(slab, 3, 3, 0x11, 3)) == WireStatus::kOk);
  }
  SECTION("when it begins before and ends after") {
    const ByteVector late = Write(slab, 3, 3, 0x11, 3);
    const size_t cut = FrameHeader::kSize + 3 * sizeof(PageTrailer) + kPageSize + 100;
    REQUIRE(old_lane.Feed({late.begin(), late.begin() + cut}));
    REQUIRE(StatusOf(new_lane, Write(slab, 4, 1, 0x22, 5)) == WireStatus::kOk);
    REQUIRE(old_lane.Feed({late.begin() + cut, late.end()}));
    CHECK(Peer::HeaderOf(old_lane.Take()).status == WireStatus::kOk);
  }
  CHECK(ValueAt(new_lane, slab, 3) == 0x11);
  CHECK(ValueAt(new_lane, slab, 4) == 0x22);
  CHECK(ValueAt(new_lane, slab, 5) == 0x11);
  CHECK(books.counters.Get(ServerCounter::kStaleWrites) == 1);
}

TEST_CASE("versions go on beyond the end of their numbers", "[remote][server]") {
  Books books(1);
  Peer peer(books, books.Enter(1));
  const uint64_t slab = PlacedBy(peer);
  REQUIRE(StatusOf(peer, Write(slab, 0, 1, 0x11, 0xFFFFFFFF)) == WireStatus::kOk);
  REQUIRE(StatusOf(peer, Write(slab, 0, 1, 0x22, 1)) == WireStatus::kOk);
  CHECK(ValueAt(peer, slab, 0) == 0x22);
  REQUIRE(StatusOf(peer, Write(slab, 0, 1, 0x33, 0xFFFFFFFF)) == WireStatus::kOk);
  CHECK(ValueAt(peer, slab, 0) == 0x22);
}

TEST_CASE("what is damaged on its way is refused, and the next frame is found",
          "[remote][server]") {
  Books books(1);
  Peer peer(books, books.Enter(1));
  const uint64_t slab = PlacedBy(peer);
  ByteVector write = Write(slab, 0, 2, 0x11, 1);
  SECTION("in a page") { write[write.size() - 100] ^= std::byte{1}; }
  SECTION("in the trailers") { write[FrameHeader::kSize + 9] ^= std::byte{1}; }
  CHECK(StatusOf(peer, write) == WireStatus::kDamaged);
  CHECK(books.counters.Get(ServerCounter::kDamagedFrames) == 1);
  CHECK(StatusOf(peer, Write(slab, 0, 2, 0x22, 3)) == WireStatus::kOk);
  CHECK(ValueAt(peer, slab, 1) == 0x22);
}

TEST_CASE("every flipped bit of a header ends the connection", "[remote][server]") {
  Books books(1);
  const ByteVector ping = Peer::Bytes(Request(WireOp::kPing, 0));
  uint32_t ended = 0;
  for (size_t bit = 0; bit < 8 * ping.size(); ++bit) {
    Peer peer(books, books.Enter(1));
    ByteVector bytes = ping;
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    ended += !peer.Feed(bytes);
  }
  CHECK(ended == 512);
  CHECK(books.counters.Get(ServerCounter::kBadFrames) +
            books.counters.Get(ServerCounter::kBadVersions) ==
        512);
}

TEST_CASE("pages outside a slab are refused", "[remote][server]") {
  Books books(1);
  Peer peer(books, books.Enter(1));
  const uint64_t slab = PlacedBy(peer);
  for (const uint32_t first : {kSlabPages, kSlabPages - 1, 0xFFFFFFFFu}) {
    CHECK(StatusOf(peer, Write(slab, first, 2, 0x11, 1)) == WireStatus::kOutOfRange);
    CHECK(StatusOf(peer, Peer::Bytes(Request(WireOp::kForget, slab, first, 2))) ==
          WireStatus::kOutOfRange);
  }
  CHECK(ValueAt(peer, slab, kSlabPages) == 1000);
  CHECK(StatusOf(peer, Peer::Bytes(Request(WireOp::kForget, slab, 0, 0))) ==
        WireStatus::kOutOfRange);
  CHECK(StatusOf(peer, Write(slab, kSlabPages - 2, 2, 0x11, 1)) == WireStatus::kOk);
}

TEST_CASE("an epoch that is fenced off is served no more", "[remote][server]") {
  Books books(1);
  Peer peer(books, books.Enter(1));
  const uint64_t slab = PlacedBy(peer);
  REQUIRE(StatusOf(peer, Write(slab, 0, 1, 0x11, 1)) == WireStatus::kOk);
  FrameHeader fence = Request(WireOp::kFence, slab);
  fence.epoch = 3;
  REQUIRE(peer.Ask(fence).status == WireStatus::kOk);
  CHECK(StatusOf(peer, Write(slab, 0, 1, 0x22, 3, 2)) == WireStatus::kStaleEpoch);
  CHECK(ValueAt(peer, slab, 0) == 1000);
  CHECK(StatusOf(peer, Write(slab, 0, 1, 0x33, 3, 3)) == WireStatus::kOk);
}

TEST_CASE("a peer that takes no replies is read no further, and loses none", "[remote][server]") {
  Books books(1);
  Peer peer(books, books.Enter(1));
  const uint64_t slab = PlacedBy(peer);
  REQUIRE(StatusOf(peer, Write(slab, 0, 1, 0x5A, 1)) == WireStatus::kOk);
  constexpr size_t kRequests = 3 * ServerSession::kMaxRequests;
  ByteVector bytes;
  const ByteVector read = Peer::Bytes(Request(WireOp::kRead, slab, 0, 1));
  for (size_t i = 0; i < kRequests; ++i) Append(bytes, read.data(), read.size());
  REQUIRE(peer.Feed(bytes));
  CHECK(peer.session.Want().empty());
  CHECK(peer.unread.size() > FrameHeader::kSize * ServerSession::kMaxRequests);
  ByteVector replies;
  while (replies.size() < kRequests * (FrameHeader::kSize + kPageSize)) {
    const ByteVector some = peer.Take(10000);
    REQUIRE_FALSE(some.empty());
    Append(replies, some.data(), some.size());
    REQUIRE(peer.Feed({}));
  }
  CHECK(replies.size() == kRequests * (FrameHeader::kSize + kPageSize));
  CHECK(replies.back() == std::byte{0x5A});
}

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
