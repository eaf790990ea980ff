// SPDX-License-Identifier: Apache-2.0
// TlsTunnel: plain sockets whose bytes go over TLS.
//
//   lane's socket <===> near end | buffer --> TLS | <===> socket to the server
//      (plain)                   |  TLS <-- buffer|
//                            one thread for all connections
//
// A lane is used where nobody may allocate or take a lock, so no OpenSSL there: it moves
// plain bytes through a socketpair, and a thread of ours encrypts. Each direction has one
// buffer, filled only when it is empty: who does not take its bytes stops who sends them.
// When either side ends, by whatever cause, both do: what is authentic has been handed on
// before, and a lane makes of the end of its socket what it makes of any broken connection.
//
// The thread has all signals blocked and touches near memory only: pages wait for it.
// Threads: Wrap() and Explain() from any.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libos/base/fd.h"
#include "libos/base/lock.h"
#include "libos/remote/tls_context.h"
#include "libos/remote/tls_stream.h"

namespace spiritos {

class TlsTunnel {
 public:
  static absl::StatusOr<std::unique_ptr<TlsTunnel>> Create(std::unique_ptr<TlsContext> context);
  // Ends what is left of its connections.
  ~TlsTunnel();
  TlsTunnel(const TlsTunnel&) = delete;
  TlsTunnel& operator=(const TlsTunnel&) = delete;

  // Shakes hands with the server at `host` over `socket`, which is connected to it. Gives
  // the socket to be used in its place.
  absl::StatusOr<UniqueFd> Wrap(UniqueFd socket, const std::string& host, uint64_t deadline_ns);
  // `status`, of a socket that ended, with what TLS said when a connection broke last: in
  // TLS 1.3 a client hears only after the handshake that it has been refused.
  absl::Status Explain(const absl::Status& status) const;

 private:
  class Pipe;

  explicit TlsTunnel(std::unique_ptr<TlsContext> context);
  absl::Status Start();
  absl::Status Watch(int fd, Pipe* pipe);
  void Run();
  void TakeTurns();
  void Close(Pipe& pipe);

  const std::unique_ptr<TlsContext> context_;
  UniqueFd epoll_;
  UniqueFd wake_;  // An eventfd: stop.

  RankedMutex mutex_{LockRank::kTunnel};
  std::vector<std::unique_ptr<Pipe>> pipes_ ABSL_GUARDED_BY(mutex_);

  std::vector<Pipe*> busy_;  // The thread's: may have something to move.
  std::atomic<unsigned long> last_error_{0};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace spiritos
