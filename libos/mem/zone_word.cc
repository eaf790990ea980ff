// SPDX-License-Identifier: Apache-2.0
// Counts the stage changes that test builds take.
#include "libos/mem/zone_word.h"

#ifdef SPIRITOS_FAILPOINTS

#include <array>

namespace spiritos {
namespace {

constexpr size_t kStages = static_cast<size_t>(ZoneStage::kExclusive) + 1;
std::array<std::atomic<uint64_t>, kStages * kStages> taken;

size_t IndexOf(ZoneStage from, ZoneStage to) {
  return static_cast<size_t>(from) * kStages + static_cast<size_t>(to);
}

}  // namespace

void AtomicZoneWord::CountStage(ZoneStage from, ZoneStage to) noexcept {
  taken[IndexOf(from, to)].fetch_add(1, std::memory_order_relaxed);
}

uint64_t StagesTaken(ZoneStage from, ZoneStage to) noexcept { return taken[IndexOf(from, to)]; }

void ResetStages() noexcept {
  for (auto& count : taken) count = 0;
}

}  // namespace spiritos

#endif  // SPIRITOS_FAILPOINTS
