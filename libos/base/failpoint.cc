// SPDX-License-Identifier: Apache-2.0
// State of failpoints, pause points and planted bugs in test builds.
#include "libos/base/failpoint.h"

#ifdef SPIRITOS_FAILPOINTS

namespace spiritos {
namespace {

struct PointState {
  std::atomic<uint64_t> passes{0};
  std::atomic<uint64_t> failures{0};
  std::atomic<uint64_t> first{0};  // 0 = not armed.
  std::atomic<uint64_t> last{0};
  std::atomic<int> error{0};
};

std::array<PointState, static_cast<size_t>(Failpoint::kCount)> points;
std::array<std::atomic<void (*)()>, static_cast<size_t>(PausePoint::kCount)> pauses;
std::array<std::atomic<bool>, static_cast<size_t>(PlantedBug::kCount)> bugs;

PointState& StateOf(Failpoint point) { return points[static_cast<size_t>(point)]; }

}  // namespace

void Failpoints::Arm(Failpoint point, uint64_t nth, int error, uint64_t times) {
  PointState& state = StateOf(point);
  state.first = 0;
  state.passes = 0;
  state.failures = 0;
  state.error = error;
  state.last = nth + times - 1;
  state.first = nth;
}

void Failpoints::DisarmAll() {
  for (PointState& state : points) {
    state.first = 0;
    state.passes = 0;
    state.failures = 0;
  }
}

uint64_t Failpoints::Passes(Failpoint point) { return StateOf(point).passes; }
uint64_t Failpoints::Failures(Failpoint point) { return StateOf(point).failures; }

int Failpoints::Check(Failpoint point) noexcept {
  PointState& state = StateOf(point);
  const uint64_t pass = state.passes.fetch_add(1) + 1;
  const uint64_t first = state.first;
  if (first == 0 || pass < first || pass > state.last) return 0;
  state.failures.fetch_add(1);
  return state.error;
}

void Failpoints::SetPause(PausePoint point, void (*hook)()) {
  pauses[static_cast<size_t>(point)] = hook;
}

void Failpoints::Pause(PausePoint point) noexcept {
  if (void (*hook)() = pauses[static_cast<size_t>(point)]) hook();
}

void Failpoints::Plant(PlantedBug bug, bool planted) { bugs[static_cast<size_t>(bug)] = planted; }

bool Failpoints::Planted(PlantedBug bug) noexcept {
  return bugs[static_cast<size_t>(bug)].load(std::memory_order_relaxed);
}

}  // namespace spiritos

#endif  // SPIRITOS_FAILPOINTS
