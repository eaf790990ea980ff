// SPDX-License-Identifier: Apache-2.0
// Fuzz target: any 64 bytes as a frame's header, any 128 as a greeting.
//
// What is taken for well-formed says the same when it is written again, and announces no
// more bytes than a frame has. The input is tried as it is, and once more with the magic and
// the checksum put right, so that what is behind those is reached.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "libos/base/check.h"
#include "libos/remote/wire.h"

namespace spiritos {
namespace {

constexpr size_t kLongestPayload = size_t{kMaxWirePages} * (kPageSize + sizeof(PageTrailer));

void TryFrame(const FrameBytes& bytes) {
  FrameHeader header;
  const FrameError error = DecodeFrame(bytes, &header);
  SPIRITOS_CHECK(!FrameErrorName(error).empty(), "an error without a name");
  SPIRITOS_CHECK(!WireStatusName(header.status).empty(), "a status without a name");
  if (error != FrameError::kNone) return;
  SPIRITOS_CHECK(header.payload <= std::max(kLongestPayload, HelloBody::kSize),
                 "a payload of {} bytes", header.payload);
  FrameBytes again;
  EncodeFrame(header, &again);
  SPIRITOS_CHECK(again == bytes, "a frame that is written otherwise than read");
}

void TryHello(const HelloBytes& bytes) {
  HelloBody hello;
  if (!DecodeHello(bytes, &hello)) return;
  SPIRITOS_CHECK(hello.tenant.back() == '\0' && hello.tenant.front() != '\0', "an endless name");
  HelloBytes again;
  EncodeHello(hello, &again);
  HelloBody same;
  SPIRITOS_CHECK(DecodeHello(again, &same) && same.role == hello.role &&
                     same.client == hello.client && same.token == hello.token &&
                     same.tenant == hello.tenant,
                 "a greeting that is read otherwise than written");
}

void TryWelcome(const WelcomeBytes& bytes) {
  WelcomeBody welcome;
  if (!DecodeWelcome(bytes, &welcome)) return;
  WelcomeBytes again;
  EncodeWelcome(welcome, &again);
  WelcomeBody same;
  SPIRITOS_CHECK(DecodeWelcome(again, &same) && same.server == welcome.server &&
                     same.token == welcome.token && same.free_slabs == welcome.free_slabs &&
                     same.lease_ms == welcome.lease_ms,
                 "a welcome that is read otherwise than written");
}

template <typename Bytes>
Bytes Take(const uint8_t* data, size_t size) {
  Bytes bytes{};
  std::memcpy(bytes.data(), data, std::min(size, bytes.size()));
  return bytes;
}

}  // namespace
}  // namespace spiritos

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace spiritos;
  auto frame = Take<FrameBytes>(data, size);
  TryFrame(frame);
  std::memcpy(frame.data(), &kWireMagic, sizeof(kWireMagic));
  constexpr size_t kSummed = FrameHeader::kSize - sizeof(uint32_t);
  const uint32_t crc = Crc32c({frame.data(), kSummed});
  std::memcpy(frame.data() + kSummed, &crc, sizeof(crc));
  TryFrame(frame);
  TryHello(Take<HelloBytes>(data, size));
  TryWelcome(Take<WelcomeBytes>(data, size));
  return 0;
}
