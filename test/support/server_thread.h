// SPDX-License-Identifier: Apache-2.0
// ServerThread: a memory server that runs in a thread of the test.
#pragma once

#include <fmt/core.h>

#include <memory>
#include <string>
#include <thread>

#include "libos/base/check.h"
#include "libos/remote/dial.h"
#include "libos/remote/server/server.h"

namespace spiritos {

class ServerThread {
 public:
  explicit ServerThread(const ServerOptions& options) {
    auto made = MemoryServer::Create(options);
    SPIRITOS_CHECK(made.ok(), "a test's server: {}", std::string(made.status().message()));
    server_ = *std::move(made);
    host_ = options.tcp_host;
    thread_ = std::thread([this] { server_->Run(); });
  }
  ~ServerThread() {
    server_->Stop();
    thread_.join();
  }
  ServerThread(const ServerThread&) = delete;
  ServerThread& operator=(const ServerThread&) = delete;

  MemoryServer& server() { return *server_; }
  ServerAddress tcp() const { return At(ServerAddress::Kind::kTcp); }
  ServerAddress rdma() const { return At(ServerAddress::Kind::kRdma); }

 private:
  ServerAddress At(ServerAddress::Kind kind) const {
    return {kind, host_, fmt::format("{}", server_->tcp_port())};
  }

  std::unique_ptr<MemoryServer> server_;
  std::string host_;
  std::thread thread_;
};

}  // namespace spiritos
