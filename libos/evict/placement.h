// SPDX-License-Identifier: Apache-2.0
// CorePlacement: keeps an evictor's thread off the CPUs of faulting threads.
//
// An evictor that shares a CPU with a faulting thread runs at a third of its
// rate and interrupts what it serves. The per-core fault counters say where
// faults happen; the thread's affinity is set to the allowed CPUs less those.
// Where that leaves none (as many faulting threads as CPUs) all are allowed and
// crowded() says so.
#pragma once

#include <sched.h>

#include <array>
#include <cstdint>
#include <vector>

#include "libos/base/core.h"
#include "libos/base/metrics.h"

namespace spiritos {

class CorePlacement {
 public:
  // `cpus` fixes the CPUs; empty = those the constructing thread may use, less
  // busy ones.
  CorePlacement(const Metrics& metrics, const std::vector<int>& cpus);

  // Looks at the faults since the last call and moves the calling thread.
  void Update() noexcept;
  // The caller is another thread than the last one: it has not been moved.
  void Forget() noexcept { CPU_ZERO(&current_); }
  // Every allowed CPU sees faults.
  bool crowded() const { return crowded_; }

 private:
  // A core with less than this share of recent faults is not busy.
  static constexpr uint64_t kBusyShare = 20;  // 1/20.

  const Metrics& metrics_;
  bool fixed_;
  bool crowded_ = false;
  cpu_set_t allowed_;
  cpu_set_t current_;
  std::array<uint64_t, kMaxCores> seen_{};
};

}  // namespace spiritos
