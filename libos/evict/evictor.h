// SPDX-License-Identifier: Apache-2.0
// Evictor: one thread that keeps free frames between the low and high watermark.
//
// It sweeps the zones of its list in a pipeline: while one zone waits for its
// writes the next is frozen and hashed. It sleeps while frames suffice, and never
// with a zone half swept. Between sweeps it moves off the CPUs that faulting
// threads are seen on, and tells its group when it does not get CPU time: then
// faulting threads do better by sweeping themselves.
#pragma once

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <thread>

#include "libos/base/options.h"
#include "libos/evict/placement.h"
#include "libos/evict/sweep.h"

namespace spiritos {

class EvictorGroup;

class Evictor {
 public:
  static constexpr uint32_t kMaxPipeline = 4;

  // Borrows the group, which outlives its evictors. `sweeps` point to near memory.
  Evictor(EvictorGroup& group, uint32_t list, std::array<Sweep*, kMaxPipeline> sweeps);
  ~Evictor();

  void Start();
  // The same in a child of fork(2), where its thread is not. REQUIRES: it was asleep.
  void Restart();
  // Returns when the thread has finished its sweeps and ended.
  void Stop();
  // Wakes the thread if it sleeps; a load when it does not. Context: signal.
  void Wake() noexcept;
  // It has no zone in hand, and takes none before it is woken.
  bool asleep() const noexcept { return rest_.load(std::memory_order_seq_cst) == kAsleep; }

 private:
  void Run();
  // Until woken; at once where frames are short, unless it `gave_up`.
  void SleepUntilNeeded(bool gave_up);
  // Sweeps until frames suffice, then drains the pipeline. False when no page could
  // leave: trying again is for those who wait for frames, and wake it.
  bool Work();
  // Every zone was tried, and no page could leave: pinned, or the pool takes none.
  bool Hopeless() const noexcept;
  bool BeginOne(uint32_t slot);
  void FinishOne(uint32_t slot);
  // Every few milliseconds of work: where to run, how many evictors, whether at all.
  void Review(uint64_t now);

  EvictorGroup& group_;
  const uint32_t list_;
  const std::array<Sweep*, kMaxPipeline> sweeps_;
  // One for each zone in hand, from taking it off its list to returning it.
  std::array<std::optional<Epoch::Guard>, kMaxPipeline> guards_;
  CorePlacement placement_;
  uint32_t fruitless_ = 0;  // Zones in a row that had no victim.
  uint32_t barren_ = 0;     // Sweeps in a row whose victims all stayed.
  uint64_t reviewed_at_ = 0;
  uint64_t busy_from_ = 0;  // Since when it is at work, or the last review.
  uint64_t busy_ns_ = 0;    // At work before that and after the last review.
  std::thread thread_;
  std::atomic<bool> stopping_{false};
  // A futex word. Drowsy: it will sleep unless it finds work, or is woken before.
  static constexpr uint32_t kAwake = 0;
  static constexpr uint32_t kDrowsy = 1;
  static constexpr uint32_t kAsleep = 2;
  std::atomic<uint32_t> rest_{kAwake};
};

}  // namespace spiritos
