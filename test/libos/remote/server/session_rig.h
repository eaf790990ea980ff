// SPDX-License-Identifier: Apache-2.0
// SessionRig: a server's books, and peers that talk to its sessions without a socket.
#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <vector>

#include "libos/remote/server/session.h"

namespace spiritos {

using ByteVector = std::vector<std::byte>;

inline void Append(ByteVector& to, const void* bytes, size_t size) {
  const auto* const begin = static_cast<const std::byte*>(bytes);
  to.insert(to.end(), begin, begin + size);
}

// A server's books with room for some slabs, and clients that come and go.
struct Books {
  explicit Books(uint64_t slabs, uint64_t quota = 0)
      : store({.slabs = slabs, .lock = false}),
        tenancy(store, {.lease_ns = 1000, .slab_quota = quota}) {
    REQUIRE(store.Refill().ok());
  }
  Client& Enter(uint8_t id, std::string_view tenant = "t") {
    WireId wire_id{};
    wire_id[0] = std::byte{id};
    Client* const client = tenancy.Enter(wire_id, tenant, 0);
    REQUIRE(client != nullptr);
    return *client;
  }
  SlabStore store;
  Tenancy tenancy;
  ServerCounters counters;
};

// One connection, and the peer at its other end.
class Peer {
 public:
  Peer(Books& books, Client& client)
      : session(books.tenancy, books.counters, client, kWireVersion, false) {}

  // False when the session wants to close. Bytes that it has no room for stay.
  bool Feed(ByteVector bytes, size_t at_most = SIZE_MAX) {
    unread.insert(unread.end(), bytes.begin(), bytes.end());
    while (!unread.empty()) {
      const auto parts = session.Want();
      if (parts.empty()) return true;
      size_t given = 0;
      for (const iovec& part : parts) {
        const size_t n = std::min({part.iov_len, unread.size() - given, at_most - given});
        std::memcpy(part.iov_base, unread.data() + given, n);
        given += n;
        if (n < part.iov_len) break;
      }
      unread.erase(unread.begin(), unread.begin() + static_cast<ptrdiff_t>(given));
      if (!session.Received(given, 0)) return false;
    }
    return true;
  }
  // Takes replies as a socket would, `at_most` bytes at a time.
  ByteVector Take(size_t at_most = SIZE_MAX) {
    ByteVector taken;
    while (session.has_outgoing()) {
      int file = -1;
      size_t sent = 0;
      for (const iovec& part : session.Outgoing(&file)) {
        const size_t n = std::min(part.iov_len, at_most - sent);
        Append(taken, part.iov_base, n);
        sent += n;
      }
      REQUIRE(sent != 0);
      REQUIRE(session.Sent(sent, 0));
    }
    return taken;
  }
  FrameHeader Ask(FrameHeader request) {
    request.id = ++last_id;
    REQUIRE(Feed(Bytes(request)));
    return HeaderOf(Take());
  }

  static ByteVector Bytes(const FrameHeader& header) {
    FrameBytes bytes;
    EncodeFrame(header, &bytes);
    return {bytes.begin(), bytes.end()};
  }
  static FrameHeader HeaderOf(const ByteVector& bytes) {
    REQUIRE(bytes.size() >= FrameHeader::kSize);
    FrameBytes header_bytes;
    std::copy_n(bytes.begin(), header_bytes.size(), header_bytes.begin());
    FrameHeader header;
    REQUIRE(DecodeFrame(header_bytes, &header) == FrameError::kNone);
    CHECK(header.reply());
    return header;
  }

  ServerSession session;
  ByteVector unread;
  uint64_t last_id = 0;
};

inline ByteVector PageOf(uint8_t value) { return ByteVector(kPageSize, std::byte{value}); }

inline FrameHeader Request(WireOp op, uint64_t slab, uint32_t first = 0, uint32_t pages = 0) {
  FrameHeader header;
  header.op = op;
  header.id = 1000;
  header.slab = slab;
  header.epoch = 1;
  header.first = first;
  header.pages = pages;
  return header;
}

// A write of pages that hold `value` each, of one version.
inline ByteVector Write(uint64_t slab, uint32_t first, uint32_t pages, uint8_t value,
                        uint32_t version, uint32_t epoch = 1) {
  FrameHeader header = Request(WireOp::kWrite, slab, first, pages);
  header.epoch = epoch;
  header.payload = pages * static_cast<uint32_t>(kPageSize + sizeof(PageTrailer));
  const ByteVector page = PageOf(value);
  const std::vector<PageTrailer> trailers(pages, PageTrailer{version, Crc32c(page)});
  ByteVector list;
  Append(list, trailers.data(), trailers.size() * sizeof(PageTrailer));
  header.payload_crc = Crc32c(list);
  ByteVector bytes = Peer::Bytes(header);
  Append(bytes, list.data(), list.size());
  for (uint32_t i = 0; i < pages; ++i) Append(bytes, page.data(), page.size());
  return bytes;
}

inline uint64_t PlacedBy(Peer& peer) {
  const FrameHeader answer = peer.Ask(Request(WireOp::kPlace, 0));
  REQUIRE(answer.status == WireStatus::kOk);
  return answer.slab;
}

inline WireStatus StatusOf(Peer& peer, const ByteVector& request) {
  REQUIRE(peer.Feed(request));
  return Peer::HeaderOf(peer.Take()).status;
}

// The value that all bytes of a page have; 1000 when they differ or cannot be read.
inline int ValueAt(Peer& peer, uint64_t slab, uint32_t page) {
  REQUIRE(peer.Feed(Peer::Bytes(Request(WireOp::kRead, slab, page, 1))));
  const ByteVector reply = peer.Take();
  REQUIRE(reply.size() == FrameHeader::kSize + kPageSize);
  if (Peer::HeaderOf(reply).status != WireStatus::kOk) return 1000;
  const std::byte first = reply[FrameHeader::kSize];
  const bool same = std::all_of(reply.begin() + FrameHeader::kSize, reply.end(),
                                [&](std::byte b) { return b == first; });
  return same ? static_cast<int>(first) : 1000;
}

}  // namespace spiritos
