// SPDX-License-Identifier: Apache-2.0
// Greetings to bytes and back.
#include "libos/remote/rdma_greeting.h"

#include <bit>
#include <cstring>

namespace spiritos {
namespace {

constexpr uint32_t kMagic = 0x31525053;  // "SPR1".
constexpr size_t kClientAt = 8;
constexpr size_t kTokenAt = kClientAt + sizeof(WireId);
constexpr size_t kCrcAt = kTokenAt + sizeof(WireId);
static_assert(kCrcAt + sizeof(uint32_t) == RdmaGreeting::kSize);
static_assert(std::endian::native == std::endian::little, "numbers are copied as they are");

template <typename T>
T Get(std::span<const std::byte> bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

}  // namespace

void EncodeRdmaGreeting(const RdmaGreeting& greeting, RdmaGreetingBytes* to) noexcept {
  to->fill(std::byte{0});
  std::memcpy(to->data(), &kMagic, sizeof(kMagic));
  std::memcpy(to->data() + 4, &greeting.version, sizeof(greeting.version));
  (*to)[6] = static_cast<std::byte>(greeting.lane);
  std::memcpy(to->data() + kClientAt, greeting.client.data(), sizeof(WireId));
  std::memcpy(to->data() + kTokenAt, greeting.token.data(), sizeof(WireId));
  const uint32_t crc = Crc32c({to->data(), kCrcAt});
  std::memcpy(to->data() + kCrcAt, &crc, sizeof(crc));
}

WireStatus DecodeRdmaGreeting(std::span<const std::byte> bytes, RdmaGreeting* greeting) noexcept {
  if (bytes.size() < RdmaGreeting::kSize || Get<uint32_t>(bytes, 0) != kMagic ||
      Get<uint32_t>(bytes, kCrcAt) != Crc32c(bytes.first(kCrcAt))) {
    return WireStatus::kBadFrame;
  }
  greeting->version = Get<uint16_t>(bytes, 4);
  if (greeting->version != RdmaGreeting::kVersion) return WireStatus::kVersion;
  const auto lane = Get<uint8_t>(bytes, 6);
  if (lane >= kLanes || bytes[7] != std::byte{0}) return WireStatus::kBadFrame;
  greeting->lane = static_cast<Lane>(lane);
  greeting->client = Get<WireId>(bytes, kClientAt);
  greeting->token = Get<WireId>(bytes, kTokenAt);
  return WireStatus::kOk;
}

}  // namespace spiritos
