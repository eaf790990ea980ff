// SPDX-License-Identifier: Apache-2.0
// Reads rseq's cpu_id, with sched_getcpu(3) where it is not registered.
#include "libos/base/core.h"

#include <sched.h>
#include <sys/rseq.h>
#include <unistd.h>

#include <algorithm>

namespace spiritos {
namespace {

uint32_t CountCores() {
  const long n = sysconf(_SC_NPROCESSORS_CONF);
  return static_cast<uint32_t>(std::clamp<long>(n, 1, kMaxCores));
}

// Constant after static initialisation, which runs before any region exists.
const uint32_t core_count = CountCores();

}  // namespace

uint32_t CoreCount() noexcept { return core_count; }

uint32_t CurrentCore() noexcept {
  uint32_t cpu;
  if (__rseq_size != 0) {
    const auto* area = reinterpret_cast<const volatile struct rseq*>(
        static_cast<const char*>(__builtin_thread_pointer()) + __rseq_offset);
    cpu = area->cpu_id;
  } else {
    cpu = static_cast<uint32_t>(sched_getcpu());
  }
  return cpu < core_count ? cpu : cpu % core_count;
}

uint32_t UsableCores() noexcept {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return core_count;
  return static_cast<uint32_t>(std::max(1, CPU_COUNT(&set)));
}

}  // namespace spiritos
