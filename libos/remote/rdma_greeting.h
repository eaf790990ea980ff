// SPDX-License-Identifier: Apache-2.0
// RdmaGreeting: what asks a memory server for a queue pair, before there is one.
//
//   0 u32 magic   4 u16 version   6 u8 lane   7 u8 0   8 client   24 token   40 u32 crc
//
// It travels as the private data of a connection request (RDMA CM, at most 56 bytes,
// padded with zeroes). The token was given out over the control connection, so that who
// may connect is decided in one place. Numbers are little-endian, `crc` is CRC-32C of
// the bytes before it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "libos/remote/remote_backend.h"
#include "libos/remote/wire.h"

namespace spiritos {

struct RdmaGreeting {
  static constexpr size_t kSize = 44;

  static constexpr uint16_t kVersion = 3;

  uint16_t version = kVersion;
  Lane lane = Lane::kDemand;
  WireId client{};
  WireId token{};
};
static_assert(RdmaGreeting::kSize <= 56, "the connection manager carries no more");

using RdmaGreetingBytes = std::array<std::byte, RdmaGreeting::kSize>;
void EncodeRdmaGreeting(const RdmaGreeting& greeting, RdmaGreetingBytes* to) noexcept;
// kOk, or why not: kBadFrame for what is no greeting, kVersion for one of another time.
[[nodiscard]] WireStatus DecodeRdmaGreeting(std::span<const std::byte> bytes,
                                            RdmaGreeting* greeting) noexcept;

}  // namespace spiritos
