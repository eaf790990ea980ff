// SPDX-License-Identifier: Apache-2.0
// What a connection waits for, while its peer does both at once.
#include "libos/remote/server/connection.h"

#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "test/support/raw_peer.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

bool SendAll(int socket, ByteVector bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.erase(bytes.begin(), bytes.begin() + sent);
  }
  return true;
}

// Its peer may take replies between any two looks at the socket.
TEST_CASE("a connection with nothing to do waits to send or to receive", "[remote][server]") {
  SlabStore store({.slabs = 1, .lock = false});
  REQUIRE(store.Refill().ok());
  Tenancy tenancy(store, {.lease_ns = UINT64_MAX});
  ServerCounters counters;
  ServerParts parts{tenancy, counters, {.lease_ms = 1, .max_requests = 1}, store, nullptr};
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  const UniqueFd peer(ends[1]);
  ServerConnection connection(UniqueFd(ends[0]), "", false, 0);

  HelloBody hello;
  hello.tenant[0] = 't';
  HelloBytes body;
  EncodeHello(hello, &body);
  FrameHeader header = FrameOf(WireOp::kHello, 0);
  header.payload = HelloBody::kSize;
  header.payload_crc = Crc32c(body);
  REQUIRE(SendAll(peer.get(), BytesOf(header)));
  REQUIRE(SendAll(peer.get(), {body.begin(), body.end()}));
  while (!connection.greeted()) {
    REQUIRE(connection.Step(parts, 0) == ServerConnection::Turn::kMore);
  }
  REQUIRE(SendAll(peer.get(), BytesOf(FrameOf(WireOp::kPlace, 0))));

  const uint32_t kRequests = Rounds(100'000);
  const size_t kReply = FrameHeader::kSize + kPageSize;
  std::thread asker([&] {
    const ByteVector read = BytesOf(FrameOf(WireOp::kRead, 1, 0, 1));
    for (uint32_t i = 0; i < kRequests; ++i) {
      if (!SendAll(peer.get(), read)) return;
    }
  });
  std::atomic<bool> done{false};
  std::thread taker([&] {
    const size_t all =
        FrameHeader::kSize + WelcomeBody::kSize + FrameHeader::kSize + size_t{kRequests} * kReply;
    ByteVector buffer(kReply);
    for (size_t taken = 0; taken < all;) {
      const ssize_t got = recv(peer.get(), buffer.data(), buffer.size(), 0);
      if (got <= 0) break;
      taken += static_cast<size_t>(got);
    }
    done.store(true);
  });
  bool stuck = false;
  while (!done.load() && !stuck) {
    const auto turn = connection.Step(parts, 0);
    stuck = turn == ServerConnection::Turn::kClosed ||
            (turn == ServerConnection::Turn::kDrained && !connection.waits_to_receive() &&
             !connection.waits_to_send());
  }
  shutdown(peer.get(), SHUT_RDWR);
  asker.join();
  taker.join();
  CHECK_FALSE(stuck);
}

}  // namespace
}  // namespace spiritos
