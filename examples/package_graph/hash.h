// SPDX-License-Identifier: Apache-2.0
// Hashes and random numbers, the same on every machine and in every run.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace package_graph {

inline uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// Reads every byte once, eight at a time: a checksum that a wrong page changes.
inline uint64_t HashBytes(std::string_view bytes, uint64_t seed = 0) {
  uint64_t hash = seed ^ (bytes.size() * 0x9e3779b97f4a7c15);
  while (bytes.size() >= sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, bytes.data(), sizeof(word));
    hash = std::rotl((hash ^ word) * 0xff51afd7ed558ccd, 29);
    bytes.remove_prefix(sizeof(word));
  }
  uint64_t rest = 0;
  std::memcpy(&rest, bytes.data(), bytes.size());
  return Mix(hash ^ rest);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(Mix(seed)) {}
  uint64_t Next() { return Mix(state_ += 0x9e3779b97f4a7c15); }
  // Even over [0, limit), up to a bias of limit / 2^64.
  uint64_t Below(uint64_t limit) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(Next()) * limit) >> 64);
  }
  double Unit() { return static_cast<double>(Next() >> 11) * 0x1p-53; }  // In [0, 1).

 private:
  uint64_t state_;
};

}  // namespace package_graph
