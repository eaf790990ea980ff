// SPDX-License-Identifier: Apache-2.0
// Which files of keys are taken, and what is said of the others.
#include "libos/remote/tls_keys.h"

#include <catch2/catch.hpp>

#include "test/support/key_file.h"

namespace spiritos {
namespace {

constexpr char kHex[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eFF";

std::string ErrorOf(const std::string& path) {
  return std::string(ReadKeys(path, "--tls-psk").status().message());
}

TEST_CASE("a key that was printed is read back, and no two are the same", "[remote][tls]") {
  const TempDir dir;
  const TlsKey a = *TlsKey::Make("batch:7");
  const TlsKey b = *TlsKey::Make("web");
  CHECK(a.secret != b.secret);
  const auto keys = ReadKeys(WriteKeys(dir, {a, b}), "--tls-psk");
  REQUIRE(keys.ok());
  REQUIRE(keys->size() == 2);
  CHECK((*keys)[0].tenant == "batch:7");
  CHECK((*keys)[0].secret == a.secret);
  CHECK((*keys)[1].tenant == "web");
  CHECK((*keys)[1].secret == b.secret);
}

TEST_CASE("a key's digits are bytes in order", "[remote][tls]") {
  const TempDir dir;
  const auto keys = ReadKeys(WriteText(dir, fmt::format("\nt:{}\n\n", kHex)), "--tls-psk");
  REQUIRE(keys.ok());
  CHECK(keys->front().secret[1] == std::byte{1});
  CHECK(keys->front().secret[31] == std::byte{0xFF});
}

TEST_CASE("a file of keys that others can read is refused with the way out", "[remote][tls]") {
  const TempDir dir;
  const std::string line = fmt::format("t:{}\n", kHex);
  for (const mode_t mode : {0640, 0604, 0660, 0644}) {
    const std::string path = WriteText(dir, line, mode);
    const auto keys = ReadKeys(path, "--tls-psk");
    CHECK(absl::IsPermissionDenied(keys.status()));
    CHECK_THAT(ErrorOf(path), Catch::Contains("chmod 600 " + path) &&
                                  Catch::Contains(fmt::format("{:04o}", mode)) &&
                                  Catch::Contains("--tls-psk"));
  }
}

TEST_CASE("what is no key is refused with its line, and not shown", "[remote][tls]") {
  const TempDir dir;
  const std::string good = fmt::format("t:{}\n", kHex);
  const std::string hex = kHex;
  for (const std::string& bad :
       {std::string("t"), std::string("t:"), ":" + hex, "t:" + hex + "0", "t:" + hex.substr(1),
        "t:-" + hex.substr(1), "two words:" + hex, std::string(48, 'x') + ":" + hex}) {
    INFO(bad);
    const std::string error = ErrorOf(WriteText(dir, good + bad + "\n"));
    CHECK_THAT(error, Catch::Contains(":2: ") && Catch::Contains("--tls-psk"));
    CHECK_THAT(error, !Catch::Contains("0102"));
  }
  CHECK_THAT(ErrorOf(WriteText(dir, good + good)), Catch::Contains(":2: a second key"));
  CHECK_THAT(ErrorOf(WriteText(dir, "\n")), Catch::Contains("has no key"));
  CHECK_THAT(ErrorOf(dir.file("none")), Catch::Contains("none"));
  CHECK_THAT(ErrorOf(WriteText(dir, std::string((1 << 20) + 1, '\n'))), Catch::Contains("longer"));
}

TEST_CASE("a key is for a tenant that may be one", "[remote][tls]") {
  CHECK_FALSE(TlsKey::Make("").ok());
  CHECK_FALSE(TlsKey::Make("a b").ok());
  CHECK_FALSE(TlsKey::Make("a\nb").ok());
  CHECK(TlsKey::Make(std::string(47, 'x')).ok());
}

}  // namespace
}  // namespace spiritos
