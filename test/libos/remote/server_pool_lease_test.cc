// SPDX-License-Identifier: Apache-2.0
// Networks that are cut, for less than a lease and for more.
#include <future>

#include "test/libos/remote/pool_rig.h"
#include "test/support/proxy.h"

namespace spiritos {
namespace {

// A pool that reaches its server by a network that can be cut: nothing passes then, and
// neither side is told.
struct Cut {
  explicit Cut(uint64_t lease_ms)
      : server({.tcp_port = 0,
                .memory = Bytes(2 * kSlabSize),
                .lock_memory = false,
                .lease_ms = lease_ms}),
        network(server.tcp()) {
    auto made =
        ServerPool::Create({.servers = {network.address()}, .tenant = "test", .dead_ms = 200});
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    pool = *std::move(made);
  }
  uint64_t expired() { return server.server().counters().Get(ServerCounter::kLeasesExpired); }

  ServerThread server;
  Proxy network;
  std::unique_ptr<ServerPool> pool;
};

TEST_CASE("a network that is cut for less than the lease costs time and nothing else") {
  constexpr uint64_t kLeaseMs = 5000;
  Cut cut(kLeaseMs);
  Content content(*cut.pool);
  content.WriteAll(1);
  for (const uint64_t share : {10, 2}) {
    cut.network.Hold(true);
    const uint64_t until = NowNs() + kLeaseMs * 1'000'000 / share;
    auto read = std::async(std::launch::async, [&] { return content.Read(0, kRun); });
    Eventually("the cut has lasted", [&] { return NowNs() >= until; });
    CHECK(read.wait_for(std::chrono::seconds(0)) == std::future_status::timeout);
    cut.network.Hold(false);
    CHECK(read.get() == 0);
    content.CheckAll();
    content.WriteAll(share);
    content.CheckAll();
  }
  CHECK(cut.expired() == 0);
  CHECK(cut.pool->health().lost_slabs == 0);
  CHECK(cut.server.server().store().rented() == 1);
}

TEST_CASE("a network that is cut for longer loses the slabs, loudly, and room is there anew") {
  Cut cut(1000);
  Content content(*cut.pool);
  content.WriteAll(1);
  cut.network.Hold(true);
  Eventually("the lease is over", [&] { return cut.expired() == 1; });
  CHECK(cut.server.server().store().rented() == 0);
  auto read = std::async(std::launch::async, [&] { return content.Read(0, kRun); });
  cut.network.Hold(false);
  // Neither zeroes nor what another tenant has there now; what it is told depends on whether
  // it asked before the loss was known.
  const int error = read.get();
  CHECK((error == EIO || error == EHOSTUNREACH));
  CHECK(content.Write(0, kRun, 2) != 0);
  Eventually("the slab counts as lost", [&] { return cut.pool->health().lost_slabs == 1; });
  Content other(*cut.pool);
  other.WriteAll(3);
  other.CheckAll();
  CHECK(content.Read(0, kRun) == EHOSTUNREACH);
}

}  // namespace
}  // namespace spiritos
