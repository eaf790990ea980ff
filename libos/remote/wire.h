// SPDX-License-Identifier: Apache-2.0
// The protocol between a tenant and a memory server: frames, and what they say.
//
// A frame is a header of 64 bytes and `payload` bytes after it. Numbers are
// little-endian. A connection carries requests one way and their replies, in the
// order of the requests, the other.
//
//    0 u32 magic        16 u64 id      32 u32 epoch   48 u64 argument
//    4 u16 version      24 u64 slab    36 u32 first   56 u32 payload_crc
//    6 u8  op                          40 u32 pages   60 u32 header_crc
//    7 u8  flags                       44 u32 payload
//    8 u32 status
//   12 u32 reserved, 0
//
// Both CRCs are CRC-32C (RFC 3720, appendix B.4): `header_crc` of bytes 0 to 59,
// `payload_crc` of the payload, or of its trailers alone where pages follow, whose
// trailers hold a CRC each.
//
//   op       request's payload            reply's payload
//   Hello    HelloBody                    WelcomeBody; the first frame of a connection
//   Place    -                            -; `slab` and `epoch` name the new slab. Over a
//                                         Unix socket its memory comes along (SCM_RIGHTS).
//                                         Without space: `argument` slabs are being cleared.
//                                         With kExpose `argument` is the slab's remote key
//   Release  -                            -; one reference less, the last frees the slab
//   Share    -                            -; one reference more
//   Read     -                            `pages` trailers with kTrailers, and the pages; as
//                                         long when it failed, so that framing never depends
//                                         on success
//   Write    trailers, then pages         -
//   Forget   -                            -; the pages read as zeroes of version 0
//   Fence    -                            -; from now on only `epoch` and newer are served
//   Ping     -                            -; renews the lease. `argument` slabs are free.
//                                         `first` of the client's are asked back: it gives up
//                                         which it likes, once their pages are elsewhere, or
//                                         none. Servers that never ask say 0
//   Fork     -                            -; a new client, whose id is `slab` and `argument`,
//                                         has each slab that this one has. `first` of them
//   Holders  -                            -; `argument` references to the slab are others'
//   Adopt    -                            -; as Place, but of a slab's file that comes along:
//                                         one that a server before this one had rented out
//
// Encode and decode touch no memory but their arguments'. Context: signal.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "libos/base/units.h"

namespace spiritos {

inline constexpr uint32_t kWireMagic = 0x314D5053;  // "SPM1".
// Versions served: the newest; 3, which knows neither Fork nor Holders; 2, nor kExpose; and
// 1, nor Share nor Adopt.
inline constexpr uint16_t kWireVersion = 4;
inline constexpr uint16_t kOldestWireVersion = 1;
// Pages of one Read, Write or Forget.
// 64 hold a lane for some 0.1 ms on a fast network.
inline constexpr uint32_t kMaxWirePages = 64;

enum class WireOp : uint8_t {
  kHello = 1,
  kPlace,
  kRelease,
  kShare,
  kRead,
  kWrite,
  kForget,
  kFence,
  kPing,
  kAdopt,
  kFork,
  kHolders,
};

enum class WireStatus : uint32_t {
  kOk,
  kBadFrame,      // Not understood: the connection ends.
  kVersion,       // No version in common: the connection ends.
  kNotPermitted,  // Wrong key, wrong token, or not the tenant's slab.
  kNoSlab,        // The server does not have that slab (any more).
  kStaleEpoch,    // Another epoch has been fenced in.
  kNoSpace,       // No memory for a slab.
  kOverQuota,     // The tenant may have no more slabs.
  kDamaged,       // A CRC does not match: what was sent did not arrive.
  kOutOfRange,    // Pages beyond the slab, or more than kMaxWirePages.
  kUnreachable,   // Never on the wire: nobody is there to ask.
};
std::string_view WireStatusName(WireStatus status) noexcept;

struct WireFlags {
  static constexpr uint8_t kReply = 1;
  static constexpr uint8_t kTrailers = 2;  // Read: with trailers.
  static constexpr uint8_t kExpose = 4;    // Place, Adopt: for the client's queue pairs too.
};

// What a server keeps about a page beside it. A write with an older version than
// the page has is acknowledged and ignored: it was overtaken.
struct PageTrailer {
  uint32_t version = 0;
  uint32_t crc = 0;

  // `a` was written after `b`; versions wrap.
  static bool Newer(uint32_t a, uint32_t b) noexcept { return static_cast<int32_t>(a - b) > 0; }
};
static_assert(sizeof(PageTrailer) == 8);

// 1 to 47 printable characters, without blanks.
bool IsTenantName(std::string_view name) noexcept;

using WireId = std::array<std::byte, 16>;

struct FrameHeader {
  static constexpr size_t kSize = 64;

  uint16_t version = kWireVersion;
  WireOp op{};
  uint8_t flags = 0;
  WireStatus status = WireStatus::kOk;
  uint64_t id = 0;
  uint64_t slab = 0;
  uint32_t epoch = 0;
  uint32_t first = 0;
  uint32_t pages = 0;
  uint32_t payload = 0;
  uint64_t argument = 0;
  uint32_t payload_crc = 0;

  bool reply() const noexcept { return (flags & WireFlags::kReply) != 0; }
};

enum class FrameError : uint8_t { kNone, kMagic, kChecksum, kVersion, kOp, kFlags, kLength };
std::string_view FrameErrorName(FrameError error) noexcept;

// The client that a Fork makes, in its frame.
void PutForked(const WireId& client, FrameHeader* question) noexcept;
WireId GetForked(const FrameHeader& question) noexcept;

using FrameBytes = std::array<std::byte, FrameHeader::kSize>;
void EncodeFrame(const FrameHeader& header, FrameBytes* to) noexcept;
// Checks all that a header says about itself: known op and flags, no reserved bit, a
// payload of the length that its op and pages ask for. `header` is as sent, also on error.
[[nodiscard]] FrameError DecodeFrame(const FrameBytes& bytes, FrameHeader* header) noexcept;

uint32_t Crc32c(std::span<const std::byte> bytes) noexcept;

// Who connects, and for what. A space has one control connection and, for each lane,
// as many as it likes; those show the token that the control connection was given.
struct HelloBody {
  static constexpr size_t kSize = 128;
  enum class Role : uint8_t { kControl, kDemand, kPrefetch, kWriteBack };

  uint16_t oldest_version = kOldestWireVersion;
  uint16_t newest_version = kWireVersion;
  Role role = Role::kControl;
  WireId client{};                // Random, one for each space: who owns slabs.
  WireId token{};                 // Zeroes on a control connection.
  std::array<char, 64> tenant{};  // Its name, padded with NUL.
};
using HelloBytes = std::array<std::byte, HelloBody::kSize>;
void EncodeHello(const HelloBody& hello, HelloBytes* to) noexcept;
// False when a name or a role is not well-formed.
[[nodiscard]] bool DecodeHello(const HelloBytes& bytes, HelloBody* hello) noexcept;

struct WelcomeBody {
  static constexpr size_t kSize = 128;

  uint16_t version = kWireVersion;
  WireId server{};  // Of the server's state: the same after a warm restart.
  WireId host{};    // Copies of a page never share one.
  WireId token{};   // For the client's other connections.
  uint64_t free_slabs = 0;
  uint64_t slabs = 0;         // That the client has now.
  uint64_t slab_quota = 0;    // Of the tenant; 0 = none.
  uint32_t lease_ms = 0;      // A client silent for longer loses its slabs.
  uint32_t max_requests = 0;  // Unanswered ones on a connection.
};
using WelcomeBytes = std::array<std::byte, WelcomeBody::kSize>;
void EncodeWelcome(const WelcomeBody& welcome, WelcomeBytes* to) noexcept;
[[nodiscard]] bool DecodeWelcome(const WelcomeBytes& bytes, WelcomeBody* welcome) noexcept;

}  // namespace spiritos
