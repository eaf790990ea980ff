// SPDX-License-Identifier: Apache-2.0
// A real server under peers that break every rule, and a client that must not notice.
#include <malloc.h>

#include <random>
#include <thread>

#include "test/libos/remote/remote_rig.h"
#include "test/support/raw_peer.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

// A server, and a well-behaved client whose page stays what it is.
class TortureRig {
 public:
  explicit TortureRig(uint64_t slow_peer_ms = 30'000, uint64_t lease_ms = 60'000)
      : server_({.tcp_port = 0,
                 .memory = Bytes(3 * kSlabSize),
                 .lock_memory = false,
                 .lease_ms = lease_ms,
                 .slow_peer_ms = slow_peer_ms}) {
    auto made = ServerPool::Create({.servers = {server_.tcp()}, .tenant = "honest"});
    REQUIRE(made.ok());
    pool_ = *std::move(made);
    REQUIRE(pool_->PlaceSlab(&slot_) == IoResult::kOk);
    WritePage(page_[0], 1, 1);
    REQUIRE(Run(*pool_, IoOp::kWrite, Lane::kWriteBack, slot_, 1, page_[0]) == 0);
    connections_ = Count(ServerCounter::kConnections);
  }

  ServerAddress address() const { return server_.tcp(); }
  MemoryServer& server() { return server_.server(); }
  uint64_t Count(ServerCounter counter) { return server_.server().counters().Get(counter); }
  void AwaitCount(ServerCounter counter, uint64_t n) {
    YieldUntil([&] { return Count(counter) >= n; });
    CHECK(Count(counter) == n);
  }
  // Served, the right bytes, and over the connections that there were.
  void CheckHonest(uint64_t raw_peers) {
    std::memset(page_[0], 0, kPageSize);
    REQUIRE(Run(*pool_, IoOp::kRead, Lane::kDemand, slot_, 1, page_[0]) == 0);
    CHECK(PageHolds(page_[0], 1, 1));
    CHECK(Count(ServerCounter::kConnections) == connections_ + raw_peers);
  }

 private:
  ServerThread server_;
  std::unique_ptr<ServerPool> pool_;
  SlotId slot_;
  Pages page_{1};
  uint64_t connections_ = 0;
};

uint64_t PlacedBy(RawPeer& peer, uint64_t id = 1) {
  const FrameHeader answer = peer.Question(WireOp::kPlace, id);
  REQUIRE(answer.status == WireStatus::kOk);
  return answer.slab;
}

TEST_CASE("what is no frame ends its connection, and is counted", "[remote][server]") {
  TortureRig rig;
  const auto with = [](void (*spoil)(FrameHeader&)) {
    FrameHeader header = FrameOf(WireOp::kRead, 1, 0, 1);
    spoil(header);
    return BytesOf(header);
  };
  ByteVector magic = BytesOf(FrameOf(WireOp::kPing, 0));
  magic[0] ^= std::byte{1};
  ByteVector damaged = BytesOf(FrameOf(WireOp::kPing, 0));
  damaged[50] ^= std::byte{1};
  const ByteVector bad_frames[] = {
      magic,
      damaged,
      ByteVector(64, std::byte{0}),
      ByteVector(64, std::byte{0xFF}),
      with([](FrameHeader& h) { h.payload = 0xFFFFFFFF; }),
      with([](FrameHeader& h) { h.pages = 0xFFFFFFFF; }),
      with([](FrameHeader& h) { h.pages = kMaxWirePages + 1; }),
      with([](FrameHeader& h) { h.op = WireOp::kWrite; }),  // Pages, and no payload.
      with([](FrameHeader& h) { h.op = WireOp{99}; }),
      with([](FrameHeader& h) { h.flags = 0x40; }),
      with([](FrameHeader& h) {
        h.flags = WireFlags::kReply;
        h.payload = kPageSize;
      }),
      with([](FrameHeader& h) {
        h.op = WireOp::kHello;  // A second one.
        h.pages = 0;
        h.payload = HelloBody::kSize;
      }),
      with([](FrameHeader& h) { h.version = 1; }),  // Not what was agreed on.
  };
  uint64_t bad = 0;
  for (const ByteVector& bytes : bad_frames) {
    INFO("frame " << bad);
    RawPeer peer(rig.address());
    REQUIRE(peer.Hello(1).ok());
    REQUIRE(peer.Send(bytes));
    CHECK(peer.Ends());
    rig.AwaitCount(ServerCounter::kBadFrames, ++bad);
  }
  RawPeer peer(rig.address());
  REQUIRE(peer.Hello(1).ok());
  REQUIRE(peer.Send(with([](FrameHeader& h) { h.version = 77; })));
  CHECK(peer.Ends());
  CHECK(rig.Count(ServerCounter::kBadVersions) == 1);
  rig.CheckHonest(bad + 1);
}

TEST_CASE("who does not begin with a greeting is not talked to", "[remote][server]") {
  TortureRig rig;
  const ByteVector beginnings[] = {BytesOf(FrameOf(WireOp::kRead, 1, 0, 1)),
                                   BytesOf(FrameOf(WireOp::kPlace, 0)),
                                   ByteVector(500, std::byte{'G'}), ByteVector(64, std::byte{22})};
  uint64_t bad = 0;
  for (const ByteVector& bytes : beginnings) {
    RawPeer peer(rig.address());
    REQUIRE(peer.Send(bytes));
    CHECK(peer.Ends());
    rig.AwaitCount(ServerCounter::kBadFrames, ++bad);
  }
  CHECK(rig.Count(ServerCounter::kRequests) > 0);  // The honest client's alone.
  rig.CheckHonest(bad);
}

TEST_CASE("a token that is another's, or made up, opens no lane", "[remote][server]") {
  TortureRig rig;
  RawPeer owner(rig.address());
  const auto welcome = owner.Hello(1);
  REQUIRE(welcome.ok());
  constexpr auto kDemand = HelloBody::Role::kDemand;
  WireId wrong = welcome->token;
  wrong[15] ^= std::byte{1};
  RawPeer same(rig.address());
  CHECK(absl::IsPermissionDenied(same.Hello(1, kDemand, wrong).status()));
  CHECK(same.Ends());
  RawPeer other(rig.address());
  CHECK(absl::IsPermissionDenied(other.Hello(2, kDemand, welcome->token).status()));
  RawPeer tenant(rig.address());
  CHECK(absl::IsPermissionDenied(tenant.Hello(1, kDemand, welcome->token, "thief").status()));
  RawPeer control(rig.address());
  CHECK(
      absl::IsPermissionDenied(control.Hello(1, HelloBody::Role::kControl, {}, "thief").status()));
  CHECK(rig.Count(ServerCounter::kNotPermitted) == 4);
  RawPeer right(rig.address());
  CHECK(right.Hello(1, kDemand, welcome->token).ok());
  rig.CheckHonest(6);
}

TEST_CASE("slabs of others are no slabs, over sockets too", "[remote][server]") {
  TortureRig rig;
  RawPeer owner(rig.address());
  RawPeer thief(rig.address());
  REQUIRE(owner.Hello(1).ok());
  REQUIRE(thief.Hello(2).ok());
  const uint64_t slab = PlacedBy(owner);
  REQUIRE(owner.Send(WriteOf(slab, 0, 2, 0x5A, 1)));
  REQUIRE(HeaderOf(owner.Receive(FrameHeader::kSize)).status == WireStatus::kOk);
  REQUIRE(thief.Send(WriteOf(slab, 0, 2, 0x66, 9)));
  CHECK(HeaderOf(thief.Receive(FrameHeader::kSize)).status == WireStatus::kNoSlab);
  REQUIRE(thief.Send(BytesOf(FrameOf(WireOp::kRead, slab, 0, 1))));
  const ByteVector reply = thief.Receive(FrameHeader::kSize + kPageSize);
  CHECK(HeaderOf(reply).status == WireStatus::kNoSlab);
  CHECK(std::all_of(reply.begin() + FrameHeader::kSize, reply.end(),
                    [](std::byte b) { return b == std::byte{0}; }));
  uint64_t id = 10;
  for (const WireOp op : {WireOp::kRelease, WireOp::kShare, WireOp::kFence}) {
    CHECK(thief.Question(op, ++id, slab).status == WireStatus::kNoSlab);
  }
  REQUIRE(owner.Send(BytesOf(FrameOf(WireOp::kRead, slab, 1, 1))));
  CHECK(owner.Receive(FrameHeader::kSize + kPageSize).back() == std::byte{0x5A});
  rig.CheckHonest(2);
}

TEST_CASE("a question that is replayed changes nothing", "[remote][server]") {
  TortureRig rig;
  RawPeer peer(rig.address());
  REQUIRE(peer.Hello(1).ok());
  const uint64_t slab = PlacedBy(peer, 5);
  CHECK(PlacedBy(peer, 5) == slab);
  RawPeer again(rig.address());
  REQUIRE(again.Hello(1).ok());
  CHECK(PlacedBy(again, 5) == slab);
  CHECK(again.Question(WireOp::kPlace, 4).status == WireStatus::kNotPermitted);
  CHECK(rig.server().store().rented() == 2);  // With the honest client's.
  REQUIRE(again.Question(WireOp::kRelease, 6, slab).status == WireStatus::kOk);
  CHECK(peer.Question(WireOp::kRelease, 6, slab).status == WireStatus::kOk);
  CHECK(again.Question(WireOp::kRelease, 7, slab).status == WireStatus::kNoSlab);
  rig.CheckHonest(2);
}

TEST_CASE("a frame that never ends holds nothing once its connection is gone", "[remote][server]") {
  TortureRig rig;
  RawPeer control(rig.address());
  const auto welcome = control.Hello(1);
  REQUIRE(welcome.ok());
  const uint64_t slab = PlacedBy(control);
  const ByteVector whole = WriteOf(slab, 0, 4, 0x77, 1);
  for (const size_t cut : {1ul, 63ul, 64ul, 70ul, 64ul + 32, 64ul + 32 + 5000, whole.size() - 1}) {
    RawPeer lane(rig.address());
    REQUIRE(lane.Hello(1, HelloBody::Role::kWriteBack, welcome->token).ok());
    REQUIRE(lane.Send({whole.data(), cut}));
  }
  REQUIRE(control.Question(WireOp::kRelease, 2, slab).status == WireStatus::kOk);
  YieldUntil([&] { return rig.server().store().rented() == 1; });
  rig.CheckHonest(8);
}

TEST_CASE("a peer that falls silent is cut off after its lease", "[remote][server]") {
  TortureRig rig(30'000, 2000);
  RawPeer peer(rig.address());
  REQUIRE(peer.Hello(1).ok());
  const uint64_t slab = PlacedBy(peer);
  const ByteVector whole = WriteOf(slab, 0, 4, 0x77, 1);
  REQUIRE(peer.Send({whole.data(), 1000}));
  CHECK(peer.Ends());
  YieldUntil([&] { return rig.server().store().rented() == 1; });
  rig.AwaitCount(ServerCounter::kLeasesExpired, 1);
  rig.CheckHonest(1);
}

TEST_CASE("who takes no replies is not read from, costs little, and is cut off",
          "[remote][server]") {
  TortureRig rig(500);
  RawPeer peer(rig.address());
  REQUIRE(peer.Hello(1).ok());
  const uint64_t slab = PlacedBy(peer);
  const ByteVector read = BytesOf(FrameOf(WireOp::kRead, slab, 0, kMaxWirePages));
  ByteVector many;
  for (int i = 0; i < 1000; ++i) many.insert(many.end(), read.begin(), read.end());
  const size_t before = mallinfo2().uordblks;
  uint64_t asked = 0;
  // Until the sockets are full, and the server does not empty them.
  while (peer.TrySend(many) > 0) asked += 1000;
  rig.CheckHonest(1);
  CHECK(mallinfo2().uordblks < before + 100'000);
  rig.AwaitCount(ServerCounter::kSlowPeers, 1);
  CHECK(rig.Count(ServerCounter::kPagesRead) < asked * kMaxWirePages);
  rig.CheckHonest(1);
}

TEST_CASE("who takes replies late gets every one, in order", "[remote][server]") {
  TortureRig rig;
  RawPeer peer(rig.address());
  REQUIRE(peer.Hello(1).ok());
  const uint64_t slab = PlacedBy(peer);
  const uint32_t kRequests = Rounds(20'000);
  std::thread asker([&] {
    for (uint64_t id = 0; id < kRequests; ++id) {
      FrameHeader read = FrameOf(WireOp::kRead, slab, 0, 1 + id % 3);
      read.id = id;
      if (!peer.Send(BytesOf(read))) return;
    }
  });
  const uint64_t seed = TestSeed();
  INFO("SPIRITOS_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  uint64_t in_order = 0;
  for (uint64_t id = 0; id < kRequests; ++id) {
    // In gulps: the server gets stuck, and free again, at any point.
    if (random() % 200 == 0) {
      for (int i = 0; i < 200; ++i) sched_yield();
    }
    const ByteVector reply = peer.Receive(FrameHeader::kSize + (1 + id % 3) * kPageSize);
    if (reply.size() < FrameHeader::kSize) break;
    FrameBytes bytes;
    std::copy_n(reply.begin(), bytes.size(), bytes.begin());
    FrameHeader header;
    if (DecodeFrame(bytes, &header) != FrameError::kNone || header.id != id) break;
    ++in_order;
  }
  shutdown(peer.socket(), SHUT_RDWR);  // Whatever happened, the asker ends.
  asker.join();
  CHECK(in_order == kRequests);
  rig.CheckHonest(1);
}

}  // namespace
}  // namespace spiritos
