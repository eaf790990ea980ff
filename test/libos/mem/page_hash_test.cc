// SPDX-License-Identifier: Apache-2.0
// PageHash: against a bit-by-bit reference; what must change it and what must not.
#include "libos/mem/page_hash.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <memory>
#include <random>
#include <type_traits>
#include <utility>
#include <vector>

#include "test/support/together.h"

namespace spiritos {
namespace {

struct alignas(64) Page {
  std::array<std::byte, kPageSize> bytes{};
  std::byte* data() { return bytes.data(); }
  bool operator==(const Page&) const = default;
};

std::unique_ptr<Page> RandomPage(std::mt19937_64& random) {
  auto page = std::make_unique<Page>();
  for (size_t i = 0; i < kPageSize; i += 8) {
    const uint64_t word = random();
    std::memcpy(page->data() + i, &word, 8);
  }
  return page;
}

// The key, which is the first member of the hasher.
static_assert(std::is_standard_layout_v<PageHasher>);
std::vector<uint64_t> KeyOf(const PageHasher& hasher) {
  std::vector<uint64_t> key(kPageSize / 8);
  std::memcpy(key.data(), &hasher, kPageSize);
  return key;
}

// The sum over GF(2)[x] of (m[2i] ^ k[2i]) * (m[2i+1] ^ k[2i+1]), one bit at a time.
PageHash Reference(const std::vector<uint64_t>& key, const std::byte* page) {
  PageHash sum;
  for (size_t i = 0; i < kPageSize / 8; i += 2) {
    uint64_t m[2];
    std::memcpy(m, page + i * 8, 16);
    const uint64_t a = m[0] ^ key[i];
    const uint64_t b = m[1] ^ key[i + 1];
    for (unsigned bit = 0; bit < 64; ++bit) {
      if ((b >> bit & 1) == 0) continue;
      sum.low ^= a << bit;
      if (bit != 0) sum.high ^= a >> (64 - bit);
    }
  }
  return sum;
}

// Hashers with each kind of lanes that this CPU has.
std::vector<std::unique_ptr<PageHasher>> Hashers() {
  std::vector<std::unique_ptr<PageHasher>> hashers;
  hashers.push_back(std::make_unique<PageHasher>());
  hashers.push_back(std::make_unique<PageHasher>());
  hashers.back()->UseNarrowLanes();
  return hashers;
}

TEST_CASE("the hash is the sum of products that the header names", "[mem]") {
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  for (const auto& hasher : Hashers()) {
    INFO(hasher->lanes());
    const auto key = KeyOf(*hasher);
    for (int i = 0; i < 50; ++i) {
      const auto page = RandomPage(random);
      CHECK(hasher->Hash(page->data()) == Reference(key, page->data()));
    }
    Page zeroes;
    Page ones;
    std::memset(ones.data(), 0xff, kPageSize);
    CHECK(hasher->Hash(zeroes.data()) == Reference(key, zeroes.data()));
    CHECK(hasher->Hash(ones.data()) == Reference(key, ones.data()));
    CHECK(hasher->zero_hash() == hasher->Hash(zeroes.data()));
    CHECK(hasher->Hash(zeroes.data()).high >> 63 == 0);  // Products have 127 bits.
  }
}

TEST_CASE("wide and narrow lanes give one hash", "[mem]") {
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  PageHasher hasher;
  if (std::string_view(hasher.lanes()) == "128-bit") {
    WARN("skipped: this CPU has no wide lanes");
    return;
  }
  const auto first = RandomPage(random);
  std::vector<std::pair<std::unique_ptr<Page>, PageHash>> wide;
  for (int i = 0; i < 500; ++i) {
    auto page = RandomPage(random);
    const PageHash hash = hasher.Hash(page->data());
    wide.emplace_back(std::move(page), hash);
  }
  const PageHash wide_zero = hasher.zero_hash();
  hasher.UseNarrowLanes();
  CHECK(std::string_view(hasher.lanes()) == "128-bit");
  CHECK(hasher.zero_hash() == wide_zero);
  uint32_t differ = 0;
  for (const auto& [page, hash] : wide) differ += hasher.Hash(page->data()) != hash;
  CHECK(differ == 0);
}

TEST_CASE("every single bit counts, and no two flips give one hash", "[mem]") {
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  for (const auto& hasher : Hashers()) {
    INFO(hasher->lanes());
    const auto page = RandomPage(random);
    std::vector<std::pair<uint64_t, uint64_t>> hashes;
    const auto note = [&] {
      const PageHash hash = hasher->Hash(page->data());
      hashes.emplace_back(hash.low, hash.high);
    };
    note();
    for (size_t bit = 0; bit < kPageSize * 8; ++bit) {
      page->bytes[bit / 8] ^= std::byte(1u << bit % 8);
      note();
      page->bytes[bit / 8] ^= std::byte(1u << bit % 8);
    }
    std::sort(hashes.begin(), hashes.end());
    CHECK(std::adjacent_find(hashes.begin(), hashes.end()) == hashes.end());
  }
}

TEST_CASE("moving words around changes the hash", "[mem]") {
  std::mt19937_64 random(TestSeed());
  const PageHasher hasher;
  const auto page = RandomPage(random);
  const PageHash before = hasher.Hash(page->data());
  for (const auto& [a, b] : {std::pair<size_t, size_t>{0, 1}, {0, 2}, {7, 8}, {3, 511}}) {
    std::swap_ranges(page->data() + a * 8, page->data() + a * 8 + 8, page->data() + b * 8);
    CHECK(hasher.Hash(page->data()) != before);
    std::swap_ranges(page->data() + a * 8, page->data() + a * 8 + 8, page->data() + b * 8);
  }
  CHECK(hasher.Hash(page->data()) == before);
}

TEST_CASE("two hashers have different keys and different hashes of one page", "[mem]") {
  std::mt19937_64 random(TestSeed());
  const auto page = RandomPage(random);
  const PageHasher a;
  const PageHasher b;
  CHECK((KeyOf(a) != KeyOf(b)));
  CHECK(a.Hash(page->data()) != b.Hash(page->data()));
  CHECK(a.zero_hash() != b.zero_hash());
  // The whole key was drawn: no word of it is left at zero (but by a chance of 2^-55).
  const auto key = KeyOf(a);
  CHECK(std::count(key.begin(), key.end(), uint64_t{0}) == 0);
}

TEST_CASE("copying writes exactly the page and hashes what it wrote", "[mem]") {
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  for (const auto& hasher : Hashers()) {
    INFO(hasher->lanes());
    const auto target = std::make_unique<std::array<Page, 3>>();
    for (int i = 0; i < 50; ++i) {
      const auto page = RandomPage(random);
      const Page before = *page;
      for (Page& part : *target) std::memset(part.data(), 0xa5, kPageSize);
      const Page untouched = (*target)[0];
      const PageHash hash = hasher->CopyAndHash((*target)[1].data(), page->data());
      CHECK(hash == hasher->Hash(page->data()));
      CHECK(((*target)[1] == *page));
      CHECK((*page == before));
      CHECK(((*target)[0] == untouched));
      CHECK(((*target)[2] == untouched));
    }
  }
}

TEST_CASE("a page is zero when every bit is", "[mem]") {
  Page page;
  CHECK(IsZeroPage(page.data()));
  uint32_t missed = 0;
  for (size_t bit = 0; bit < kPageSize * 8; ++bit) {
    page.bytes[bit / 8] = std::byte(1u << bit % 8);
    missed += IsZeroPage(page.data());
    page.bytes[bit / 8] = std::byte{0};
  }
  CHECK(missed == 0);
}

}  // namespace
}  // namespace spiritos
