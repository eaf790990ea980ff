// SPDX-License-Identifier: Apache-2.0
// What a server's session does with frames, good and bad, without a socket.
#include "libos/remote/server/session.h"

#include <random>

#include "test/libos/remote/server/session_rig.h"

namespace spiritos {
namespace {

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

}  // namespace
}  // namespace spiritos
