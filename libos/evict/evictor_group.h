// SPDX-License-Identifier: Apache-2.0
// EvictorGroup: who evicts: how many threads, and when a fault sweeps for itself.
//
// Normally evictor threads keep the pool above its low watermark and faults take
// frames without ever waiting. Two things break that, and both are measured:
//   - evictors are slower than faults: faults stall though evictors run. The
//     group starts another evictor (up to max_evictors) when CPUs are idle, and
//     stops it when it has had no work for a while.
//   - evictors have no CPU of their own: as many threads fault as there are CPUs.
//     An evictor that got less than 3/4 of its time while faults stalled, or that
//     takes more than an eighth of the time from threads that all fault, makes the
//     group passive for a while: evictors are left asleep and the fault that finds
//     few frames sweeps a part of a zone, so that each thread pays for its own.
//     Passive spells are retried, longer each time while nothing changed.
// A fault without a frame chooses between waiting its turn and sweeping by what
// the last ones cost, and tries the dearer one now and then.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "libos/base/histogram.h"
#include "libos/base/options.h"
#include "libos/base/pinned_arena.h"
#include "libos/evict/evictor.h"
#include "libos/evict/sweep.h"
#include "libos/evict/sweep_pool.h"
#include "libos/mem/free_frame_cache.h"

namespace spiritos {

// What evictors do for others while frames suffice. Context: nofault.
class SpareWork {
 public:
  virtual bool pending() const noexcept = 0;
  // Some microseconds of it.
  virtual void DoOne() noexcept = 0;

 protected:
  ~SpareWork() = default;
};

class EvictorGroup {
 public:
  EvictorGroup(const EvictContext& context, FreeFrameCache& cache, const EvictOptions& options,
               AtomicHistogram& stalls);
  ~EvictorGroup();

  absl::Status Start(PinnedArena& arena);
  void Stop();

  // A frame for a fault. Waits or sweeps if there is none. Context: signal.
  void TakeFrame() noexcept {
    bool refilled = false;
    if (!cache_.TryTake(&refilled)) [[unlikely]] {
      TakeFrameSlow();
    } else if (refilled) {
      CheckLevel();
    }
  }

  // Up to `n` frames for pages that nobody waits for yet: read-ahead leaves the
  // last ones to faults. Never waits. Context: signal.
  int64_t TakeMore(int64_t n) noexcept {
    const int64_t taken = cache_.TryTakeMore(n, context_.frames.watermarks().min);
    CheckLevel();
    return taken;
  }

  // Before the first fault. `work` outlives the evictors.
  void Lend(SpareWork& work) noexcept { spare_work_ = &work; }
  // Whether spare work would be done: by evictors that have a CPU of their own.
  bool may_lend() const noexcept;
  // There is spare work. Context: signal.
  void Wake() noexcept { evictors_[0]->Wake(); }

  // Sweeps pages [begin, end) of a zone at once, whoever's list it is on.
  // Returns the frames freed. Waits for a sweep in progress. Context: nofault.
  uint32_t SweepNow(Zone& zone, uint32_t begin, uint32_t end) noexcept;

  // Evicts until the pool's debt is paid; false when nothing more can be evicted.
  bool PayDebt() noexcept;

  // Waits until no evictor has a zone in hand; provided that nobody faults, none takes
  // one afterwards.
  void AwaitIdle() noexcept;
  // In a child of fork(2). REQUIRES: they were idle.
  void Restart();

  // Wakes evictors: frames are short.
  void Kick() noexcept;
  // After a sweep that got to page `reached`: back on the list, to its front when
  // the sweep goes on from there; off it when nothing is left in the zone.
  void ReturnZone(Zone& zone, uint32_t reached) noexcept;

  bool passive() const noexcept;
  uint32_t active_evictors() const noexcept { return active_.load(std::memory_order_relaxed); }

 private:
  friend class Evictor;

  void TakeFrameSlow() noexcept;
  // Whenever the pool was asked for frames.
  void CheckLevel() noexcept;
  // Sweeps a part of the oldest zone in the calling thread; frames freed.
  uint32_t SweepInline() noexcept;
  bool ShouldSweepInline() noexcept;
  // Evictors report how much of their working time was CPU time...
  void ReportShare(uint64_t busy_ns, uint64_t cpu_ns) noexcept;
  // ... and, where every CPU sees faults, how much of all time they work.
  void ReportCrowded(uint64_t busy_ns, uint64_t window_ns) noexcept;
  void BeginPassiveSpell() noexcept;
  void ConsiderScaling() noexcept;
  bool WorkWanted() const noexcept;
  // Frames suffice, and there is something else to do.
  bool SpareWorkWanted() const noexcept;
  Pressure PressureAfter(uint32_t fruitless) const noexcept;

  EvictContext context_;
  FreeFrameCache& cache_;
  const EvictOptions options_;
  AtomicHistogram& stalls_;
  SweepPool sweeps_;
  std::array<std::unique_ptr<Evictor>, kZoneListCount> evictors_;
  uint32_t evictor_count_ = 0;
  SpareWork* spare_work_ = nullptr;
  bool has_spare_cpu_ = false;
  std::atomic<uint64_t> lend_again_at_{0};  // NowNs() up to which nothing is lent.

  std::atomic<uint64_t> wakes_{0};          // Of evictors, so far.
  std::atomic<uint32_t> active_{0};         // Evictors that are woken.
  std::atomic<uint64_t> passive_until_{0};  // NowNs() up to which evictors sleep.
  std::atomic<uint64_t> passive_spell_ns_{0};
  std::atomic<uint32_t> inline_fruitless_{0};
  // Moving averages, in nanoseconds, of a stalled fault's two ways out.
  std::atomic<uint64_t> wait_cost_ns_{0};
  std::atomic<uint64_t> sweep_cost_ns_{0};
  std::atomic<uint32_t> choices_{0};
  std::atomic<uint64_t> stalls_since_scaling_{0};
  std::atomic<uint64_t> stalls_since_report_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace spiritos
