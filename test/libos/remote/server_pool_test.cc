// SPDX-License-Identifier: Apache-2.0
// Pools of several memory servers: copies, their loss, their repair.
#include "libos/remote/server_pool.h"

#include <fcntl.h>
#include <sched.h>

#include <atomic>
#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "libos/base/clock.h"
#include "test/libos/remote/remote_rig.h"

namespace spiritos {
namespace {

constexpr uint32_t kPages = 4096;  // Looked at in a slab.
constexpr uint32_t kRun = 256;

// Servers of one machine that count as machines of their own.
class Servers {
 public:
  explicit Servers(uint32_t count, uint32_t slabs = 4) {
    for (uint32_t i = 0; i < count; ++i) {
      addresses_.push_back(Start(i, 0, slabs));
    }
  }
  void Stop(uint32_t i) { servers_[i].reset(); }
  // Another one at the same place, that knows of nothing.
  void Restart(uint32_t i) { Start(i, std::stoi(addresses_[i].port), 4); }

  std::unique_ptr<ServerPool> Connect(uint32_t copies, uint64_t give_up_ms = 30'000) {
    auto made = ServerPool::Create({.servers = addresses_,
                                    .tenant = "test",
                                    .copies = copies,
                                    .dead_ms = 200,
                                    .give_up_ms = give_up_ms});
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    return *std::move(made);
  }

 private:
  ServerAddress Start(uint32_t i, int port, uint32_t slabs) {
    servers_.resize(std::max<size_t>(servers_.size(), i + 1));
    servers_[i] = std::make_unique<ServerThread>(ServerOptions{.tcp_port = port,
                                                               .host = std::string(1, 'a' + i),
                                                               .memory = Bytes(slabs * kSlabSize),
                                                               .lock_memory = false});
    return servers_[i]->tcp();
  }

  std::vector<ServerAddress> addresses_;
  std::vector<std::unique_ptr<ServerThread>> servers_;
};

template <typename Condition>
void Eventually(const char* what, Condition condition) {
  const uint64_t deadline = NowNs() + 30'000'000'000;
  INFO("waiting until " << what);
  while (!condition()) {
    REQUIRE(NowNs() < deadline);
    sched_yield();
  }
}

// Pages of one slab, and which version each must have.
class Content {
 public:
  explicit Content(RemoteBackend& pool) : pool_(pool), memory_(kRun), versions_(kPages, 0) {
    REQUIRE(pool.PlaceSlab(&slab_) == IoResult::kOk);
  }
  // 0, or the errno.
  int Write(uint32_t first, uint32_t count, uint64_t version) {
    for (uint32_t i = 0; i < count; ++i) WritePage(memory_[i], first + i, version);
    const int error =
        Run(pool_, IoOp::kWrite, Lane::kWriteBack, slab_ + PageCount(first), count, memory_[0]);
    for (uint32_t i = 0; error == 0 && i < count; ++i) versions_[first + i] = version;
    return error;
  }
  void WriteAll(uint64_t version) {
    for (uint32_t first = 0; first < kPages; first += kRun) {
      REQUIRE(Write(first, kRun, version) == 0);
    }
  }
  int Read(uint32_t first, uint32_t count) {
    return Run(pool_, IoOp::kRead, Lane::kDemand, slab_ + PageCount(first), count, memory_[0]);
  }
  void CheckAll() {
    uint32_t wrong = 0;
    for (uint32_t first = 0; first < kPages; first += kRun) {
      REQUIRE(Read(first, kRun) == 0);
      for (uint32_t i = 0; i < kRun; ++i) {
        wrong += PageHolds(memory_[i], first + i, versions_[first + i]) ? 0 : 1;
      }
    }
    CHECK(wrong == 0);
  }
  SlotId slab() const { return slab_; }

 private:
  RemoteBackend& pool_;
  SlotId slab_;
  Pages memory_;
  std::vector<uint64_t> versions_;
};

}  // namespace

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
