// SPDX-License-Identifier: Apache-2.0
// Frames to bytes and back; what a well-formed one looks like.
#include "libos/remote/wire.h"

#include <isa-l/crc.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace spiritos {
namespace {

// Walks fields of fixed place and width.
template <typename Byte>
class Cursor {
 public:
  explicit Cursor(Byte* at) : at_(at) {}

  template <typename T>
  void Put(T value) noexcept {
    if constexpr (std::endian::native == std::endian::big) value = Swapped(value);
    std::memcpy(at_, &value, sizeof(T));
    at_ += sizeof(T);
  }
  template <typename T>
  T Get() noexcept {
    T value;
    std::memcpy(&value, at_, sizeof(T));
    at_ += sizeof(T);
    if constexpr (std::endian::native == std::endian::big) value = Swapped(value);
    return value;
  }
  template <typename T, size_t n>
  void PutArray(const std::array<T, n>& values) noexcept {
    static_assert(sizeof(T) == 1);
    std::memcpy(at_, values.data(), n);
    at_ += n;
  }
  template <typename T, size_t n>
  void GetArray(std::array<T, n>* values) noexcept {
    static_assert(sizeof(T) == 1);
    std::memcpy(values->data(), at_, n);
    at_ += n;
  }

 private:
  template <typename T>
  static T Swapped(T value) noexcept {
    auto bytes = std::bit_cast<std::array<std::byte, sizeof(T)>>(value);
    std::reverse(bytes.begin(), bytes.end());
    return std::bit_cast<T>(bytes);
  }
  Byte* at_;
};

constexpr size_t kHeaderCrcAt = FrameHeader::kSize - sizeof(uint32_t);

bool KnownOp(uint8_t op, uint16_t version) {
  if (op < static_cast<uint8_t>(WireOp::kHello) || op > static_cast<uint8_t>(WireOp::kHolders)) {
    return false;
  }
  const auto known = static_cast<WireOp>(op);
  if (known == WireOp::kFork || known == WireOp::kHolders) return version >= 4;
  return version >= 2 || (known != WireOp::kShare && known != WireOp::kAdopt);
}

uint8_t KnownFlags(WireOp op, uint16_t version) {
  const bool has_slab = op == WireOp::kPlace || op == WireOp::kAdopt;
  return WireFlags::kReply | WireFlags::kTrailers |
         (version >= 3 && has_slab ? WireFlags::kExpose : 0);
}

// The one length of payload that goes with the header's other fields.
uint64_t PayloadOf(const FrameHeader& header) {
  const uint64_t pages = header.pages;
  switch (header.op) {
    case WireOp::kHello:
      return header.reply() ? WelcomeBody::kSize : HelloBody::kSize;
    case WireOp::kRead: {
      const bool trailers = (header.flags & WireFlags::kTrailers) != 0;
      return header.reply() ? pages * (kPageSize + (trailers ? sizeof(PageTrailer) : 0)) : 0;
    }
    case WireOp::kWrite:
      return header.reply() ? 0 : pages * (kPageSize + sizeof(PageTrailer));
    default:
      return 0;
  }
}

}  // namespace

std::string_view WireStatusName(WireStatus status) noexcept {
  static constexpr std::string_view kNames[] = {
      "ok",       "bad frame",  "no common version", "not permitted", "no such slab", "stale epoch",
      "no space", "over quota", "damaged",           "out of range",  "unreachable"};
  const auto index = static_cast<size_t>(status);
  return index < std::size(kNames) ? kNames[index] : "unknown status";
}

std::string_view FrameErrorName(FrameError error) noexcept {
  static constexpr std::string_view kNames[] = {"none",       "magic", "checksum", "version",
                                                "unknown op", "flags", "length"};
  return kNames[static_cast<size_t>(error)];
}

void PutForked(const WireId& client, FrameHeader* question) noexcept {
  std::memcpy(&question->slab, client.data(), sizeof(question->slab));
  std::memcpy(&question->argument, client.data() + sizeof(question->slab),
              sizeof(question->argument));
}

WireId GetForked(const FrameHeader& question) noexcept {
  WireId client;
  std::memcpy(client.data(), &question.slab, sizeof(question.slab));
  std::memcpy(client.data() + sizeof(question.slab), &question.argument, sizeof(question.argument));
  return client;
}

void EncodeFrame(const FrameHeader& header, FrameBytes* to) noexcept {
  Cursor<std::byte> out(to->data());
  out.Put(kWireMagic);
  out.Put(header.version);
  out.Put(static_cast<uint8_t>(header.op));
  out.Put(header.flags);
  out.Put(static_cast<uint32_t>(header.status));
  out.Put(uint32_t{0});
  out.Put(header.id);
  out.Put(header.slab);
  out.Put(header.epoch);
  out.Put(header.first);
  out.Put(header.pages);
  out.Put(header.payload);
  out.Put(header.argument);
  out.Put(header.payload_crc);
  out.Put(Crc32c({to->data(), kHeaderCrcAt}));
}

FrameError DecodeFrame(const FrameBytes& bytes, FrameHeader* header) noexcept {
  Cursor<const std::byte> in(bytes.data());
  const auto magic = in.Get<uint32_t>();
  header->version = in.Get<uint16_t>();
  const auto op = in.Get<uint8_t>();
  header->op = static_cast<WireOp>(op);
  header->flags = in.Get<uint8_t>();
  header->status = static_cast<WireStatus>(in.Get<uint32_t>());
  const auto reserved = in.Get<uint32_t>();
  header->id = in.Get<uint64_t>();
  header->slab = in.Get<uint64_t>();
  header->epoch = in.Get<uint32_t>();
  header->first = in.Get<uint32_t>();
  header->pages = in.Get<uint32_t>();
  header->payload = in.Get<uint32_t>();
  header->argument = in.Get<uint64_t>();
  header->payload_crc = in.Get<uint32_t>();
  if (magic != kWireMagic) return FrameError::kMagic;
  if (in.Get<uint32_t>() != Crc32c({bytes.data(), kHeaderCrcAt})) return FrameError::kChecksum;
  if (header->version < kOldestWireVersion || header->version > kWireVersion) {
    return FrameError::kVersion;
  }
  if (!KnownOp(op, header->version)) return FrameError::kOp;
  if ((header->flags & ~KnownFlags(header->op, header->version)) != 0 || reserved != 0) {
    return FrameError::kFlags;
  }
  if (header->pages > kMaxWirePages || header->payload != PayloadOf(*header)) {
    return FrameError::kLength;
  }
  return FrameError::kNone;
}

bool IsTenantName(std::string_view name) noexcept {
  constexpr size_t kLongest = 47;
  return !name.empty() && name.size() <= kLongest &&
         std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 0x7F; });
}

uint32_t Crc32c(std::span<const std::byte> bytes) noexcept {
  auto* const data = reinterpret_cast<unsigned char*>(const_cast<std::byte*>(bytes.data()));
  return ~crc32_iscsi(data, static_cast<int>(bytes.size()), ~uint32_t{0});
}

void EncodeHello(const HelloBody& hello, HelloBytes* to) noexcept {
  to->fill(std::byte{0});
  Cursor<std::byte> out(to->data());
  out.Put(hello.oldest_version);
  out.Put(hello.newest_version);
  out.Put(static_cast<uint32_t>(hello.role));
  out.PutArray(hello.client);
  out.PutArray(hello.token);
  out.PutArray(hello.tenant);
}

bool DecodeHello(const HelloBytes& bytes, HelloBody* hello) noexcept {
  Cursor<const std::byte> in(bytes.data());
  hello->oldest_version = in.Get<uint16_t>();
  hello->newest_version = in.Get<uint16_t>();
  const auto role = in.Get<uint32_t>();
  hello->role = static_cast<HelloBody::Role>(role);
  in.GetArray(&hello->client);
  in.GetArray(&hello->token);
  in.GetArray(&hello->tenant);
  const auto end = std::find(hello->tenant.begin(), hello->tenant.end(), '\0');
  const bool padded = std::all_of(end, hello->tenant.end(), [](char c) { return c == '\0'; });
  const bool printable =
      std::all_of(hello->tenant.begin(), end, [](char c) { return c > ' ' && c < 0x7F; });
  return role <= static_cast<uint32_t>(HelloBody::Role::kWriteBack) && padded && printable &&
         end != hello->tenant.begin() && end != hello->tenant.end();
}

void EncodeWelcome(const WelcomeBody& welcome, WelcomeBytes* to) noexcept {
  to->fill(std::byte{0});
  Cursor<std::byte> out(to->data());
  out.Put(welcome.version);
  out.Put(uint16_t{0});
  out.Put(welcome.lease_ms);
  out.PutArray(welcome.server);
  out.PutArray(welcome.host);
  out.PutArray(welcome.token);
  out.Put(welcome.free_slabs);
  out.Put(welcome.slabs);
  out.Put(welcome.slab_quota);
  out.Put(welcome.max_requests);
}

bool DecodeWelcome(const WelcomeBytes& bytes, WelcomeBody* welcome) noexcept {
  Cursor<const std::byte> in(bytes.data());
  welcome->version = in.Get<uint16_t>();
  const auto reserved = in.Get<uint16_t>();
  welcome->lease_ms = in.Get<uint32_t>();
  in.GetArray(&welcome->server);
  in.GetArray(&welcome->host);
  in.GetArray(&welcome->token);
  welcome->free_slabs = in.Get<uint64_t>();
  welcome->slabs = in.Get<uint64_t>();
  welcome->slab_quota = in.Get<uint64_t>();
  welcome->max_requests = in.Get<uint32_t>();
  return reserved == 0 && welcome->lease_ms != 0 && welcome->max_requests != 0 &&
         welcome->version >= kOldestWireVersion && welcome->version <= kWireVersion;
}

}  // namespace spiritos
