// SPDX-License-Identifier: Apache-2.0
// Peers that have not said who they are: how long, how many, and what each costs.
#include <malloc.h>

#include <deque>

#include "libos/remote/tls_stream.h"
#include "test/libos/remote/remote_rig.h"
#include "test/support/key_file.h"
#include "test/support/raw_peer.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

constexpr uint32_t kMaxStrangers = 64;

ServerOptions Serving(uint64_t greeting_ms, const TlsOptions& tls = {}) {
  return {.tcp_port = 0,
          .memory = Bytes(2 * kSlabSize),
          .lock_memory = false,
          .greeting_ms = greeting_ms,
          .tls = tls};
}

// What a client with that key says first.
ByteVector ClientHello(const TlsOptions& tls) {
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
  const UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  const auto context = TlsContext::ForClient(tls);
  REQUIRE(context.ok());
  const auto stream = TlsStream::Connect(**context, theirs.get(), "127.0.0.1");
  REQUIRE(stream->Handshake() == TlsStream::Progress::kWaits);
  ByteVector bytes(4096);
  const ssize_t size = recv(ours.get(), bytes.data(), bytes.size(), 0);
  REQUIRE(size > 100);
  bytes.resize(static_cast<size_t>(size));
  return bytes;
}

struct TlsRig {
  explicit TlsRig(uint64_t greeting_ms) : server(Serving(greeting_ms, tls)) {}
  uint64_t Count(ServerCounter counter) { return server.server().counters().Get(counter); }

  const TempDir dir;
  const TlsOptions tls{.psk = WriteKeys(dir, {*TlsKey::Make("a")})};
  const ByteVector hello = ClientHello(tls);
  ServerThread server;
};

TEST_CASE("a handshake that stalls anywhere is over at the deadline", "[remote][server][tls]") {
  TlsRig rig(400);
  std::deque<RawPeer> peers;
  for (const size_t bytes :
       {size_t{0}, size_t{1}, size_t{5}, rig.hello.size() - 1, rig.hello.size()}) {
    REQUIRE(peers.emplace_back(rig.server.tcp()).Send({rig.hello.data(), bytes}));
  }
  for (RawPeer& peer : peers) CHECK(peer.Ends());
  YieldUntil([&] { return rig.server.server().connections() == 0; });
  CHECK(rig.Count(ServerCounter::kSilentPeers) == peers.size());
}

TEST_CASE("a greeting that trickles in is over at the deadline", "[remote][server]") {
  ServerThread server(Serving(400));
  RawPeer peer(server.tcp());
  HelloBody hello;
  HelloBytes body;
  EncodeHello(hello, &body);
  FrameHeader header = FrameOf(WireOp::kHello, 0);
  header.payload = HelloBody::kSize;
  const ByteVector bytes = BytesOf(header);
  size_t sent = 0;
  // A byte every 50 ms: progress all the time, and no end of it.
  while (sent < bytes.size() && peer.Send({bytes.data() + sent, 1})) {
    ++sent;
    if (AwaitSocket(peer.socket(), POLLIN, NowNs() + 50'000'000)) break;
  }
  CHECK(sent < bytes.size());
  CHECK(server.server().counters().Get(ServerCounter::kSilentPeers) == 1);
}

TEST_CASE("a crowd of strangers keeps nobody out, and the oldest of it go",
          "[remote][server][tls]") {
  const bool over_tls = GENERATE(false, true);
  TlsRig rig(60'000);
  std::optional<ServerThread> plain;
  if (!over_tls) plain.emplace(Serving(60'000));
  ServerThread& server = over_tls ? rig.server : *plain;
  constexpr uint32_t kCrowd = 3 * kMaxStrangers;
  std::deque<RawPeer> crowd;
  for (uint32_t i = 0; i < kCrowd; ++i) {
    RawPeer& peer = crowd.emplace_back(server.tcp());
    if (i % 2 == 0) REQUIRE(peer.Send({rig.hello.data(), 3}));
  }
  // An honest one that came before, or comes after, is served.
  const auto pool =
      MakePool({.pool = server.tcp().ToString(), .tls = over_tls ? rig.tls : TlsOptions{}});
  INFO(pool.status().ToString());
  REQUIRE(pool.ok());
  SlotId slot;
  CHECK((*pool)->PlaceSlab(&slot) == IoResult::kOk);
  const auto& counters = server.server().counters();
  const uint64_t crowded = counters.Get(ServerCounter::kCrowdedPeers);
  const uint64_t refused =
      counters.Get(ServerCounter::kPlainPeers) + counters.Get(ServerCounter::kBadFrames);
  CHECK(crowded + refused >= kCrowd - kMaxStrangers);
  CHECK(server.server().connections() <= kMaxStrangers + 4);
  CHECK(crowd.front().Ends());
}

// Malloc counts no more than this where a sanitizer has taken its place.
TEST_CASE("a peer in a handshake costs what OpenSSL takes, and little more",
          "[remote][server][tls]") {
  if (kUnderAsan || kUnderTsan) return;
  TlsRig rig(60'000);
  constexpr uint32_t kPeers = kMaxStrangers - 4;
  std::deque<RawPeer> peers;
  std::deque<std::pair<UniqueFd, UniqueFd>> pairs;
  for (uint32_t i = 0; i < kPeers; ++i) {
    peers.emplace_back(rig.server.tcp());
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0);
    pairs.emplace_back(UniqueFd(ends[0]), UniqueFd(ends[1]));
  }
  YieldUntil([&] { return rig.server.server().connections() == kPeers; });
  const size_t silent = mallinfo2().uordblks;
  // Up to where the server waits for the client to be convinced.
  for (RawPeer& peer : peers) {
    REQUIRE(peer.Send(rig.hello));
    REQUIRE(peer.Receive(1).size() == 1);
  }
  const size_t shaking = mallinfo2().uordblks - silent;

  // The same without a server: OpenSSL alone.
  const auto context = TlsContext::ForServer(rig.tls);
  REQUIRE(context.ok());
  std::deque<std::unique_ptr<TlsStream>> streams(kPeers);
  const size_t before = mallinfo2().uordblks;
  for (uint32_t i = 0; i < kPeers; ++i) {
    const auto sent = send(pairs[i].first.get(), rig.hello.data(), rig.hello.size(), 0);
    REQUIRE(sent == static_cast<ssize_t>(rig.hello.size()));
    streams[i] = TlsStream::Accept(**context, pairs[i].second.get());
    REQUIRE(streams[i]->Handshake() == TlsStream::Progress::kWaits);
  }
  const size_t openssl = mallinfo2().uordblks - before;
  const size_t ours = sizeof(ServerConnection);
  INFO("bytes a peer in its handshake: OpenSSL " << openssl / kPeers << ", the server besides "
                                                 << ours << " and in all "
                                                 << ours + shaking / kPeers);
  CHECK(shaking / kPeers < openssl / kPeers + 4096 - ours);
  CHECK(rig.server.server().clients() == 0);
}

}  // namespace
}  // namespace spiritos
