// SPDX-License-Identifier: Apache-2.0
// ServerConnection: one accepted socket of a memory server.
//
//   TLS handshake, if asked for --> greeting (192 bytes) --Hello--> session --> closed
//
// Until a peer has said who it is, this object is all that is kept for it, and from its
// first byte on what OpenSSL needs to find out: a session with its buffers comes after
// the greeting. Threads: the server's one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "libos/base/fd.h"
#include "libos/remote/server/session.h"
#include "libos/remote/tls_stream.h"

namespace spiritos {

// What connections need of their server.
struct ServerParts {
  Tenancy& tenancy;
  ServerCounters& counters;
  WelcomeBody welcome;  // But for what depends on the client.
  SlabStore& store;
  std::unique_ptr<TlsContext> tls;  // Asked of everybody but Unix sockets; null = plain TCP.
};

class ServerConnection {
 public:
  enum class Turn : uint8_t { kMore, kDrained, kClosed };

  // `identity` is who the peer has proved to be, before any name that it gives itself.
  // `process` is a pidfd of the peer, on this machine, or none.
  ServerConnection(UniqueFd socket, std::string identity, bool passes_files, uint64_t now_ns,
                   UniqueFd process = {});
  ~ServerConnection();

  int socket() const { return socket_.get(); }
  bool greeted() const { return session_ != nullptr; }
  // Whose latency somebody waits for: demand reads, and what is not known yet.
  bool urgent() const { return urgent_; }
  ServerSession* session() { return session_.get(); }
  bool local() const { return passes_files_; }
  uint64_t accepted_ns() const { return accepted_ns_; }
  // When bytes last moved either way.
  uint64_t progress_ns() const { return progress_ns_; }
  bool has_outgoing() const;
  bool waits_to_send() const { return waits_to_send_; }
  bool waits_to_receive() const { return waits_to_receive_; }

  // Sends and receives once, and serves what came. kMore: there may be more at once.
  Turn Step(ServerParts& server, uint64_t now_ns);

  bool in_queue = false;    // The server's: it has a turn coming.
  bool in_pause = false;    // The server's: it is paused, and will be resumed.
  uint32_t polled_for = 0;  // The server's: events asked for.

 private:
  // To and from the peer, over TLS or not; as SendParts() and ReceiveParts().
  ssize_t SendBytes(std::span<iovec> parts, int file) noexcept;
  ssize_t ReceiveBytes(std::span<iovec> parts, UniqueFd* file) noexcept;

  Turn ShakeHands(ServerParts& server);
  bool Send(uint64_t now_ns);  // False: closed by the peer.
  Turn Receive(uint64_t now_ns);
  Turn ReceiveGreeting(ServerParts& server, uint64_t now_ns);
  WireStatus Greet(ServerParts& server, const HelloBody& hello, uint64_t now_ns);
  void QueueWelcome(ServerParts& server, const FrameHeader& hello, WireStatus status);

  const UniqueFd socket_;
  const std::string identity_;
  UniqueFd process_;  // Until it is a client's.
  const bool passes_files_;
  bool urgent_ = true;
  bool refused_ = false;  // To be closed once the refusal is sent.
  bool waits_to_send_ = false;
  bool waits_to_receive_ = true;
  const uint64_t accepted_ns_;
  uint64_t progress_ns_;
  std::unique_ptr<TlsStream> tls_;
  // The Hello as far as it has come; then the Welcome as far as it is sent.
  std::array<std::byte, FrameHeader::kSize + HelloBody::kSize> greeting_;
  size_t greeting_bytes_ = 0;
  size_t welcome_left_ = 0;
  std::unique_ptr<ServerSession> session_;
};

}  // namespace spiritos
