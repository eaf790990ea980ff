// SPDX-License-Identifier: Apache-2.0
// RottingServer: a memory server of one slab, and that slab's memory behind its back; over
// TCP, or over a Unix socket.
#pragma once

#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <optional>
#include <set>
#include <string>

#include "test/support/server_thread.h"

namespace spiritos {

// The files of slabs that this process has open: those of its servers.
inline std::set<int> SlabFiles() {
  std::set<int> files;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const auto target = std::filesystem::read_symlink(entry, gone).string();
    if (!gone && target.find("spiritos-slab") != target.npos) {
      files.insert(std::stoi(entry.path().filename().string()));
    }
  }
  return files;
}

struct RottingServer {
  explicit RottingServer(const std::string& host, const std::string& unix_path = "") {
    const std::set<int> before = SlabFiles();
    server.emplace(ServerOptions{.unix_path = unix_path,
                                 .tcp_port = unix_path.empty() ? 0 : -1,
                                 .host = host,
                                 .memory = Bytes(kSlabSize),
                                 .lock_memory = false});
    for (const int file : SlabFiles()) {
      if (before.contains(file)) continue;
      void* const at = mmap(nullptr, kSlabSize, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
      REQUIRE(at != MAP_FAILED);
      slab = static_cast<std::byte*>(at);
    }
    REQUIRE(slab != nullptr);
  }
  ~RottingServer() { munmap(slab, kSlabSize); }
  RottingServer(const RottingServer&) = delete;
  RottingServer& operator=(const RottingServer&) = delete;

  std::optional<ServerThread> server;
  std::byte* slab = nullptr;
};

}  // namespace spiritos
