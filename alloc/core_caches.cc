// SPDX-License-Identifier: Apache-2.0
// Caches are jemalloc's explicit tcaches, made when their core first needs one.
#include "alloc/core_caches.h"

#include <sched.h>

#include "libos/base/check.h"

namespace spiritos {

CoreCaches::CoreCaches(std::span<const Arena> arenas)
    : count_(CoreCount()), cores_(std::make_unique<Core[]>(count_)) {
  for (uint32_t i = 0; i < count_; ++i) {
    cores_[i].uncached_flags = arenas[i % arenas.size()].flag() | MALLOCX_TCACHE_NONE;
  }
}

CoreCaches::~CoreCaches() {
  for (uint32_t i = 0; i < count_; ++i) {
    // Held: in a forked child, whose cache another thread was in the middle of.
    if (cores_[i].cache == kNoCache || !cores_[i].lock.try_lock()) continue;
    const bool destroyed = jemalloc::Set("tcache.destroy", cores_[i].cache);
    SPIRITOS_CHECK(destroyed, "cache {} of core {}", cores_[i].cache, i);
    cores_[i].lock.unlock();
  }
}

// Without near memory, or with too many caches in the process, the core does
// without one.
void CoreCaches::OpenLocked(Core& core) noexcept {
  core.flags = core.uncached_flags;
  if (!jemalloc::Get("tcache.create", core.cache)) {
    core.cache = kNoCache;
    return;
  }
  core.flags = (core.uncached_flags ^ MALLOCX_TCACHE_NONE) | MALLOCX_TCACHE(core.cache);
}

void CoreCaches::Flush() noexcept {
  for (uint32_t i = 0; i < count_; ++i) {
    Core& core = cores_[i];
    for (int n = 0; n < kFlushAttempts; ++n) {
      if (core.lock.try_lock()) {
        if (core.cache != kNoCache) jemalloc::Set("tcache.flush", core.cache);
        core.lock.unlock();
        break;
      }
      sched_yield();
    }
  }
}

void CoreCaches::BeforeFork() noexcept {
  for (uint32_t i = 0; i < count_; ++i) cores_[i].lock.BeforeFork();
}

void CoreCaches::AfterFork() noexcept {
  for (uint32_t i = 0; i < count_; ++i) cores_[i].lock.AfterFork();
}

}  // namespace spiritos
