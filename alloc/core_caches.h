// SPDX-License-Identifier: Apache-2.0
// CoreCaches: recently freed small objects of a heap, one cache per core.
//
//   core 0 [lock | jemalloc cache] --fill, flush--> arena 0
//   core 1 [lock | jemalloc cache] --fill, flush--> arena 1, or again arena 0
//
// A call locks the cache of its core, which nearly always is free: the lock costs
// about 5 ns and is never waited for. Where it is held, by a thread that was
// preempted or moved, the call goes to the arena instead. Caches of threads would
// save those 5 ns, and cost a cache (13 KiB near, at most 2.3 MiB far) per thread and
// heap, books of who exits when, and a Purge() that cannot reach them.
//
// Threads: any. A body must not touch far memory: its user thread could be
// switched away with the lock held.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "alloc/arena.h"
#include "alloc/private_jemalloc.h"
#include "libos/base/core.h"
#include "libos/base/lock.h"
#include "libos/base/units.h"

namespace spiritos {

class CoreCaches {
 public:
  // Spreads cores over `arenas`, which outlive the caches.
  explicit CoreCaches(std::span<const Arena> arenas);
  ~CoreCaches();
  CoreCaches(const CoreCaches&) = delete;
  CoreCaches& operator=(const CoreCaches&) = delete;

  // Calls `body` with the flags that name this core's arena and cache.
  template <typename Body>
  void With(Body&& body) noexcept {
    Core& core = cores_[CurrentCore()];
    if (!core.lock.try_lock()) [[unlikely]] {
      body(core.uncached_flags);
      return;
    }
    if (core.flags == 0) [[unlikely]]
      OpenLocked(core);
    body(core.flags);
    core.lock.unlock();
  }

  // The flags that name this core's arena and no cache.
  int uncached_flags() const noexcept { return cores_[CurrentCore()].uncached_flags; }

  // Gives what the caches hold back to the arenas, except that of a cache which
  // another thread keeps busy.
  void Flush() noexcept;

  // Around fork(2), in both processes afterwards: no other thread is in the middle of one.
  void BeforeFork() noexcept;
  void AfterFork() noexcept;

 private:
  struct alignas(kCacheLine) Core {
    // Held during one jemalloc call, which may give pages back and then wait for
    // the space: taken by try_lock only, but for a fork.
    SpinLock lock{LockRank::kHeapCache};
    int flags = 0;  // 0: not open yet.
    int uncached_flags = 0;
    unsigned cache = kNoCache;
  };
  static constexpr unsigned kNoCache = ~0u;
  static constexpr int kFlushAttempts = 1000;

  static void OpenLocked(Core& core) noexcept;

  const uint32_t count_;
  const std::unique_ptr<Core[]> cores_;
};

}  // namespace spiritos
