// SPDX-License-Identifier: Apache-2.0
// NearRuns: runs of near pages to work in, given back in any order.
//
//   word 0:  0000 1001 ...   a bit for each of 64 pages, set = taken; a run lies in one
//   word 1:  ...             word, so that taking it is one compare-and-swap
//
// Context: signal, but for Init(). Any number of threads.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <span>

#include "libos/base/pinned_arena.h"

namespace spiritos {

class NearRuns {
 public:
  static constexpr uint32_t kLongest = 64;
  static constexpr uint32_t kWords = 8;
  static constexpr Bytes kSize{size_t{kWords} * kLongest << kPageShift};

  // False without memory.
  [[nodiscard]] bool Init(PinnedArena& arena) noexcept {
    memory_ = static_cast<std::byte*>(arena.Allocate(kSize.raw(), kPageSize));
    return memory_ != nullptr;
  }

  // As many of so many pages as there are in a row, halved until they are; none when all
  // are taken.
  std::span<std::byte> Take(uint32_t pages) noexcept {
    for (uint32_t length = std::min(pages, kLongest); length != 0; length /= 2) {
      for (uint32_t w = 0; w < kWords; ++w) {
        const int bit = TakeFrom(taken_[w], length);
        if (bit < 0) continue;
        const size_t page = w * kLongest + static_cast<uint32_t>(bit);
        return {memory_ + (page << kPageShift), size_t{length} << kPageShift};
      }
    }
    return {};
  }

  void Give(std::span<std::byte> run) noexcept {
    const auto page = static_cast<uint32_t>((run.data() - memory_) >> kPageShift);
    const auto length = static_cast<uint32_t>(run.size() >> kPageShift);
    // Release: the run's user is done with it. Pairs with the acquire in TakeFrom().
    taken_[page / kLongest].fetch_and(~(Bits(length) << page % kLongest),
                                      std::memory_order_release);
  }

 private:
  static uint64_t Bits(uint32_t length) { return ~uint64_t{0} >> (kLongest - length); }

  // The first of `length` free pages in a row, now taken; -1 if there are none.
  static int TakeFrom(std::atomic<uint64_t>& word, uint32_t length) noexcept {
    uint64_t taken = word.load(std::memory_order_relaxed);
    while (true) {
      uint64_t starts = ~taken;  // Of runs that are long enough, once all steps are made.
      for (uint32_t have = 1; have < length;) {
        const uint32_t step = std::min(have, length - have);
        starts &= starts >> step;
        have += step;
      }
      if (starts == 0) return -1;
      const int bit = std::countr_zero(starts);
      if (word.compare_exchange_weak(taken, taken | Bits(length) << bit, std::memory_order_acquire,
                                     std::memory_order_relaxed)) {
        return bit;
      }
    }
  }

  std::byte* memory_ = nullptr;
  std::array<std::atomic<uint64_t>, kWords> taken_{};
};

}  // namespace spiritos
