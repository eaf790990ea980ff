// SPDX-License-Identifier: Apache-2.0
// Greetings, and bytes between a socket and its session.
#include "libos/remote/server/connection.h"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "libos/remote/socket_parts.h"

namespace spiritos {
namespace {

static_assert(HelloBody::kSize == WelcomeBody::kSize, "one buffer is both");

bool WouldBlock() { return errno == EAGAIN || errno == EWOULDBLOCK; }

}  // namespace

ServerConnection::ServerConnection(UniqueFd socket, std::string identity, bool passes_files,
                                   uint64_t now_ns)
    : socket_(std::move(socket)),
      identity_(std::move(identity)),
      passes_files_(passes_files),
      progress_ns_(now_ns) {}

bool ServerConnection::has_outgoing() const {
  return welcome_left_ != 0 || (session_ != nullptr && session_->has_outgoing());
}

ServerConnection::Turn ServerConnection::Step(ServerParts& server, uint64_t now_ns) {
  if (!Send(now_ns)) return Turn::kClosed;
  if (refused_) return welcome_left_ == 0 ? Turn::kClosed : Turn::kDrained;
  const Turn turn = session_ == nullptr ? ReceiveGreeting(server, now_ns) : Receive(now_ns);
  if (turn == Turn::kClosed) return turn;
  if (has_outgoing() && !Send(now_ns)) return Turn::kClosed;
  waits_to_receive_ = session_ == nullptr || session_->has_room();
  return turn;
}

bool ServerConnection::Send(uint64_t now_ns) {
  waits_to_send_ = false;
  while (has_outgoing()) {
    int file = -1;
    iovec welcome{greeting_.data() + greeting_.size() - welcome_left_, welcome_left_};
    const std::span<iovec> parts =
        welcome_left_ != 0 ? std::span<iovec>(&welcome, 1) : session_->Outgoing(&file);
    const ssize_t sent = SendParts(socket_.get(), parts, file);
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
  if (parts.empty()) return Turn::kDrained;
  UniqueFd file;
  const ssize_t received = ReceiveParts(socket_.get(), parts, &file);
  if (received < 0) return WouldBlock() ? Turn::kDrained : Turn::kClosed;
  if (received == 0) return Turn::kClosed;
  progress_ns_ = now_ns;
  if (file.valid()) session_->GiveFile(std::move(file));
  if (!session_->Received(static_cast<size_t>(received), now_ns)) return Turn::kClosed;
  size_t wanted = 0;
  for (const iovec& part : parts) wanted += part.iov_len;
  // A socket that gave less than it was asked for is empty.
  return static_cast<size_t>(received) == wanted ? Turn::kMore : Turn::kDrained;
}

ServerConnection::Turn ServerConnection::ReceiveGreeting(ServerParts& server, uint64_t now_ns) {
  iovec rest{greeting_.data() + greeting_bytes_, greeting_.size() - greeting_bytes_};
  UniqueFd ignored;
  const ssize_t received = ReceiveParts(socket_.get(), {&rest, 1}, &ignored);
  if (received < 0) return WouldBlock() ? Turn::kDrained : Turn::kClosed;
  if (received == 0) return Turn::kClosed;
  progress_ns_ = now_ns;
  greeting_bytes_ += static_cast<size_t>(received);
  if (greeting_bytes_ < FrameHeader::kSize) return Turn::kDrained;

  FrameBytes bytes;
  std::memcpy(bytes.data(), greeting_.data(), bytes.size());
  FrameHeader header;
  const FrameError error = DecodeFrame(bytes, &header);
  if (error != FrameError::kNone || header.op != WireOp::kHello || header.reply()) {
    server.counters.Add(ServerCounter::kBadFrames);
    return Turn::kClosed;
  }
  if (greeting_bytes_ < greeting_.size()) return Turn::kDrained;
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
  const bool control = hello.role == HelloBody::Role::kControl;
  Client* const client =
      control ? server.tenancy.Enter(hello.client, fmt::format("{}{}", identity_, name), now_ns)
              : server.tenancy.FindByToken(hello.client, hello.token);
  if (client == nullptr) return WireStatus::kNotPermitted;
  urgent_ = control || hello.role == HelloBody::Role::kDemand;
  session_ = std::make_unique<ServerSession>(server.tenancy, server.counters, *client, version,
                                             passes_files_);
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
