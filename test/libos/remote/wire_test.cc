// SPDX-License-Identifier: Apache-2.0
// Frames: what goes in comes out, and nothing else is taken for one.
#include "libos/remote/wire.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <string_view>

namespace spiritos {
namespace {

FrameHeader SomeWrite() {
  FrameHeader header;
  header.op = WireOp::kWrite;
  header.id = 0x1122334455667788;
  header.slab = 99;
  header.epoch = 7;
  header.first = 16000;
  header.pages = 3;
  header.payload = 3 * (4096 + 8);
  header.argument = 5;
  header.payload_crc = 0xDEADBEEF;
  return header;
}

FrameError DecodeEncoded(const FrameHeader& header, FrameHeader* decoded) {
  FrameBytes bytes;
  EncodeFrame(header, &bytes);
  return DecodeFrame(bytes, decoded);
}

TEST_CASE("the checksum is CRC-32C as RFC 3720 has it", "[remote][wire]") {
  constexpr std::string_view kText = "123456789";
  CHECK(Crc32c(std::as_bytes(std::span(kText.data(), kText.size()))) == 0xE3069283);
  const std::array<std::byte, 32> zeroes{};  // The RFC's first example.
  CHECK(Crc32c(zeroes) == 0x8A9136AA);
}

TEST_CASE("a frame decodes to what was encoded", "[remote][wire]") {
  const FrameHeader header = SomeWrite();
  FrameHeader decoded;
  REQUIRE(DecodeEncoded(header, &decoded) == FrameError::kNone);
  CHECK(decoded.op == header.op);
  CHECK(decoded.id == header.id);
  CHECK(decoded.slab == header.slab);
  CHECK(decoded.epoch == header.epoch);
  CHECK(decoded.first == header.first);
  CHECK(decoded.pages == header.pages);
  CHECK(decoded.payload == header.payload);
  CHECK(decoded.argument == header.argument);
  CHECK(decoded.payload_crc == header.payload_crc);
}

TEST_CASE("a header's bytes are where the table in wire.h puts them", "[remote][wire]") {
  FrameBytes bytes;
  EncodeFrame(SomeWrite(), &bytes);
  CHECK(std::memcmp(bytes.data(), "SPM1\x04\x00\x06\x00", 8) == 0);
  CHECK(bytes[16] == std::byte{0x88});  // Little-endian.
  CHECK(bytes[23] == std::byte{0x11});
  CHECK(bytes[24] == std::byte{99});
  CHECK(bytes[40] == std::byte{3});
  CHECK(bytes[48] == std::byte{5});
}

TEST_CASE("every flipped bit of a header is noticed", "[remote][wire]") {
  FrameBytes bytes;
  EncodeFrame(SomeWrite(), &bytes);
  FrameHeader decoded;
  uint32_t noticed = 0;
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    noticed += DecodeFrame(bytes, &decoded) != FrameError::kNone;
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  CHECK(noticed == 512);
}

void MakeExposing(FrameHeader& header, uint16_t version, WireOp op) {
  header.version = version;
  header.op = op;
  header.flags = WireFlags::kExpose;
  header.pages = header.payload = 0;
}

TEST_CASE("a header that contradicts itself is refused by what is wrong", "[remote][wire]") {
  FrameHeader decoded;
  const auto refused = [&](void (*spoil)(FrameHeader&)) {
    FrameHeader header = SomeWrite();
    spoil(header);
    return DecodeEncoded(header, &decoded);
  };
  CHECK(refused([](FrameHeader& h) { h.version = 0; }) == FrameError::kVersion);
  CHECK(refused([](FrameHeader& h) { h.version = kWireVersion + 1; }) == FrameError::kVersion);
  CHECK(refused([](FrameHeader& h) { h.op = WireOp{0}; }) == FrameError::kOp);
  CHECK(refused([](FrameHeader& h) { h.op = WireOp{200}; }) == FrameError::kOp);
  CHECK(refused([](FrameHeader& h) { h.flags = 0x80; }) == FrameError::kFlags);
  CHECK(refused([](FrameHeader& h) { h.payload += 1; }) == FrameError::kLength);
  CHECK(refused([](FrameHeader& h) { h.payload = 0xFFFFFFFF; }) == FrameError::kLength);
  CHECK(refused([](FrameHeader& h) { h.pages = 0xFFFFFFFF; }) == FrameError::kLength);
  CHECK(refused([](FrameHeader& h) {
          h.pages = kMaxWirePages + 1;
          h.payload = h.pages * (4096 + 8);
        }) == FrameError::kLength);
  CHECK(refused([](FrameHeader& h) {
          h.version = 1;  // Knows no Share.
          h.op = WireOp::kShare;
          h.payload = 0;
        }) == FrameError::kOp);
  CHECK(refused([](FrameHeader& h) {
          h.version = 3;  // Knows no Fork.
          h.op = WireOp::kFork;
          h.payload = 0;
        }) == FrameError::kOp);
  // Queue pairs' access is asked for with a slab, of a server that knows of it.
  CHECK(refused([](FrameHeader& h) { MakeExposing(h, 2, WireOp::kPlace); }) == FrameError::kFlags);
  CHECK(refused([](FrameHeader& h) { MakeExposing(h, 3, WireOp::kRelease); }) ==
        FrameError::kFlags);
  CHECK(refused([](FrameHeader& h) { MakeExposing(h, 3, WireOp::kPlace); }) == FrameError::kNone);
}

TEST_CASE("a greeting decodes to what was encoded", "[remote][wire]") {
  HelloBody hello;
  hello.role = HelloBody::Role::kPrefetch;
  hello.client.fill(std::byte{3});
  hello.token.fill(std::byte{4});
  constexpr std::string_view kName = "batch-7";
  std::copy(kName.begin(), kName.end(), hello.tenant.begin());
  HelloBytes bytes;
  EncodeHello(hello, &bytes);
  HelloBody decoded;
  REQUIRE(DecodeHello(bytes, &decoded));
  CHECK(decoded.role == hello.role);
  CHECK(decoded.client == hello.client);
  CHECK(decoded.token == hello.token);
  CHECK(std::string_view(decoded.tenant.data()) == kName);

  WelcomeBody welcome;
  welcome.server.fill(std::byte{1});
  welcome.host.fill(std::byte{2});
  welcome.token.fill(std::byte{9});
  welcome.free_slabs = 11;
  welcome.slabs = 12;
  welcome.slab_quota = 13;
  welcome.lease_ms = 60000;
  welcome.max_requests = 64;
  WelcomeBytes answer;
  EncodeWelcome(welcome, &answer);
  WelcomeBody read;
  REQUIRE(DecodeWelcome(answer, &read));
  CHECK(read.server == welcome.server);
  CHECK(read.host == welcome.host);
  CHECK(read.token == welcome.token);
  CHECK(read.free_slabs == 11);
  CHECK(read.slabs == 12);
  CHECK(read.slab_quota == 13);
  CHECK(read.lease_ms == 60000);
  CHECK(read.max_requests == 64);
}

TEST_CASE("a tenant's name is printable, not empty and ends", "[remote][wire]") {
  const auto accepted = [](std::string_view name) {
    HelloBody hello;
    std::copy(name.begin(), name.end(), hello.tenant.begin());
    HelloBytes bytes;
    EncodeHello(hello, &bytes);
    return DecodeHello(bytes, &hello);
  };
  CHECK(accepted("a"));
  CHECK(accepted(std::string(63, 'x')));
  CHECK_FALSE(accepted(""));
  CHECK_FALSE(accepted(std::string(64, 'x')));
  CHECK_FALSE(accepted("two words"));
  CHECK_FALSE(accepted("bell\a"));
  CHECK_FALSE(accepted(std::string_view("a\0b", 3)));
}

}  // namespace
}  // namespace spiritos
