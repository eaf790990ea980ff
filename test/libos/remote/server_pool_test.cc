// SPDX-License-Identifier: Apache-2.0
// Pools of several memory servers: copies, their loss, their repair.
#include "libos/remote/server_pool.h"

#include <random>

#include "test/libos/remote/pool_rig.h"

namespace spiritos {

TEST_CASE("copies need servers on as many machines") {
  ServerThread one({.tcp_port = 0, .memory = Bytes(kSlabSize), .lock_memory = false});
  ServerThread two({.tcp_port = 0, .memory = Bytes(kSlabSize), .lock_memory = false});
  const auto same =
      ServerPool::Create({.servers = {one.tcp(), two.tcp()}, .tenant = "test", .copies = 2});
  CHECK(same.status().message().find("2 copies of a page need servers on as many machines, and "
                                     "these are on 1") != std::string::npos);
  const auto few = ServerPool::Create({.servers = {one.tcp()}, .tenant = "test", .copies = 2});
  CHECK(few.status().message().find("need as many servers, not 1") != std::string::npos);
}

TEST_CASE("a mirrored slab outlives either server") {
  const uint32_t lost = GENERATE(0u, 1u);
  Servers servers(2);
  const auto pool = servers.Connect(2);
  Content content(*pool);
  content.WriteAll(1);
  servers.Stop(lost);
  content.CheckAll();
  content.WriteAll(2);
  content.CheckAll();
  Eventually("the slab counts as degraded", [&] { return pool->health().degraded_slabs == 1; });
  CHECK(pool->health().lost_slabs == 0);

  // The one that comes back is filled anew, and then is enough.
  servers.Restart(lost);
  Eventually("the slab is mended", [&] {
    return pool->health().mended_slabs == 1 && pool->health().degraded_slabs == 0;
  });
  servers.Stop(1 - lost);
  content.CheckAll();
}

TEST_CASE("servers are lost one after the other, under writes, and nothing else is") {
  const uint32_t seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937 random(seed);
  Servers servers(3);
  const auto pool = servers.Connect(2);
  Content content(*pool);
  content.WriteAll(1);
  uint64_t version = 1;
  const auto write_some = [&] {
    const uint32_t count = 1 + random() % kRun;
    REQUIRE(content.Write(random() % (kPages - count), count, ++version) == 0);
  };
  for (uint32_t round = 0; round < 6; ++round) {
    servers.Stop(round % 3);
    write_some();  // Not done before a copy there is out of the map.
    Eventually("the pool is whole", [&] {
      write_some();
      return pool->health().degraded_slabs == 0;
    });
    servers.Restart(round % 3);
    for (int i = 0; i < 20; ++i) write_some();
    content.CheckAll();
  }
  CHECK(pool->health().mended_slabs >= 3);  // Of six servers that went, four held a copy.
}

TEST_CASE("what all copies are lost of fails, and room for new pages comes back") {
  Servers servers(2);
  const auto pool = servers.Connect(2, 1000);
  SlotId first;
  {
    Content content(*pool);
    content.WriteAll(1);
    servers.Stop(0);
    servers.Stop(1);
    first = content.slab();
    CHECK(content.Read(0, 1) == EIO);
    CHECK(content.Write(0, 1, 2) != 0);
    Eventually("the slab counts as lost", [&] { return pool->health().lost_slabs == 1; });
  }
  servers.Restart(0);
  servers.Restart(1);
  Content other(*pool);
  CHECK(other.slab() != first);
  other.WriteAll(3);
  other.CheckAll();
  pool->ReleaseSlab(first);
}

}  // namespace spiritos
