// SPDX-License-Identifier: Apache-2.0
// Waits at pause points, and the planted bugs by name.
#include "test/stress/chaos.h"

#include <random>
#include <thread>
#include <utility>

#include "libos/base/clock.h"
#include "libos/base/failpoint.h"

namespace spiritos {

#ifdef SPIRITOS_FAILPOINTS

namespace {

// Stretches the moments that races need: a random wait at every pause point.
void Dawdle() {
  thread_local std::minstd_rand rng(static_cast<unsigned>(NowNs()));
  const uint64_t until = NowNs() + rng() % 100'000;
  while (NowNs() < until) std::this_thread::yield();
}

// A short wait now and then, so that faults meet a closed gate.
void Linger() {
  thread_local std::minstd_rand rng(static_cast<unsigned>(NowNs()));
  if (rng() % 2 != 0) return;
  const uint64_t until = NowNs() + rng() % 120'000;
  while (NowNs() < until) std::this_thread::yield();
}

// For where every fault passes.
void DawdleSeldom() {
  thread_local std::minstd_rand rng(static_cast<unsigned>(NowNs()));
  if (rng() % 32 == 0) Dawdle();
}

}  // namespace

void UnleashChaos() {
  for (uint32_t p = 0; p < static_cast<uint32_t>(PausePoint::kCount); ++p) {
    Failpoints::SetPause(static_cast<PausePoint>(p), Dawdle);
  }
  Failpoints::SetPause(PausePoint::kPageClaimed, DawdleSeldom);
}

void HoldGates() {
  Failpoints::SetPause(PausePoint::kGateClosed, Linger);
  Failpoints::SetPause(PausePoint::kPageClaimed, DawdleSeldom);
}

bool Plant(const std::string& name) {
  const std::pair<const char*, PlantedBug> bugs[] = {
      {"unprotect-after-resident", PlantedBug::kUnprotectAfterResident},
      {"stale-slot-valid", PlantedBug::kStaleSlotValid},
      {"thaw-over-leaving", PlantedBug::kThawOverLeaving},
      {"pin-ignored", PlantedBug::kPinIgnored},
      {"two-writes-per-slot", PlantedBug::kTwoWritesPerSlot},
      {"frame-before-ack", PlantedBug::kFrameBeforeAck},
      {"guard-outlives-thaw", PlantedBug::kGuardOutlivesThaw},
      {"pin-before-thaw", PlantedBug::kPinBeforeThaw},
  };
  for (const auto& [known, bug] : bugs) {
    if (name != known) continue;
    Failpoints::Plant(bug, true);
    return true;
  }
  return false;
}

#else
void UnleashChaos() {}
void HoldGates() {}
bool Plant(const std::string&) { return false; }
#endif

}  // namespace spiritos
