// SPDX-License-Identifier: Apache-2.0
// PoolRig: several memory servers in this process, and a pool over them whose content is
// checked.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "test/libos/remote/remote_rig.h"
#include "test/support/eventually.h"

namespace spiritos {

inline constexpr uint32_t kPages = 4096;  // Looked at in a slab.
inline constexpr uint32_t kRun = 256;

// Servers of one machine that count as machines of their own.
class Servers {
 public:
  explicit Servers(uint32_t count, uint32_t slabs = 4) {
    for (uint32_t i = 0; i < count; ++i) {
      addresses_.push_back(Start(i, 0, slabs));
    }
  }
  MemoryServer& operator[](uint32_t i) { return servers_[i]->server(); }
  void Stop(uint32_t i) { servers_[i].reset(); }
  // Another one at the same place, that knows of nothing.
  void Restart(uint32_t i) { Start(i, std::stoi(addresses_[i].port), 4); }

  // A slow machine is no dead one.
  std::unique_ptr<ServerPool> Connect(uint32_t copies, uint64_t give_up_ms = 30'000,
                                      uint64_t dead_ms = 1'500) {
    auto made = ServerPool::Create({.servers = addresses_,
                                    .tenant = "test",
                                    .copies = copies,
                                    .dead_ms = dead_ms,
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

}  // namespace spiritos
