// SPDX-License-Identifier: Apache-2.0
// Clock: nanoseconds for measuring, from the vDSO; Tsc for the fault path.
#pragma once

#include <time.h>
#include <x86intrin.h>

#include <cstdint>

namespace spiritos {

// CLOCK_MONOTONIC in nanoseconds: 20-40 ns a call. Context: signal.
inline uint64_t NowNs() noexcept {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// CPU time of the calling thread in nanoseconds. Context: signal.
inline uint64_t ThreadCpuNs() noexcept {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// The time-stamp counter. Ticks are constant-rate on every CPU that userfaultfd
// matters on; NsPerTick() relates them to NowNs().
inline uint64_t Tsc() noexcept { return __rdtsc(); }

// Nanoseconds per tick, calibrated against NowNs() at the first call (5 ms).
double NsPerTick() noexcept;

}  // namespace spiritos
