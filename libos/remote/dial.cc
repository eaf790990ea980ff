// SPDX-License-Identifier: Apache-2.0
// Sockets with deadlines, and the two frames of a greeting.
#include "libos/remote/dial.h"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "libos/base/clock.h"
#include "libos/base/socket_parts.h"
#include "libos/base/status.h"
#include "libos/base/unix_socket.h"

namespace spiritos {
namespace {

constexpr std::string_view kTcpScheme = "tcp://";
constexpr std::string_view kRdmaScheme = "rdma://";
constexpr std::string_view kShmScheme = "shm://";

absl::Status TimedOut(std::string_view what) {
  return absl::DeadlineExceededError(fmt::format("{} took too long", what));
}

absl::Status SendAll(int socket, std::span<const std::byte> bytes, uint64_t deadline_ns,
                     int file = -1) {
  while (!bytes.empty()) {
    iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    const ssize_t sent = SendParts(socket, {&part, 1}, file);
    if (sent >= 0) {
      file = -1;
      bytes = bytes.subspan(static_cast<size_t>(sent));
    } else if (errno == EAGAIN) {
      if (!AwaitSocket(socket, POLLOUT, deadline_ns)) return TimedOut("sending to a memory server");
    } else {
      return ErrnoStatus(errno, "sending to a memory server");
    }
  }
  return absl::OkStatus();
}

absl::Status ReceiveAll(int socket, std::span<std::byte> bytes, uint64_t deadline_ns,
                        UniqueFd* file) {
  while (!bytes.empty()) {
    iovec part{bytes.data(), bytes.size()};
    UniqueFd received;
    const ssize_t got = ReceiveParts(socket, {&part, 1}, &received);
    if (got > 0) {
      bytes = bytes.subspan(static_cast<size_t>(got));
      if (file != nullptr && received.valid()) *file = std::move(received);
    } else if (got == 0) {
      return absl::UnavailableError("the memory server closed the connection");
    } else if (errno == EAGAIN) {
      if (!AwaitSocket(socket, POLLIN, deadline_ns)) return TimedOut("a memory server's answer");
    } else {
      return ErrnoStatus(errno, "receiving from a memory server");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<FrameHeader> ReceiveReply(int socket, const FrameHeader& request,
                                         uint64_t deadline_ns, UniqueFd* file) {
  FrameBytes bytes;
  SPIRITOS_RETURN_IF_ERROR(ReceiveAll(socket, bytes, deadline_ns, file));
  FrameHeader header;
  const FrameError error = DecodeFrame(bytes, &header);
  if (error != FrameError::kNone) {
    return absl::UnavailableError(
        fmt::format("a memory server's answer is damaged: {}", FrameErrorName(error)));
  }
  if (!header.reply() || header.op != request.op || header.id != request.id) {
    return absl::UnavailableError("a memory server answers what was not asked");
  }
  return header;
}

}  // namespace

absl::StatusOr<ServerAddress> ServerAddress::Parse(std::string_view text) {
  ServerAddress address;
  if (text.starts_with(kShmScheme)) {
    address.kind = Kind::kUnix;
    address.host = text.substr(kShmScheme.size());
    if (!address.host.starts_with('/')) {
      return InvalidArgument("\"{}\" is not of the form shm:///path/of/socket (SPIRITOS_POOL)",
                             text);
    }
    return address;
  }
  const bool rdma = text.starts_with(kRdmaScheme);
  if (!rdma && !text.starts_with(kTcpScheme)) {
    return InvalidArgument(
        "\"{}\" is none of tcp://host:port, rdma://host:port, shm:///path (SPIRITOS_POOL)", text);
  }
  const std::string_view scheme = rdma ? kRdmaScheme : kTcpScheme;
  if (rdma) address.kind = Kind::kRdma;
  const std::string_view place = text.substr(scheme.size());
  const size_t colon = place.rfind(':');
  const bool bracketed = place.starts_with('[') && colon != place.npos && place[colon - 1] == ']';
  if (colon == place.npos || colon == 0 || colon + 1 == place.size()) {
    return InvalidArgument("\"{}\" is not of the form {}host:port (SPIRITOS_POOL)", text, scheme);
  }
  address.host = bracketed ? place.substr(1, colon - 2) : place.substr(0, colon);
  address.port = place.substr(colon + 1);
  const bool digits = std::all_of(address.port.begin(), address.port.end(),
                                  [](char c) { return c >= '0' && c <= '9'; });
  if (!digits || address.port.size() > 5 || std::stoi(address.port) == 0 ||
      std::stoi(address.port) > 65535) {
    return InvalidArgument("\"{}\" is no port, in \"{}\" (SPIRITOS_POOL)", address.port, text);
  }
  return address;
}

std::string ServerAddress::ToString() const {
  if (kind == Kind::kUnix) return fmt::format("{}{}", kShmScheme, host);
  return fmt::format("{}{}:{}", kind == Kind::kRdma ? kRdmaScheme : kTcpScheme, host, port);
}

bool IsLoopback(const std::string& host) {
  in_addr v4;
  in6_addr v6;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == IN_LOOPBACKNET;
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6);
  return host == "localhost";
}

absl::Status Resolve(const ServerAddress& address, sockaddr_storage* to, socklen_t* size) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(
        fmt::format("finding {}: {}", address.ToString(), gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owned(found, freeaddrinfo);
  std::memcpy(to, found->ai_addr, found->ai_addrlen);
  *size = found->ai_addrlen;
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> Dial(const ServerAddress& address, uint64_t deadline_ns) {
  sockaddr_storage to{};
  socklen_t size = 0;
  if (address.kind == ServerAddress::Kind::kUnix) {
    SPIRITOS_ASSIGN_OR_RETURN(const sockaddr_un name, UnixAddress(address.host, "SPIRITOS_POOL"));
    size = sizeof(name);
    std::memcpy(&to, &name, size);
  } else {
    SPIRITOS_RETURN_IF_ERROR(Resolve(address, &to, &size));
  }
  UniqueFd socket(::socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return ErrnoStatus(errno, "making a socket");
  const std::string what = fmt::format("connecting to {}", address.ToString());
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&to), size) != 0) {
    if (errno != EINPROGRESS) return ErrnoStatus(errno, what);
    if (!AwaitSocket(socket.get(), POLLOUT, deadline_ns)) return TimedOut(what);
    int error = 0;
    socklen_t error_size = sizeof(error);
    getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &error_size);
    if (error != 0) return ErrnoStatus(error, what);
  }
  if (to.ss_family != AF_UNIX) {
    const int on = 1;
    setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  }
  return socket;
}

absl::StatusOr<FrameHeader> Ask(int socket, const FrameHeader& request, uint64_t deadline_ns,
                                PassedFiles* files) {
  FrameBytes bytes;
  EncodeFrame(request, &bytes);
  SPIRITOS_RETURN_IF_ERROR(
      SendAll(socket, bytes, deadline_ns, files == nullptr ? -1 : files->sent));
  return ReceiveReply(socket, request, deadline_ns, files == nullptr ? nullptr : &files->received);
}

absl::StatusOr<FrameHeader> Exchange(int socket, const FrameHeader& request,
                                     std::span<const std::byte> payload, std::span<std::byte> reply,
                                     uint64_t deadline_ns) {
  FrameBytes bytes;
  EncodeFrame(request, &bytes);
  SPIRITOS_RETURN_IF_ERROR(SendAll(socket, bytes, deadline_ns));
  SPIRITOS_RETURN_IF_ERROR(SendAll(socket, payload, deadline_ns));
  SPIRITOS_ASSIGN_OR_RETURN(const FrameHeader answer,
                            ReceiveReply(socket, request, deadline_ns, nullptr));
  if (answer.payload != reply.size()) {
    return absl::UnavailableError(fmt::format(
        "a memory server's answer has {} bytes behind it, not {}", answer.payload, reply.size()));
  }
  SPIRITOS_RETURN_IF_ERROR(ReceiveAll(socket, reply, deadline_ns, nullptr));
  return answer;
}

absl::StatusOr<WelcomeBody> Greet(int socket, const HelloBody& hello, uint64_t deadline_ns) {
  HelloBytes body;
  EncodeHello(hello, &body);
  FrameHeader request;
  request.version = kOldestWireVersion;  // What any server reads; the body says more.
  request.op = WireOp::kHello;
  request.payload = HelloBody::kSize;
  request.payload_crc = Crc32c(body);
  WelcomeBytes answer;
  SPIRITOS_ASSIGN_OR_RETURN(const FrameHeader reply,
                            Exchange(socket, request, body, answer, deadline_ns));
  if (reply.status != WireStatus::kOk) {
    return absl::PermissionDeniedError(
        fmt::format("the memory server refuses: {}", WireStatusName(reply.status)));
  }
  WelcomeBody welcome;
  if (Crc32c(answer) != reply.payload_crc || !DecodeWelcome(answer, &welcome)) {
    return absl::UnavailableError("a memory server's greeting is damaged");
  }
  return welcome;
}

}  // namespace spiritos
