// SPDX-License-Identifier: Apache-2.0
// Reads rseq's cpu_id, with sched_getcpu(3) where it is not registered.
#include "libos/base/core.h"

#include <sched.h>
#include <sys/rseq.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

namespace spiritos {
namespace {

// Constant once it is not 0. A preloaded library may need it before its turn comes to
// be initialised, so it is counted when first asked for.
constinit std::atomic<uint32_t> core_count{0};

[[gnu::noinline]] uint32_t CountCores() noexcept {
  const long n = sysconf(_SC_NPROCESSORS_CONF);
  const auto count = static_cast<uint32_t>(std::clamp<long>(n, 1, kMaxCores));
  core_count.store(count, std::memory_order_relaxed);
  return count;
}

}  // namespace

uint32_t CoreCount() noexcept {
  const uint32_t count = core_count.load(std::memory_order_relaxed);
  return count != 0 ? count : CountCores();
}

uint32_t CurrentCore() noexcept {
  uint32_t cpu;
  if (__rseq_size != 0) {
    const auto* area = reinterpret_cast<const volatile struct rseq*>(
        static_cast<const char*>(__builtin_thread_pointer()) + __rseq_offset);
    cpu = area->cpu_id;
  } else {
    cpu = static_cast<uint32_t>(sched_getcpu());
  }
  const uint32_t count = CoreCount();
  return cpu < count ? cpu : cpu % count;
}

uint32_t UsableCores() noexcept {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return CoreCount();
  return static_cast<uint32_t>(std::max(1, CPU_COUNT(&set)));
}

}  // namespace spiritos
