// SPDX-License-Identifier: Apache-2.0
// Greetings, and bytes between a socket and its session.
#include "libos/remote/server/connection.h"

#include <fmt/core.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "libos/base/socket_parts.h"

namespace spiritos {
namespace {

static_assert(HelloBody::kSize == WelcomeBody::kSize, "one buffer is both");

// What a TLS connection begins with: the type of a record of the handshake.
constexpr std::byte kTlsHandshake{22};

bool WouldBlock() { return errno == EAGAIN || errno == EWOULDBLOCK; }

}  // namespace

ServerConnection::ServerConnection(UniqueFd socket, std::string identity, bool passes_files,
                                   uint64_t now_ns, UniqueFd process)
    : socket_(std::move(socket)),
      identity_(std::move(identity)),
      process_(std::move(process)),
      passes_files_(passes_files),
      accepted_ns_(now_ns),
      progress_ns_(now_ns) {}

ServerConnection::~ServerConnection() {
  if (tls_ != nullptr) tls_->Close();
}

bool ServerConnection::has_outgoing() const {
  return welcome_left_ != 0 || (session_ != nullptr && session_->has_outgoing());
}

ServerConnection::Turn ServerConnection::Step(ServerParts& server, uint64_t now_ns) {
  if (server.tls != nullptr && !local() && (tls_ == nullptr || !tls_->ready())) {
    return ShakeHands(server);
  }
  if (!Send(now_ns)) return Turn::kClosed;
  if (refused_) return welcome_left_ == 0 ? Turn::kClosed : Turn::kDrained;
  const Turn turn = session_ == nullptr ? ReceiveGreeting(server, now_ns) : Receive(now_ns);
  if (turn == Turn::kClosed || !has_outgoing()) return turn;
  if (!Send(now_ns)) return Turn::kClosed;
  // Replies in the way of receiving, and meanwhile they are gone: nothing wakes it for that.
  return waits_to_receive_ || waits_to_send_ ? turn : Turn::kMore;
}

// What does not begin as TLS does costs no more than a look.
ServerConnection::Turn ServerConnection::ShakeHands(ServerParts& server) {
  if (tls_ == nullptr) {
    std::byte first;
    const ssize_t seen = recv(socket_.get(), &first, 1, MSG_PEEK | MSG_DONTWAIT);
    if (seen < 0 && WouldBlock()) return Turn::kDrained;
    if (seen <= 0) return Turn::kClosed;
    if (first != kTlsHandshake) {
      server.counters.Add(ServerCounter::kPlainPeers);
      return Turn::kClosed;
    }
    tls_ = TlsStream::Accept(*server.tls, socket_.get());
    if (tls_ == nullptr) return Turn::kClosed;
  }
  const TlsStream::Progress progress = tls_->Handshake();
  waits_to_send_ = tls_->wants_to_write();
  if (progress == TlsStream::Progress::kFailed) {
    server.counters.Add(ServerCounter::kFailedHandshakes);
    return Turn::kClosed;
  }
  return progress == TlsStream::Progress::kDone ? Turn::kMore : Turn::kDrained;
}

ssize_t ServerConnection::SendBytes(std::span<iovec> parts, int file) noexcept {
  return tls_ != nullptr ? tls_->Send(parts) : SendParts(socket_.get(), parts, file);
}

ssize_t ServerConnection::ReceiveBytes(std::span<iovec> parts, UniqueFd* file) noexcept {
  return tls_ != nullptr ? tls_->Receive(parts) : ReceiveParts(socket_.get(), parts, file);
}

bool ServerConnection::Send(uint64_t now_ns) {
  waits_to_send_ = false;
  while (has_outgoing()) {
    int file = -1;
    iovec welcome{greeting_.data() + greeting_.size() - welcome_left_, welcome_left_};
    const std::span<iovec> parts =
        welcome_left_ != 0 ? std::span<iovec>(&welcome, 1) : session_->Outgoing(&file);
    const ssize_t sent = SendBytes(parts, file);
    if (sent < 0) {
      waits_to_send_ = WouldBlock();
      return waits_to_send_;
    }
    progress_ns_ = now_ns;
    if (welcome_left_ != 0) {
      welcome_left_ -= static_cast<size_t>(sent);
    } else if (!session_->Sent(static_cast<size_t>(sent), now_ns)) {
      return false;
    }
  }
  return true;
}

ServerConnection::Turn ServerConnection::Receive(uint64_t now_ns) {
  const std::span<iovec> parts = session_->Want();
  waits_to_receive_ = !parts.empty();
  if (parts.empty()) return Turn::kDrained;
  UniqueFd file;
  const ssize_t received = ReceiveBytes(parts, &file);
  if (received < 0) return WouldBlock() ? Turn::kDrained : Turn::kClosed;
  if (received == 0) return Turn::kClosed;
  progress_ns_ = now_ns;
  if (file.valid()) session_->GiveFile(std::move(file));
  if (!session_->Received(static_cast<size_t>(received), now_ns)) return Turn::kClosed;
  size_t wanted = 0;
  for (const iovec& part : parts) wanted += part.iov_len;
  // A socket that gave less than it was asked for is empty; TLS may hold some more.
  return tls_ != nullptr || static_cast<size_t>(received) == wanted ? Turn::kMore : Turn::kDrained;
}

ServerConnection::Turn ServerConnection::ReceiveGreeting(ServerParts& server, uint64_t now_ns) {
  iovec rest{greeting_.data() + greeting_bytes_, greeting_.size() - greeting_bytes_};
  UniqueFd ignored;
  const ssize_t received = ReceiveBytes({&rest, 1}, &ignored);
  if (received < 0) return WouldBlock() ? Turn::kDrained : Turn::kClosed;
  if (received == 0) return Turn::kClosed;
  progress_ns_ = now_ns;
  greeting_bytes_ += static_cast<size_t>(received);
  if (greeting_bytes_ < FrameHeader::kSize) return Turn::kMore;

  FrameBytes bytes;
  std::memcpy(bytes.data(), greeting_.data(), bytes.size());
  FrameHeader header;
  const FrameError error = DecodeFrame(bytes, &header);
  if (error != FrameError::kNone || header.op != WireOp::kHello || header.reply()) {
    server.counters.Add(ServerCounter::kBadFrames);
    return Turn::kClosed;
  }
  if (greeting_bytes_ < greeting_.size()) return Turn::kMore;
  HelloBytes body;
  std::memcpy(body.data(), greeting_.data() + FrameHeader::kSize, body.size());
  HelloBody hello;
  WireStatus status = WireStatus::kOk;
  if (Crc32c(body) != header.payload_crc) {
    status = WireStatus::kDamaged;
  } else if (!DecodeHello(body, &hello)) {
    status = WireStatus::kBadFrame;
  } else {
    status = Greet(server, hello, now_ns);
  }
  QueueWelcome(server, header, status);
  return Turn::kMore;
}

WireStatus ServerConnection::Greet(ServerParts& server, const HelloBody& hello, uint64_t now_ns) {
  const uint16_t version = std::min(hello.newest_version, kWireVersion);
  if (version < std::max(hello.oldest_version, kOldestWireVersion)) return WireStatus::kVersion;
  const std::string_view name(hello.tenant.data());
  if (tls_ != nullptr && tls_->peer() != name) return WireStatus::kNotPermitted;
  const std::string tenant = fmt::format("{}{}", identity_, name);
  const bool control = hello.role == HelloBody::Role::kControl;
  Client* const client = control ? server.tenancy.Enter(hello.client, tenant, now_ns)
                                 : server.tenancy.FindByToken(hello.client, hello.token);
  if (client == nullptr || client->tenant != tenant) return WireStatus::kNotPermitted;
  if (control && process_.valid()) client->process = std::move(process_);
  urgent_ = control || hello.role == HelloBody::Role::kDemand;
  session_ =
      std::make_unique<ServerSession>(server.tenancy, server.counters, *client, version,
                                      passes_files_, control ? nullptr : &client->account->pacer);
  return WireStatus::kOk;
}

void ServerConnection::QueueWelcome(ServerParts& server, const FrameHeader& hello,
                                    WireStatus status) {
  WelcomeBody welcome = server.welcome;
  if (status == WireStatus::kOk) {
    const Client& client = session_->client();
    welcome.version = session_->version();
    welcome.token = client.token;
    welcome.slabs = client.slabs.size();
    welcome.slab_quota = server.tenancy.options().slab_quota;
    welcome.free_slabs = server.store.free();
  } else {
    server.counters.Add(CounterOf(status));
    refused_ = true;
  }
  WelcomeBytes body;
  EncodeWelcome(welcome, &body);
  FrameHeader header = hello;
  header.flags |= WireFlags::kReply;
  header.status = status;
  header.payload = WelcomeBody::kSize;
  header.payload_crc = Crc32c(body);
  FrameBytes bytes;
  EncodeFrame(header, &bytes);
  std::memcpy(greeting_.data(), bytes.data(), bytes.size());
  std::memcpy(greeting_.data() + bytes.size(), body.data(), body.size());
  welcome_left_ = greeting_.size();
}

}  // namespace spiritos
