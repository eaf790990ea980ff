// SPDX-License-Identifier: Apache-2.0
// PageHash: a keyed 127-bit hash of a page, for "is it dirty" and "is it intact".
//
// PH of Lemire and Kaser, "Faster 64-bit universal hashing using carry-less
// multiplications" (2015), section 3: the sum over GF(2)[x] of
// (m[2i] ^ k[2i]) * (m[2i+1] ^ k[2i+1]) for the page's 512 words m and as many
// random key words k. Two different pages collide with probability 2^-64 over
// the choice of the key, whatever the pages are; keys are drawn per space and
// hashes never leave near memory, so pages cannot be chosen to collide.
//
// One carry-less multiplication per 16 bytes: 512-bit lanes where the CPU has
// VPCLMULQDQ, else 128-bit ones; the results are the same.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "libos/base/units.h"

namespace spiritos {

struct PageHash {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const PageHash&) const = default;
};
static_assert(sizeof(PageHash) == 16);

class PageHasher {
 public:
  // Draws a random key from the kernel.
  PageHasher();
  PageHasher(const PageHasher&) = delete;
  PageHasher& operator=(const PageHasher&) = delete;

  // The hash of the 4096 bytes at `page` (aligned to 64). Context: signal.
  PageHash Hash(const std::byte* page) const noexcept { return hash_(key_.data(), page); }

  // Copies the page to `to` (aligned to 64) past the caches and hashes what was
  // copied, in one pass.
  PageHash CopyAndHash(std::byte* to, const std::byte* page) const noexcept {
    return copy_and_hash_(key_.data(), to, page);
  }

  PageHash zero_hash() const { return zero_hash_; }

  // What the CPU lets this hasher use, for `doctor` and tests.
  const char* lanes() const { return lanes_; }
  // Switches to 128-bit lanes, to test that both agree.
  void UseNarrowLanes();

 private:
  static constexpr size_t kKeyWords = kPageSize / 8;
  alignas(64) std::array<uint64_t, kKeyWords> key_;
  PageHash (*hash_)(const uint64_t* key, const std::byte* page);
  PageHash (*copy_and_hash_)(const uint64_t* key, std::byte* to, const std::byte* page);
  PageHash zero_hash_;
  const char* lanes_;
};

// Whether all 4096 bytes are zero. Stops at the first that is not.
bool IsZeroPage(const std::byte* page) noexcept;

}  // namespace spiritos
