// SPDX-License-Identifier: Apache-2.0
// `--local auto`: a thread that looks each second how much local memory there should be.
#include <memory>

#include "libos/base/clock.h"
#include "libos/base/log.h"
#include "libos/base/parker.h"
#include "libos/base/service_thread.h"
#include "runtime/auto_budget.h"
#include "runtime/shim/shim.h"

namespace spiritos::shim {
namespace {

constexpr uint64_t kPeriodNs = 1'000'000'000;

constinit bool automatic = false;
constinit std::atomic<uint32_t> never{0};

// For ever: the process ends around it.
void Run() {
  AutoBudget wish;
  bool told = false;
  while (true) {
    FarMap& map = *far_map.load();
    const Space* const space = map.space();
    const Bytes used = space == nullptr ? map.dormant() : BytesOf(space->GetStats().used_frames);
    const Bytes before = map.budget();
    const Bytes next = wish.Next(before, used, NowNs());
    if (next != before) {
      const absl::Status status = map.SetBudget(next);
      if (!status.ok() && !told) LogWarning(status.ToString());
      told = told || !status.ok();
    }
    FutexWait(never, 0, kPeriodNs);
  }
}

}  // namespace

void StartAutoBudget(const Settings& settings) {
  automatic = settings.auto_budget;
  RestartAutoBudget();
}

void RestartAutoBudget() {
  if (automatic) StartServiceThread("spiritos-budget", Run).detach();
}

}  // namespace spiritos::shim
