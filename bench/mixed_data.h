// SPDX-License-Identifier: Apache-2.0
// Mixed data: page contents that compress about two to one, and the random
// numbers that benchmarks draw.
//
//   word 0          256                       511
//   +---------------+---------------------------+
//   | random words  | runs of 16 equal words    |   every 4 KiB page
//   +---------------+---------------------------+
//
// A rival that compresses must neither be handed zeroes nor noise: half of each
// page is noise, half is structure that LZ4 shrinks to a few bytes a run. Every
// word is a function of (seed, index), so any read can be checked without a
// copy of the data.
#pragma once

#include <cstddef>
#include <cstdint>

#include "libos/base/units.h"

namespace spiritos::bench {

inline constexpr size_t kPageWords = kPageSize / sizeof(uint64_t);

// The finaliser of SplitMix64: a bijection without visible structure.
inline uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

inline uint64_t WordAt(uint64_t seed, uint64_t index) {
  const bool structured = (index & (kPageWords / 2)) != 0;
  return Mix(seed + (structured ? index >> 4 | uint64_t{1} << 63 : index) * 0x9E3779B97F4A7C15u);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(Mix(seed)) {}
  uint64_t Next() { return Mix(state_ += 0x9E3779B97F4A7C15u); }
  // In [0, n); the bias of n / 2^64 does not matter here.
  uint64_t Below(uint64_t n) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(Next()) * n) >> 64);
  }
  // In [0, 1).
  double Unit() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

// The i-th of n places in an order that spreads neighbours far apart; a
// bijection on [0, n) for n below 2^31, because the factor is a larger prime.
inline uint64_t Scatter(uint64_t i, uint64_t n) { return i * 2654435761u % n; }

}  // namespace spiritos::bench
