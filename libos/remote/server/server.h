// SPDX-License-Identifier: Apache-2.0
// MemoryServer: slabs of memory for tenants, behind `spiritos memd`.
//
// One thread serves all connections: a read is a system call in and one out, and there
// is nothing to do in parallel that the memory's bandwidth would not bound. Demand
// reads go first: between any two steps of connections that move bulk, those that
// somebody waits for are looked at. A second thread makes slabs ready.
//
//   Serving --Drain--> Draining: rents nothing, asks for all slabs back --Resize--> Serving
//
// Threads: Run() by one; the rest from any; Stop() from signal handlers.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libos/base/fd.h"
#include "libos/base/lock.h"
#include "libos/base/options.h"
#include "libos/remote/server/connection.h"
#include "libos/remote/server/rdma_listener.h"
#include "libos/remote/server/reclaim.h"
#include "libos/remote/server/server_counters.h"
#include "libos/remote/server/slab_store.h"
#include "libos/remote/server/tenancy.h"

namespace spiritos {

struct ServerOptions {
  // Where to listen; an empty one is not listened on.
  std::string unix_path;
  std::string tcp_host = "127.0.0.1";
  int tcp_port = -1;  // -1 = no TCP; 0 = any free port, see tcp_port().
  bool rdma = false;  // At the TCP address too, which is an RDMA device's.
  // Whoever can reach the address may be any tenant: for a network of trusted machines.
  bool trust_network = false;

  // What fails as one: no two copies of a page are on the same host. Up to 16 characters;
  // empty = the machine.
  std::string host;

  Bytes memory = Bytes(uint64_t{1} << 30);  // Rounded down to slabs of 64 MiB.
  bool lock_memory = true;                  // Where allowed.
  // A folder in memory (tmpfs) whose files outlive this process: a server that is
  // started with it again serves the same slabs to the same clients. Empty = none.
  std::string state_path;
  uint64_t lease_ms = 60'000;
  uint64_t greeting_ms = 5'000;    // To say who one is.
  uint64_t slow_peer_ms = 30'000;  // To take a reply.
  uint64_t slab_quota = 0;         // Slabs of one tenant; 0 = no limit.
  // Bytes a second to and from one tenant over TCP; 0 = no limit, else Pacer::kMinRate or
  // more.
  uint64_t tenant_bandwidth = 0;
  // Called by the serving thread, at least every second: it lives. May be empty.
  std::function<void()> on_review;
  // Of everybody over TCP. Without it only this machine is listened to.
  TlsOptions tls;
};

class MemoryServer {
 public:
  // Takes the memory and listens. Errors name the option.
  static absl::StatusOr<std::unique_ptr<MemoryServer>> Create(const ServerOptions& options);
  ~MemoryServer();

  // Serves until Stop().
  void Run();
  void Stop() noexcept;

  // Serves so much from now on. When that is less, slabs that nobody rents are given up, and
  // tenants are asked for the others; what they cannot move they keep.
  absl::Status Resize(Bytes memory);
  // As with no memory at all, until Resize().
  void Drain();
  // Takes over `memory`, `slab_quota` and `tenant_bandwidth`: all of them, or none and says
  // why. REQUIRES: on the thread of Run().
  absl::Status Reconfigure(const ServerOptions& options);

  int tcp_port() const { return tcp_port_; }
  uint64_t slabs() const { return store_.limit(); }
  const SlabStore& store() const { return store_; }
  uint64_t restored() const { return restored_; }
  const ServerCounters& counters() const { return counters_; }
  // Now, as the serving thread saw it last.
  uint64_t connections() const { return connection_count_.load(std::memory_order_relaxed); }
  uint64_t clients() const { return client_count_.load(std::memory_order_relaxed); }
  std::vector<TenantFigures> tenants() const;

 private:
  MemoryServer(const ServerOptions& options, std::unique_ptr<StateFolder> state);
  absl::Status Listen();
  absl::Status ListenTcp();

  void ServeHot();
  uint64_t ServeReady();  // What time it was.
  void Accept(int listener, uint64_t now_ns);
  void SetListening(bool listening);
  void MakeRoom();
  void TakeTurns(ServerConnection& connection, uint64_t now_ns, int steps);
  void Enqueue(ServerConnection& connection);
  void Watch(ServerConnection& connection);
  void Pause(ServerConnection& connection);
  void ResumePaused(uint64_t now_ns);
  void Close(ServerConnection& connection);
  void Review(uint64_t now_ns);
  void AskBack(uint64_t now_ns);
  void Tell(uint64_t now_ns);
  int WaitMs(uint64_t now_ns) const;
  void WakeRefiller() noexcept;
  void RefillLoop();

  const ServerOptions options_;
  const std::unique_ptr<StateFolder> state_;
  SlabStore store_;
  std::unique_ptr<RdmaListener> rdma_;
  Tenancy tenancy_;
  ServerCounters counters_;
  ServerParts parts_;
  Reclaim reclaim_;
  std::atomic<bool> draining_{false};  // Drain() was called: for the serving thread.
  uint64_t restored_ = 0;              // Slabs of the server before this one.

  UniqueFd epoll_;
  UniqueFd wake_;  // An eventfd: stop.
  UniqueFd unix_listener_;
  UniqueFd tcp_listener_;
  int tcp_port_ = -1;

  std::unordered_map<int, std::unique_ptr<ServerConnection>> connections_;
  std::vector<ServerConnection*> queue_;  // Have a turn coming.
  std::vector<ServerConnection*> paused_;
  uint64_t resume_ns_ = UINT64_MAX;  // When the first of them may go on.
  bool listening_ = true;            // False: without descriptors for connections.
  uint64_t reviewed_ns_ = 0;
  uint64_t busy_until_ns_ = 0;  // Until then it looks instead of sleeping.
  // Whose demand read came last: looked at without asking who is ready.
  ServerConnection* hot_ = nullptr;

  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> connection_count_{0};
  std::atomic<uint64_t> client_count_{0};
  mutable RankedMutex figures_mutex_{LockRank::kTenantFigures};
  std::vector<TenantFigures> tenant_figures_ ABSL_GUARDED_BY(figures_mutex_);
  std::atomic<uint32_t> refill_wanted_{0};
  std::thread refiller_;
};

}  // namespace spiritos
