// SPDX-License-Identifier: Apache-2.0
// Reads the per-core fault counters and sets the affinity.
#include "libos/evict/placement.h"

namespace spiritos {

CorePlacement::CorePlacement(const Metrics& metrics, const std::vector<int>& cpus)
    : metrics_(metrics), fixed_(!cpus.empty()) {
  CPU_ZERO(&allowed_);
  if (fixed_) {
    for (const int cpu : cpus) CPU_SET(static_cast<size_t>(cpu), &allowed_);
  } else if (sched_getaffinity(0, sizeof(allowed_), &allowed_) != 0) {
    fixed_ = true;  // Nothing is known: stay where the scheduler puts us.
  }
  CPU_ZERO(&current_);
}

void CorePlacement::Update() noexcept {
  cpu_set_t wanted = allowed_;
  if (!fixed_) {
    std::array<uint64_t, kMaxCores> recent{};
    uint64_t total = 0;
    for (uint32_t core = 0; core < CoreCount(); ++core) {
      const uint64_t faults = metrics_.GetOnCore(Metric::kFaults, core);
      recent[core] = faults - seen_[core];
      seen_[core] = faults;
      total += recent[core];
    }
    if (total < 64) return;  // Too few to say where.
    for (uint32_t core = 0; core < CoreCount(); ++core) {
      if (recent[core] * kBusyShare > total) CPU_CLR(core, &wanted);
    }
    crowded_ = CPU_COUNT(&wanted) == 0;
    if (crowded_) wanted = allowed_;
  }
  if (CPU_EQUAL(&wanted, &current_) || CPU_COUNT(&wanted) == 0) return;
  if (sched_setaffinity(0, sizeof(wanted), &wanted) == 0) current_ = wanted;
}

}  // namespace spiritos
