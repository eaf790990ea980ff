// SPDX-License-Identifier: Apache-2.0
// Locks: a spin lock that signal handlers may take, and every lock's rank.
//
// Locks are taken in rising rank; debug builds keep the ranks a thread holds and
// stop at a violation. A spin lock is held for tens of instructions and never
// while far memory is touched. A mutex is for setup and range calls only: the
// fault path takes none.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "libos/base/check.h"
#include "libos/base/core.h"

namespace spiritos {

enum class LockRank : uint32_t {
  kHeapCache,      // One core's cache of a far heap; held through calls into the space.
  kHeapAddresses,  // Which addresses of a far heap are in use.
  kHeapChunks,     // More of a far heap's addresses get memory.
  kFarMap,         // Far memory of an unmodified program is mapped and unmapped.
  kSpace,          // One range call or budget change at a time.
  kRegionTable,    // Regions come and go.
  kSlabMap,        // Slabs are placed.
  kSlabStore,      // A memory server's ready slabs.
  kTenantFigures,  // What a memory server tells about its tenants.
  kTunnel,         // Connections of a TLS tunnel come and go.
  kEvictorGroup,   // Evictors start and stop.
  kZonePool,       // Spare zones.
  kArena,          // Pinned arena: chunk list.
  kFramePool,      // Central free frames and their waiters.
  kZoneList,       // One evictor's list of zones.
  kSweepPool,      // Idle sweep objects.
  kStaging,        // Free staging buffers.
  kAheadStreams,   // What may be filled ahead.
  kBackup,         // What is on its way to a backup.
  kMessages,       // A server pool's free and deferred messages.
  kLane,           // One remote lane's queue.
  kCount,
};

namespace internal {
#ifdef NDEBUG
inline void NoteAcquired(LockRank) {}
inline void NoteReleased(LockRank) {}
#else
// Bit r is set while this thread holds a lock of rank r.
extern thread_local constinit uint32_t held_ranks;
inline void NoteAcquired(LockRank rank) {
  const uint32_t bit = 1u << static_cast<uint32_t>(rank);
  SPIRITOS_CHECK(held_ranks < bit, "rank {} taken while holding ranks {:#x}",
                 static_cast<uint32_t>(rank), held_ranks);
  held_ranks |= bit;
}
inline void NoteReleased(LockRank rank) { held_ranks &= ~(1u << static_cast<uint32_t>(rank)); }
#endif
}  // namespace internal

// Test-and-test-and-set. After a while it yields: the holder may be preempted on
// this very CPU. Context: signal.
class ABSL_LOCKABLE SpinLock {
 public:
  constexpr explicit SpinLock(LockRank rank) : rank_(rank) {}
  SpinLock(const SpinLock&) = delete;
  SpinLock& operator=(const SpinLock&) = delete;

  void lock() noexcept ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    Acquire();
    internal::NoteAcquired(rank_);
  }
  bool try_lock() noexcept ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) {
    if (locked_.load(std::memory_order_relaxed)) return false;
    if (locked_.exchange(true, std::memory_order_acquire)) return false;
    internal::NoteAcquired(rank_);
    return true;
  }
  void unlock() noexcept ABSL_UNLOCK_FUNCTION() {
    internal::NoteReleased(rank_);
    locked_.store(false, std::memory_order_release);
  }

  // Around fork(2), for who holds all locks of a rank.
  void BeforeFork() noexcept ABSL_NO_THREAD_SAFETY_ANALYSIS { Acquire(); }
  void AfterFork() noexcept ABSL_NO_THREAD_SAFETY_ANALYSIS {
    locked_.store(false, std::memory_order_release);
  }

 private:
  static constexpr uint32_t kSpinsBeforeYield = 256;

  void Acquire() noexcept {
    for (uint32_t spins = 0; locked_.exchange(true, std::memory_order_acquire);) {
      while (locked_.load(std::memory_order_relaxed)) {
        if (++spins % kSpinsBeforeYield == 0) {
          sched_yield();
        } else {
          CpuRelax();
        }
      }
    }
  }

  std::atomic<bool> locked_{false};
  const LockRank rank_;
};

// A std::mutex with a rank. Context: any.
class ABSL_LOCKABLE RankedMutex {
 public:
  explicit RankedMutex(LockRank rank) : rank_(rank) {}
  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    mutex_.lock();
    internal::NoteAcquired(rank_);
  }
  void unlock() ABSL_UNLOCK_FUNCTION() {
    internal::NoteReleased(rank_);
    mutex_.unlock();
  }

 private:
  std::mutex mutex_;
  const LockRank rank_;
};

template <typename Lock>
class ABSL_SCOPED_LOCKABLE LockGuard {
 public:
  explicit LockGuard(Lock& lock) ABSL_EXCLUSIVE_LOCK_FUNCTION(lock) : lock_(lock) { lock_.lock(); }
  ~LockGuard() ABSL_UNLOCK_FUNCTION() { lock_.unlock(); }
  LockGuard(const LockGuard&) = delete;
  LockGuard& operator=(const LockGuard&) = delete;

 private:
  Lock& lock_;
};

}  // namespace spiritos
