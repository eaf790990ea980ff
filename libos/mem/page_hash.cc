// SPDX-License-Identifier: Apache-2.0
// PH with 128-bit and 512-bit carry-less multiplications.
#include "libos/mem/page_hash.h"

// GCC 12's own header reads a variable it leaves undefined on purpose (PR 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#include <sys/random.h>

#include <algorithm>
#include <cerrno>

#include "libos/base/check.h"

namespace spiritos {
namespace {

constexpr size_t kBlocks128 = kPageSize / 16;
constexpr size_t kBlocks512 = kPageSize / 64;

[[gnu::target("sse4.1")]] inline PageHash FromRegister(__m128i sum) {
  return {static_cast<uint64_t>(_mm_cvtsi128_si64(sum)),
          static_cast<uint64_t>(_mm_extract_epi64(sum, 1))};
}

// Victims are read while a rescuer may write them; what comes of it is thrown
// away with the rescued page's write, so the race is not one.
//
// Four sums, so that one multiplication's latency hides behind three others.
template <bool kCopy>
[[gnu::target("pclmul,sse4.1"), gnu::no_sanitize("thread")]] PageHash HashNarrow(
    const uint64_t* key, std::byte* to, const std::byte* page) {
  const auto* m = reinterpret_cast<const __m128i*>(page);
  const auto* k = reinterpret_cast<const __m128i*>(key);
  auto* out = reinterpret_cast<__m128i*>(to);
  __m128i sum[4] = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128(),
                    _mm_setzero_si128()};
  for (size_t i = 0; i < kBlocks128; i += 4) {
    for (size_t lane = 0; lane < 4; ++lane) {
      const __m128i block = _mm_load_si128(m + i + lane);
      if constexpr (kCopy) _mm_stream_si128(out + i + lane, block);
      const __m128i mixed = _mm_xor_si128(block, _mm_load_si128(k + i + lane));
      sum[lane] = _mm_xor_si128(sum[lane], _mm_clmulepi64_si128(mixed, mixed, 0x10));
    }
  }
  if constexpr (kCopy) _mm_sfence();
  return FromRegister(_mm_xor_si128(_mm_xor_si128(sum[0], sum[1]), _mm_xor_si128(sum[2], sum[3])));
}

template <bool kCopy>
[[gnu::target("avx512f,vpclmulqdq,pclmul,sse4.1"), gnu::no_sanitize("thread")]] PageHash HashWide(
    const uint64_t* key, std::byte* to, const std::byte* page) {
  __m512i sum[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                    _mm512_setzero_si512()};
  for (size_t i = 0; i < kBlocks512; i += 4) {
    for (size_t lane = 0; lane < 4; ++lane) {
      const __m512i block = _mm512_load_si512(page + (i + lane) * 64);
      if constexpr (kCopy) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(to + (i + lane) * 64), block);
      }
      const __m512i mixed = _mm512_xor_si512(block, _mm512_load_si512(key + (i + lane) * 8));
      sum[lane] = _mm512_xor_si512(sum[lane], _mm512_clmulepi64_epi128(mixed, mixed, 0x10));
    }
  }
  if constexpr (kCopy) _mm_sfence();
  const __m512i all =
      _mm512_xor_si512(_mm512_xor_si512(sum[0], sum[1]), _mm512_xor_si512(sum[2], sum[3]));
  const __m128i folded = _mm_xor_si128(
      _mm_xor_si128(_mm512_extracti32x4_epi32(all, 0), _mm512_extracti32x4_epi32(all, 1)),
      _mm_xor_si128(_mm512_extracti32x4_epi32(all, 2), _mm512_extracti32x4_epi32(all, 3)));
  return FromRegister(folded);
}

PageHash NarrowHash(const uint64_t* key, const std::byte* page) {
  return HashNarrow<false>(key, nullptr, page);
}
PageHash NarrowCopy(const uint64_t* key, std::byte* to, const std::byte* page) {
  return HashNarrow<true>(key, to, page);
}
PageHash WideHash(const uint64_t* key, const std::byte* page) {
  return HashWide<false>(key, nullptr, page);
}
PageHash WideCopy(const uint64_t* key, std::byte* to, const std::byte* page) {
  return HashWide<true>(key, to, page);
}

}  // namespace

PageHasher::PageHasher() {
  size_t have = 0;
  while (have < sizeof(key_)) {
    // More than 256 bytes at once may be cut short or refused because of a signal.
    const size_t wanted = std::min(sizeof(key_) - have, size_t{256});
    const ssize_t n = getrandom(reinterpret_cast<char*>(key_.data()) + have, wanted, 0);
    if (n < 0 && errno == EINTR) continue;  // The kernel's pool was not yet seeded.
    SPIRITOS_CHECK(n > 0, "getrandom failed: no key for page hashes");
    have += static_cast<size_t>(n);
  }
  SPIRITOS_CHECK(__builtin_cpu_supports("pclmul"), "this CPU lacks PCLMULQDQ (x86-64 since 2010)");
  UseNarrowLanes();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq")) {
    hash_ = WideHash;
    copy_and_hash_ = WideCopy;
    lanes_ = "512-bit";
  }
}

void PageHasher::UseNarrowLanes() {
  hash_ = NarrowHash;
  copy_and_hash_ = NarrowCopy;
  lanes_ = "128-bit";
  alignas(64) static const std::array<std::byte, kPageSize> zeroes{};
  zero_hash_ = Hash(zeroes.data());
}

[[gnu::no_sanitize("thread")]] bool IsZeroPage(const std::byte* page) noexcept {
  const auto* words = reinterpret_cast<const uint64_t*>(page);
  for (size_t i = 0; i < kPageSize / 8; i += 8) {
    if ((words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] | words[i + 5] |
         words[i + 6] | words[i + 7]) != 0) {
      return false;
    }
  }
  return true;
}

}  // namespace spiritos
