// SPDX-License-Identifier: Apache-2.0
// Recency: by what the pager chooses which pages leave, as numbers.
//
// Without accessed bits the pager knows when a page came and how long it had been away: a
// segmented FIFO. Zones are swept in turn; a sweep takes the pages that are old enough and
// have no credit left. A page that comes back soon is hotter than its place among the others
// says, and survives exponentially more sweeps.
//
// Time is the fault clock: a tick for every 1/128 of the budget handed out, rounded to a power
// of two. These numbers are here because two go by them: the pager, and the miniature of it
// that predicts what another budget would do (arbiter/miniature_pager.h).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace spiritos {

// Pages younger than this stay, at normal pressure: they were just paid for.
inline constexpr uint16_t kMinAgeTicks = 8;
// A page that was away for less has come back soon: a quarter of a turnover of the budget.
inline constexpr uint16_t kSoonTicks = 32;
inline constexpr uint32_t kMaxHot = 4;

// Sweeps that a page this hot survives.
constexpr uint32_t CreditFor(uint32_t hot) { return (1u << hot) - 1; }
constexpr uint32_t Hotter(uint32_t hot) { return std::min(hot + 1, kMaxHot); }
constexpr uint32_t Cooler(uint32_t hot) { return hot - (hot != 0); }

// Log2 of the frames to a tick.
constexpr uint32_t TickShift(int64_t budget_pages) {
  const auto frames = static_cast<uint64_t>(std::max<int64_t>(1, budget_pages / 128));
  return static_cast<uint32_t>(std::bit_width(frames) - 1);
}

// Levels of free frames that evictors act on.
//
//   0 -- faults wait -- min -- evict -- low -- finish -- high -- idle --> free
//
// Invariant: 0 < min < low < high < budget.
struct Watermarks {
  int64_t min = 0;
  int64_t low = 0;
  int64_t high = 0;

  // `low` leaves evictors time: at 200 k faults/s the 1/32 of a 128 MiB budget lasts 5 ms, a
  // hundred wake-ups. The cap keeps large budgets from idling frames.
  static constexpr Watermarks For(int64_t budget_pages) {
    const int64_t low = std::clamp<int64_t>(budget_pages / 32, 64, 4096);
    return {.min = low / 4, .low = low, .high = 2 * low};
  }
};

}  // namespace spiritos
