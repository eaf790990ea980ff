// SPDX-License-Identifier: Apache-2.0
// Counts the arrows that test builds take.
#include "libos/mem/page_word.h"

#ifdef SPIRITOS_FAILPOINTS

#include <array>

#include "libos/base/core.h"

namespace spiritos {
namespace {

constexpr size_t kStates = static_cast<size_t>(PageState::kHole) + 1;
struct alignas(64) Cell {
  std::array<std::atomic<uint64_t>, kStates * kStates> taken{};
};
std::array<Cell, kMaxCores> cells;

size_t IndexOf(PageState from, PageState to) {
  return static_cast<size_t>(from) * kStates + static_cast<size_t>(to);
}

}  // namespace

void AtomicPageWord::CountArrow(PageWord from, PageWord to) noexcept {
  if (from.state() == to.state()) return;
  cells[CurrentCore()].taken[IndexOf(from.state(), to.state())].fetch_add(
      1, std::memory_order_relaxed);
}

uint64_t ArrowsTaken(PageState from, PageState to) noexcept {
  uint64_t sum = 0;
  for (const Cell& cell : cells) sum += cell.taken[IndexOf(from, to)].load();
  return sum;
}

void ResetArrows() noexcept {
  for (Cell& cell : cells) {
    for (auto& count : cell.taken) count = 0;
  }
}

}  // namespace spiritos

#endif  // SPIRITOS_FAILPOINTS
