// SPDX-License-Identifier: Apache-2.0
// Dialling a memory server: an address, a connected socket, the greeting.
//
// Every step has a deadline. Context: any; these calls block.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libos/base/fd.h"
#include "libos/remote/wire.h"

namespace spiritos {

// Where a server listens: tcp://host:port, rdma://host:port or shm:///path/of/socket. One
// that is reached by RDMA is asked over TCP, at the same place.
struct ServerAddress {
  enum class Kind : uint8_t { kTcp, kUnix, kRdma };
  Kind kind = Kind::kTcp;
  std::string host;  // Or the path.
  std::string port;

  static absl::StatusOr<ServerAddress> Parse(std::string_view text);
  std::string ToString() const;
};

// Whether a host is this machine and no other: 127.0.0.0/8, ::1 or "localhost".
bool IsLoopback(const std::string& host);

// The socket address of a host and port. REQUIRES: not a Unix socket's.
absl::Status Resolve(const ServerAddress& address, sockaddr_storage* to, socklen_t* size);

// A non-blocking socket, connected, without delay for small messages.
absl::StatusOr<UniqueFd> Dial(const ServerAddress& address, uint64_t deadline_ns);

// Descriptors that go with a question and come with its answer, over Unix sockets.
struct PassedFiles {
  int sent = -1;
  UniqueFd received;
};

// One frame out and its reply in, over a socket that nothing else uses meanwhile.
absl::StatusOr<FrameHeader> Ask(int socket, const FrameHeader& request, uint64_t deadline_ns,
                                PassedFiles* files = nullptr);

// The same with bytes that follow the frames: `payload` goes out, and `reply` takes what
// comes, which is as long on any answer.
absl::StatusOr<FrameHeader> Exchange(int socket, const FrameHeader& request,
                                     std::span<const std::byte> payload, std::span<std::byte> reply,
                                     uint64_t deadline_ns);

// Says who we are. An error names the server's reason.
absl::StatusOr<WelcomeBody> Greet(int socket, const HelloBody& hello, uint64_t deadline_ns);

}  // namespace spiritos
