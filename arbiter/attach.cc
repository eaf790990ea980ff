// SPDX-License-Identifier: Apache-2.0
// The two messages, and bytes that only wake.
#include "arbiter/attach.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "libos/base/clock.h"
#include "libos/base/socket_parts.h"
#include "libos/base/status.h"
#include "libos/base/unix_socket.h"

namespace spiritos {
namespace {

constexpr std::string_view kKnob = "SPIRITOS_ARBITER";
constexpr int kMostNudges = 16;

static_assert(sizeof(Hello) == 128 && sizeof(Welcome) == 256);

template <size_t kSize>
std::string Printable(const std::array<char, kSize>& text) {
  std::string printable(text.data(), strnlen(text.data(), kSize));
  std::replace_if(
      printable.begin(), printable.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return printable;
}

template <size_t kSize>
void Set(std::array<char, kSize>* to, std::string_view text) {
  to->fill(0);
  text.copy(to->data(), kSize - 1);
}

template <typename Message>
ssize_t Send(int socket, const Message& message, int file = -1) noexcept {
  iovec part{const_cast<Message*>(&message), sizeof(message)};
  return SendParts(socket, {&part, 1}, file);
}

// All of one message; what is longer or shorter is none.
template <typename Message>
absl::Status Receive(int socket, Message* message, UniqueFd* file) {
  std::array<std::byte, sizeof(Message) + 1> bytes;
  iovec part{bytes.data(), bytes.size()};
  const ssize_t got = ReceiveParts(socket, {&part, 1}, file);
  if (got < 0 && errno == EAGAIN) return absl::UnavailableError("no message yet");
  if (got < 0) return ErrnoStatus(errno, "receiving a message");
  if (got != sizeof(Message)) {
    return absl::InvalidArgumentError(
        fmt::format("a message of {} bytes instead of {}", got, sizeof(Message)));
  }
  std::memcpy(message, bytes.data(), sizeof(Message));
  if (message->magic != Message::kMagic) return absl::InvalidArgumentError("another protocol");
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> Connect(const std::string& path, uint64_t deadline_ns) {
  SPIRITOS_ASSIGN_OR_RETURN(const sockaddr_un address, UnixAddress(path, kKnob));
  // That blocks while the queue is full, of an arbiter that is stopped or that many come to;
  // all else is asked not to wait.
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  const uint64_t now_ns = NowNs();
  const uint64_t left_us = deadline_ns > now_ns ? (deadline_ns - now_ns) / 1000 + 1 : 1;
  const timeval patience{static_cast<time_t>(left_us / kMillion),
                         static_cast<suseconds_t>(left_us % kMillion)};
  if (!socket.valid() ||
      setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) != 0) {
    return ErrnoStatus(errno, "making a socket");
  }
  const auto* const name = reinterpret_cast<const sockaddr*>(&address);
  while (connect(socket.get(), name, sizeof(address)) != 0) {
    if (errno == EINTR) continue;
    return absl::UnavailableError(
        fmt::format("no arbiter answers at {}: {} ({})", path, strerror(errno), kKnob));
  }
  return socket;
}

}  // namespace

void Hello::set_name(std::string_view text) { Set(&name, text); }
std::string Hello::printable_name() const { return Printable(name); }

absl::StatusOr<ArbiterLink> ArbiterLink::Attach(const std::string& path, const Hello& hello,
                                                uint64_t deadline_ns) {
  SPIRITOS_ASSIGN_OR_RETURN(UniqueFd socket, Connect(path, deadline_ns));
  const auto late = [&] {
    return absl::UnavailableError(
        fmt::format("the arbiter at {} does not answer ({})", path, kKnob));
  };
  while (Send(socket.get(), hello) < 0) {
    if (errno != EAGAIN) return ErrnoStatus(errno, fmt::format("greeting the arbiter at {}", path));
    if (!AwaitSocket(socket.get(), POLLOUT, deadline_ns)) return late();
  }
  Welcome welcome;
  UniqueFd file;
  while (true) {
    if (!AwaitSocket(socket.get(), POLLIN, deadline_ns)) return late();
    const absl::Status status = Receive(socket.get(), &welcome, &file);
    if (status.ok()) break;
    if (absl::IsUnavailable(status)) continue;
    return absl::UnavailableError(
        fmt::format("the arbiter at {}: {} ({})", path, std::string(status.message()), kKnob));
  }
  if (welcome.refused != 0) {
    return absl::FailedPreconditionError(
        fmt::format("the arbiter at {} refuses: {} ({})", path, Printable(welcome.reason), kKnob));
  }
  SPIRITOS_ASSIGN_OR_RETURN(Segment segment, Segment::Attach(std::move(file)));
  return ArbiterLink(std::move(socket), std::move(segment));
}

void ArbiterLink::Tell(const Report& report) noexcept {
  writer_.Publish(report);
  Nudge(socket_.get());
}

bool ArbiterLink::TakeGrant(Grant* grant) noexcept {
  Grant candidate;
  if (!segment_.grant().Read(&seen_, &candidate)) return false;
  // Of this arbiter, or somebody else writes here.
  if (candidate.epoch.instance != segment_.instance() || candidate.epoch <= newest_) return false;
  newest_ = candidate.epoch;
  *grant = candidate;
  return true;
}

bool ArbiterLink::Await(uint64_t deadline_ns) noexcept {
  if (!AwaitSocket(socket_.get(), POLLIN, deadline_ns)) return true;
  return TakeNudges(socket_.get());
}

absl::StatusOr<Hello> ReceiveHello(int socket) {
  Hello hello;
  UniqueFd none;
  SPIRITOS_RETURN_IF_ERROR(Receive(socket, &hello, &none));
  if (hello.oldest_version > kSegmentVersion || hello.newest_version < kSegmentVersion) {
    return absl::FailedPreconditionError(
        fmt::format("this arbiter speaks version {}, the tenant {} to {}: install one version of "
                    "spiritos for both",
                    kSegmentVersion, hello.oldest_version, hello.newest_version));
  }
  return hello;
}

absl::Status SendWelcome(int socket, const Segment& segment) {
  if (Send(socket, Welcome{}, segment.file()) < 0) return ErrnoStatus(errno, "welcoming a tenant");
  return absl::OkStatus();
}

void SendRefusal(int socket, std::string_view reason) {
  Welcome refusal{.refused = 1};
  Set(&refusal.reason, reason);
  static_cast<void>(Send(socket, refusal));  // Whoever does not read it is cut off all the same.
}

void Nudge(int socket) noexcept {
  const int saved_errno = errno;
  static_cast<void>(Send(socket, 'n'));  // A full queue has bytes enough to wake by.
  errno = saved_errno;
}

bool TakeNudges(int socket) noexcept {
  for (int i = 0; i < kMostNudges; ++i) {
    char byte;
    iovec part{&byte, sizeof(byte)};
    UniqueFd none;
    const ssize_t got = ReceiveParts(socket, {&part, 1}, &none);
    if (got == 0) return false;
    if (got < 0) return errno == EAGAIN;
  }
  return true;
}

}  // namespace spiritos
