// SPDX-License-Identifier: Apache-2.0
// ServerSession: one connection's requests and replies, without any I/O.
//
//            Want() / Received()                        Outgoing() / Sent()
//   socket ----------------------> frames --> replies ----------------------> socket
//
// Bytes arrive where they belong: headers in a small buffer, the pages of a Write in
// the slab itself. A page of a reply is sent from the slab. Replies leave in the order
// of requests, as many as kMaxRequests wait, and while that many do no further
// request is read: a peer that does not take its replies keeps nobody but itself. Nor is
// one while the tenant's pacer says so: then the session is paused.
//
// Pages of a Write land in the slab before their CRC is known. A client whose write
// was not acknowledged has its bytes still, so a torn page costs nobody anything.
// Threads: one at a time.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "libos/remote/server/server_counters.h"
#include "libos/remote/server/tenancy.h"
#include "libos/remote/wire.h"

namespace spiritos {

// Under what a refusal is counted.
ServerCounter CounterOf(WireStatus status);

class ServerSession {
 public:
  static constexpr uint32_t kMaxRequests = 64;

  // `version` is what the connection agreed on; `pacer` is null where nothing is to be held
  // up, as pings are not. Borrows everything.
  ServerSession(Tenancy& tenancy, ServerCounters& counters, Client& client, uint16_t version,
                bool passes_files, Pacer* pacer = nullptr);
  ~ServerSession();
  ServerSession(const ServerSession&) = delete;
  ServerSession& operator=(const ServerSession&) = delete;

  Client& client() const { return client_; }
  uint16_t version() const { return version_; }

  // Where the next bytes of the peer belong: at most two parts, none while replies
  // back up, or while it is paused. Valid until the next call.
  std::span<iovec> Want() noexcept;
  // So many have arrived there. False when the peer talks nonsense: close.
  [[nodiscard]] bool Received(size_t bytes, uint64_t now_ns);

  // A file that has come with the bytes received next.
  void GiveFile(UniqueFd file) { offered_ = std::move(file); }

  // What is to be sent next; a file that goes along with its first byte, or -1.
  std::span<iovec> Outgoing(int* file) noexcept;
  // So many are. False when requests that had waited for room talk nonsense: close.
  [[nodiscard]] bool Sent(size_t bytes, uint64_t now_ns);
  bool has_outgoing() const { return reply_count_ != 0; }

  bool paused() const { return paused_since_ns_ != 0; }
  // REQUIRES: paused. When Resume() is due.
  uint64_t resume_ns() const;
  // Serves what had to wait, if it may now. False when that is nonsense: close.
  [[nodiscard]] bool Resume(uint64_t now_ns) { return Consume(now_ns); }

 private:
  static constexpr size_t kBuffer = 1024;
  static constexpr size_t kMaxParts = 32;

  enum class Stage : uint8_t { kHeader, kTrailers, kPages, kSkip };

  struct Reply {
    FrameBytes header;
    RentedSlab* slab = nullptr;  // Held; without one, zeroes are sent in place of pages.
    uint32_t first = 0;
    uint32_t pages = 0;
    bool trailers = false;
    int file = -1;
    size_t size() const {
      return header.size() + size_t{pages} * (kPageSize + (trailers ? sizeof(PageTrailer) : 0));
    }
  };

  std::span<std::byte> Place() noexcept;
  void TakeFromBuffer();
  void Arrived(size_t bytes);
  bool Consume(uint64_t now_ns);
  bool MayBegin(uint64_t now_ns);
  bool OnHeader(uint64_t now_ns);
  void OnTrailers();
  Reply& Answer(const FrameHeader& request, WireStatus status);
  void Serve(const FrameHeader& request);
  void ServeQuestion(const FrameHeader& request);
  WireStatus Decide(const FrameHeader& request, FrameHeader* answer);
  void ServeRead(const FrameHeader& request);
  void ServeForget(const FrameHeader& request);
  WireStatus CheckPages(const FrameHeader& request, RentedSlab** slab);

  Tenancy& tenancy_;
  ServerCounters& counters_;
  Client& client_;
  const uint16_t version_;
  const bool passes_files_;
  Pacer* const pacer_;
  uint64_t paused_since_ns_ = 0;  // 0 = not paused.

  UniqueFd offered_;
  Stage stage_ = Stage::kHeader;
  FrameHeader request_;
  RentedSlab* target_ = nullptr;  // Of a Write that is arriving; held.
  WireStatus write_status_ = WireStatus::kOk;
  size_t arrived_ = 0;  // Bytes of the stage's object that are there.
  std::array<PageTrailer, kMaxWirePages> trailers_;
  std::array<std::byte, kPageSize> discarded_;  // Where overtaken pages go.

  std::array<std::byte, kBuffer> buffer_;  // Received and not consumed: [begin, end).
  size_t buffer_begin_ = 0;
  size_t buffer_end_ = 0;

  std::array<Reply, kMaxRequests> replies_;
  uint32_t reply_head_ = 0;
  uint32_t reply_count_ = 0;
  size_t head_sent_ = 0;  // Bytes of the first reply that are sent.

  std::array<iovec, 2> want_;
  std::array<iovec, kMaxParts> outgoing_;
};

}  // namespace spiritos
