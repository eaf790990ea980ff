// SPDX-License-Identifier: Apache-2.0
// RemoteRig: one pool of each kind for the tests that all must pass, requests that
// are submitted and awaited, and page contents that tell slots and versions apart.
#pragma once

#include <sys/mman.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "libos/base/check.h"
#include "libos/base/mapping.h"
#include "libos/remote/embedded_backend.h"
#include "libos/remote/encrypting_backend.h"
#include "libos/remote/file_backend.h"
#include "libos/remote/pool_factory.h"
#include "libos/remote/server_pool.h"
#include "libos/remote/shaped_backend.h"
#include "libos/remote/shm_backend.h"
#include "test/support/key_file.h"
#include "test/support/rdma_device.h"
#include "test/support/server_thread.h"
#include "test/support/temp_dir.h"

namespace spiritos {

// Page-aligned near memory.
class Pages {
 public:
  explicit Pages(uint32_t count) {
    auto memory = Mapping::Anonymous(Bytes(size_t{count} << kPageShift), kPageSize, "test pages");
    SPIRITOS_CHECK(memory.ok(), "no memory for a test's pages");  // In any thread.
    memory_ = *std::move(memory);
  }
  std::byte* operator[](uint32_t page) const {
    return memory_.data() + (size_t{page} << kPageShift);
  }

 private:
  Mapping memory_;
};

inline uint64_t WordOf(uint64_t slot, uint64_t version, uint64_t index) {
  return (slot * 0x9E3779B97F4A7C15ull) ^ (version * 0xC2B2AE3D27D4EB4Full) ^ index;
}
inline void WritePage(std::byte* page, uint64_t slot, uint64_t version) {
  for (uint64_t i = 0; i < kPageSize / 8; ++i) {
    const uint64_t word = WordOf(slot, version, i);
    std::memcpy(page + 8 * i, &word, 8);
  }
}
inline bool PageHolds(const std::byte* page, uint64_t slot, uint64_t version) {
  for (uint64_t i = 0; i < kPageSize / 8; ++i) {
    const uint64_t word = WordOf(slot, version, i);
    if (std::memcmp(page + 8 * i, &word, 8) != 0) return false;
  }
  return true;
}

// Versions for a write of so many pages, newer than all before. They stay for good: a
// request's must until it is final.
inline const uint32_t* NextVersions(uint32_t pages) {
  static std::mutex mutex;
  static std::deque<std::vector<uint32_t>> given;
  static uint32_t version = 0;
  const std::lock_guard<std::mutex> guard(mutex);
  return given.emplace_back(pages, ++version).data();
}

inline void Prepare(IoRequest& request, IoOp op, Lane lane, SlotId first, uint32_t pages,
                    std::byte* memory) {
  request.op = op;
  request.lane = lane;
  request.first = first;
  request.pages = pages;
  request.memory = memory;
  if (op == IoOp::kWrite) request.versions = NextVersions(pages);
  request.error = 0;
  request.status.store(IoStatus::kIdle);
}
inline void SubmitWhenFree(RemoteBackend& pool, IoRequest& request) {
  while (pool.Submit(request) == IoResult::kBusy) {
    if (!pool.Poll(request.lane)) sched_yield();
  }
}
// 0, or the errno that the request failed with.
inline int Run(RemoteBackend& pool, IoOp op, Lane lane, SlotId first, uint32_t pages,
               std::byte* memory) {
  IoRequest request;
  Prepare(request, op, lane, first, pages, memory);
  SubmitWhenFree(pool, request);
  pool.Wait(request);
  return request.status.load() == IoStatus::kDone ? 0 : request.error;
}

inline constexpr std::array<Lane, kLanes> kAllLanes = {Lane::kDemand, Lane::kPrefetch,
                                                       Lane::kWriteBack};
inline constexpr std::array<const char*, 17> kPoolKinds = {"embedded",
                                                           "file",
                                                           "file without io_uring",
                                                           "shaped embedded",
                                                           "shaped file",
                                                           "shaped tcp",
                                                           "shm",
                                                           "shm copied",
                                                           "tcp",
                                                           "tls",
                                                           "backup",
                                                           "backup alone",
                                                           "encrypted backup",
                                                           "encrypted embedded",
                                                           "encrypted file",
                                                           "encrypted tcp",
                                                           "encrypted shaped tcp"};

// Those, and what this machine has a device for.
inline std::vector<std::string> PoolKinds() {
  std::vector<std::string> kinds(kPoolKinds.begin(), kPoolKinds.end());
  if (!RdmaAddress().empty()) {
    kinds.push_back("rdma");
  } else {
    WARN("skipped over rdma: no device (SPIRITOS_TEST_RDMA, or ./run test --vm)");
  }
  return kinds;
}

class RemoteRig {
 public:
  // `kind`: one of PoolKinds().
  explicit RemoteRig(const std::string& kind, uint32_t slabs = 4) {
    const Bytes size(slabs * kSlabSize);
    const bool encrypted = kind.starts_with("encrypted");
    const bool shaped = kind.find("shaped") != kind.npos;
    if (kind.starts_with("shm")) {
      server_.emplace(ServerOptions{.unix_path = dir_.file("socket"), .memory = size});
      Keep(ShmBackend::Create({ServerAddress::Kind::kUnix, dir_.file("socket"), ""}, "test", {},
                              kind == "shm copied" ? Verify::kCopied : Verify::kMapped));
    } else if (kind.ends_with("tcp")) {
      server_.emplace(ServerOptions{.tcp_port = 0, .memory = size});
      Keep(ServerPool::Create({.servers = {server_->tcp()}, .tenant = "test"}));
    } else if (kind.find("backup") != kind.npos) {
      server_.emplace(ServerOptions{.tcp_port = 0, .memory = size});
      Keep(MakePool({.pool = server_->tcp().ToString(),
                     .backup = dir_.file("backup"),
                     .backup_buffer = Bytes(1 << 20),
                     .dead_after_ns = 200'000'000}));
      if (kind == "backup alone") server_.reset();
    } else if (kind == "rdma") {
      server_.emplace(ServerOptions{.tcp_host = RdmaAddress(),
                                    .tcp_port = 0,
                                    .rdma = true,
                                    .trust_network = true,
                                    .memory = size});
      Keep(ServerPool::Create({.servers = {server_->rdma()}, .tenant = "test"}));
    } else if (kind == "tls") {
      const TlsOptions tls{.psk = WriteKeys(dir_, {*TlsKey::Make("test")})};
      server_.emplace(ServerOptions{.tcp_port = 0, .memory = size, .tls = tls});
      Keep(MakePool({.pool = server_->tcp().ToString(), .tls = tls}));
    } else if (kind.ends_with("embedded")) {
      Keep(EmbeddedBackend::Create(size));
    } else {
      const bool rings = kind != "file without io_uring";
      Keep(FileBackend::Create(dir_.file("pool"), size,
                               rings ? FileBackend::Io::kRings : FileBackend::Io::kSynchronous));
    }
    if (shaped) {
      Keep(ShapedBackend::Create(std::move(pool_),
                                 {.latency_ns = 20'000, .bytes_per_second = 4'000'000'000}));
    }
    if (encrypted) Keep(EncryptingBackend::Create(std::move(pool_)));
    UNSCOPED_INFO("pool: " << pool_->description());
  }
  RemoteBackend& pool() { return *pool_; }
  // A placed slab's first slot.
  SlotId Place() {
    SlotId first;
    REQUIRE(pool_->PlaceSlab(&first) == IoResult::kOk);
    return first;
  }

 private:
  template <typename Backend>
  void Keep(absl::StatusOr<std::unique_ptr<Backend>> made) {
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    pool_ = *std::move(made);
  }

  TempDir dir_;
  std::optional<ServerThread> server_;
  std::unique_ptr<RemoteBackend> pool_;
};

}  // namespace spiritos
