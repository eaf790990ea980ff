// SPDX-License-Identifier: Apache-2.0
// RawPeer: a socket to a memory server, for what no client of ours would send.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "libos/base/clock.h"
#include "libos/base/socket_parts.h"
#include "libos/remote/dial.h"
#include "libos/remote/wire.h"

namespace spiritos {

using ByteVector = std::vector<std::byte>;

class RawPeer {
 public:
  static constexpr uint64_t kPatienceNs = 20'000'000'000;

  explicit RawPeer(const ServerAddress& address) {
    auto dialled = Dial(address, NowNs() + kPatienceNs);
    REQUIRE(dialled.ok());
    socket_ = *std::move(dialled);
  }
  int socket() const { return socket_.get(); }

  // The welcome, or why there was none.
  absl::StatusOr<WelcomeBody> Hello(uint8_t client,
                                    HelloBody::Role role = HelloBody::Role::kControl,
                                    const WireId& token = {}, std::string_view tenant = "raw") {
    HelloBody hello;
    hello.role = role;
    hello.client.fill(std::byte{client});
    hello.token = token;
    std::copy(tenant.begin(), tenant.end(), hello.tenant.begin());
    return Greet(socket_.get(), hello, NowNs() + kPatienceNs);
  }
  // One frame out, one back.
  FrameHeader Question(WireOp op, uint64_t id, uint64_t slab = 0) {
    FrameHeader question;
    question.op = op;
    question.id = id;
    question.slab = slab;
    question.epoch = 1;
    const auto answer = Ask(socket_.get(), question, NowNs() + kPatienceNs);
    INFO(answer.status().ToString());
    REQUIRE(answer.ok());
    return *answer;
  }
  // False once the server has closed.
  bool Send(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = TrySend(bytes);
      if (sent < 0 && errno != EAGAIN) return false;
      if (sent < 0 && !AwaitSocket(socket_.get(), POLLOUT, NowNs() + kPatienceNs)) return false;
      if (sent > 0) bytes = bytes.subspan(static_cast<size_t>(sent));
    }
    return true;
  }
  ssize_t TrySend(std::span<const std::byte> bytes) {
    return send(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  // So many bytes, or what came before the end.
  ByteVector Receive(size_t size) {
    ByteVector bytes(size);
    size_t have = 0;
    while (have < size) {
      const ssize_t got = recv(socket_.get(), bytes.data() + have, size - have, MSG_DONTWAIT);
      ended_ = got == 0 || (got < 0 && errno != EAGAIN);
      if (ended_) break;
      if (got < 0 && !AwaitSocket(socket_.get(), POLLIN, NowNs() + kPatienceNs)) break;
      if (got > 0) have += static_cast<size_t>(got);
    }
    bytes.resize(have);
    return bytes;
  }
  // Whether the server ends the connection, whatever it says before.
  bool Ends() {
    Receive(size_t{1} << 20);
    return ended_;
  }

 private:
  UniqueFd socket_;
  bool ended_ = false;
};

inline ByteVector BytesOf(const FrameHeader& header) {
  FrameBytes bytes;
  EncodeFrame(header, &bytes);
  return {bytes.begin(), bytes.end()};
}

inline FrameHeader FrameOf(WireOp op, uint64_t slab, uint32_t first = 0, uint32_t pages = 0) {
  FrameHeader header;
  header.op = op;
  header.id = 1;
  header.slab = slab;
  header.epoch = 1;
  header.first = first;
  header.pages = pages;
  return header;
}

// A write of pages that all hold `value`.
inline ByteVector WriteOf(uint64_t slab, uint32_t first, uint32_t pages, uint8_t value,
                          uint32_t version) {
  FrameHeader header = FrameOf(WireOp::kWrite, slab, first, pages);
  header.payload = pages * static_cast<uint32_t>(kPageSize + sizeof(PageTrailer));
  const ByteVector page(kPageSize, std::byte{value});
  const std::vector<PageTrailer> trailers(pages, PageTrailer{version, Crc32c(page)});
  const auto list = std::as_bytes(std::span(trailers));
  header.payload_crc = Crc32c(list);
  ByteVector bytes = BytesOf(header);
  bytes.insert(bytes.end(), list.begin(), list.end());
  for (uint32_t i = 0; i < pages; ++i) bytes.insert(bytes.end(), page.begin(), page.end());
  return bytes;
}

inline FrameHeader HeaderOf(const ByteVector& bytes) {
  REQUIRE(bytes.size() >= FrameHeader::kSize);
  FrameBytes header_bytes;
  std::copy_n(bytes.begin(), header_bytes.size(), header_bytes.begin());
  FrameHeader header;
  REQUIRE(DecodeFrame(header_bytes, &header) == FrameError::kNone);
  return header;
}

}  // namespace spiritos
