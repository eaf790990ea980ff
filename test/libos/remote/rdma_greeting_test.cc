// SPDX-License-Identifier: Apache-2.0
// What asks for a queue pair: what goes in comes out, and nothing else is taken for it.
#include "libos/remote/rdma_greeting.h"

#include <catch2/catch.hpp>
#include <vector>

namespace spiritos {
namespace {

RdmaGreeting SomeGreeting() {
  RdmaGreeting greeting{.lane = Lane::kWriteBack};
  for (size_t i = 0; i < greeting.client.size(); ++i) {
    greeting.client[i] = static_cast<std::byte>(i + 1);
    greeting.token[i] = static_cast<std::byte>(0xF0 - i);
  }
  return greeting;
}

// As the connection manager hands it over: padded with zeroes.
std::vector<std::byte> Arrived(const RdmaGreeting& greeting) {
  RdmaGreetingBytes bytes;
  EncodeRdmaGreeting(greeting, &bytes);
  std::vector<std::byte> padded(bytes.begin(), bytes.end());
  padded.resize(56);
  return padded;
}

TEST_CASE("a greeting for a queue pair decodes to what was encoded", "[remote][wire]") {
  const RdmaGreeting greeting = SomeGreeting();
  RdmaGreeting decoded;
  REQUIRE(DecodeRdmaGreeting(Arrived(greeting), &decoded) == WireStatus::kOk);
  CHECK(decoded.version == RdmaGreeting::kVersion);
  CHECK(decoded.lane == greeting.lane);
  CHECK(decoded.client == greeting.client);
  CHECK(decoded.token == greeting.token);
}

TEST_CASE("every flipped bit of a greeting for a queue pair is noticed", "[remote][wire]") {
  std::vector<std::byte> bytes = Arrived(SomeGreeting());
  RdmaGreeting decoded;
  uint32_t noticed = 0;
  for (size_t bit = 0; bit < 8 * RdmaGreeting::kSize; ++bit) {
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    noticed += DecodeRdmaGreeting(bytes, &decoded) == WireStatus::kBadFrame;
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  CHECK(noticed == 8 * RdmaGreeting::kSize);
}

TEST_CASE("a greeting that is cut short, of another time or for no lane is refused",
          "[remote][wire]") {
  RdmaGreeting decoded;
  const std::vector<std::byte> bytes = Arrived(SomeGreeting());
  for (size_t size = 0; size < RdmaGreeting::kSize; ++size) {
    CHECK(DecodeRdmaGreeting({bytes.data(), size}, &decoded) == WireStatus::kBadFrame);
  }
  RdmaGreeting greeting = SomeGreeting();
  greeting.version = RdmaGreeting::kVersion + 1;
  CHECK(DecodeRdmaGreeting(Arrived(greeting), &decoded) == WireStatus::kVersion);
  greeting = SomeGreeting();
  greeting.lane = static_cast<Lane>(kLanes);
  CHECK(DecodeRdmaGreeting(Arrived(greeting), &decoded) == WireStatus::kBadFrame);
}

}  // namespace
}  // namespace spiritos
