// SPDX-License-Identifier: Apache-2.0
// Every arrow by name.
#include "test/stress/arrow_report.h"

#include <fmt/core.h>

#include "libos/mem/page_word.h"
#include "libos/mem/zone_word.h"

namespace spiritos {

#ifdef SPIRITOS_FAILPOINTS

namespace {

// When an arrow can be taken at all.
enum class When { kAlways, kFarPool, kMischief };

struct PageArrow {
  PageState from;
  PageState to;
  When when;
  const char* name;
};
constexpr PageArrow kPageArrows[] = {
    {PageState::kEmpty, PageState::kLoading, When::kAlways, "Empty -> Loading"},
    {PageState::kRemote, PageState::kLoading, When::kAlways, "Remote -> Loading"},
    {PageState::kStandby, PageState::kLoading, When::kFarPool, "Standby -> Loading"},
    {PageState::kLoading, PageState::kResident, When::kAlways, "Loading -> Resident"},
    {PageState::kLoading, PageState::kStandby, When::kFarPool, "Loading -> Standby (read ahead)"},
    {PageState::kLoading, PageState::kRemote, When::kAlways, "Loading -> Remote (gate closed)"},
    {PageState::kLoading, PageState::kEmpty, When::kAlways, "Loading -> Empty (gate closed)"},
    {PageState::kResident, PageState::kLeaving, When::kAlways, "Resident -> Leaving"},
    {PageState::kResident, PageState::kThawing, When::kAlways, "Resident -> Thawing"},
    {PageState::kLeaving, PageState::kThawing, When::kAlways, "Leaving -> Thawing (rescue)"},
    {PageState::kLeaving, PageState::kZapping, When::kAlways, "Leaving -> Zapping"},
    {PageState::kLeaving, PageState::kResident, When::kMischief, "Leaving -> Resident (no write)"},
    {PageState::kThawing, PageState::kResident, When::kAlways, "Thawing -> Resident"},
    {PageState::kZapping, PageState::kRemote, When::kAlways, "Zapping -> Remote"},
    {PageState::kZapping, PageState::kResident, When::kMischief, "Zapping -> Resident (no zap)"},
    {PageState::kStandby, PageState::kRemote, When::kFarPool, "Standby -> Remote (given up)"},
    {PageState::kResident, PageState::kZapping, When::kAlways, "Resident -> Zapping (range call)"},
    {PageState::kZapping, PageState::kEmpty, When::kAlways, "Zapping -> Empty (discard)"},
    {PageState::kRemote, PageState::kEmpty, When::kAlways, "Remote -> Empty (discard)"},
    {PageState::kZapping, PageState::kHole, When::kAlways, "Zapping -> Hole (unmap)"},
    {PageState::kRemote, PageState::kHole, When::kAlways, "Remote -> Hole (unmap, hide)"},
    {PageState::kHole, PageState::kRemote, When::kAlways, "Hole -> Remote (show)"},
};
struct ZoneArrow {
  ZoneStage from;
  ZoneStage to;
  When when;
  const char* name;
};
constexpr ZoneArrow kZoneArrows[] = {
    {ZoneStage::kIdle, ZoneStage::kFreezing, When::kAlways, "Idle -> Freezing"},
    {ZoneStage::kFreezing, ZoneStage::kIdle, When::kAlways, "Freezing -> Idle (no victim)"},
    {ZoneStage::kFreezing, ZoneStage::kFrozen, When::kAlways, "Freezing -> Frozen"},
    {ZoneStage::kFrozen, ZoneStage::kDropping, When::kAlways, "Frozen -> Dropping"},
    {ZoneStage::kFrozen, ZoneStage::kThawing, When::kMischief, "Frozen -> Thawing (no freeze)"},
    {ZoneStage::kDropping, ZoneStage::kFrozen, When::kAlways, "Dropping -> Frozen (next batch)"},
    {ZoneStage::kDropping, ZoneStage::kThawing, When::kAlways, "Dropping -> Thawing"},
    {ZoneStage::kThawing, ZoneStage::kIdle, When::kAlways, "Thawing -> Idle"},
    {ZoneStage::kIdle, ZoneStage::kExclusive, When::kAlways, "Idle -> Exclusive"},
    {ZoneStage::kExclusive, ZoneStage::kIdle, When::kAlways, "Exclusive -> Idle"},
};

}  // namespace

bool ReportArrows(uint64_t least, bool far_pool, bool mischief) {
  bool enough = true;
  const auto report = [&](const char* word, const auto& arrow, uint64_t taken) {
    const bool possible =
        arrow.when == When::kAlways || (arrow.when == When::kFarPool ? far_pool : mischief);
    const bool few = possible && taken < least;
    fmt::print("  {} {:32} {}{}\n", word, arrow.name, taken,
               few ? " TOO FEW" : (possible ? "" : " (not here)"));
    enough = enough && !few;
  };
  for (const PageArrow& arrow : kPageArrows) {
    report("page", arrow, ArrowsTaken(arrow.from, arrow.to));
  }
  for (const ZoneArrow& arrow : kZoneArrows) {
    report("zone", arrow, StagesTaken(arrow.from, arrow.to));
  }
  return enough;
}

#else

bool ReportArrows(uint64_t, bool, bool) { return true; }

#endif

}  // namespace spiritos
