// SPDX-License-Identifier: Apache-2.0
// The evictor's loop.
#include "libos/evict/evictor.h"

#include <signal.h>

#include <algorithm>
#include <memory>

#include "libos/base/clock.h"
#include "libos/base/parker.h"
#include "libos/evict/evictor_group.h"

namespace spiritos {
namespace {

// How often placement and the number of evictors are thought over.
constexpr uint64_t kReviewNs = 5'000'000;
// Victims of one sweep: as many as a zone holds at random residence. A dense zone
// goes in parts: a whole one, all written, would let faults wait 2 ms for its
// first frame.
constexpr uint32_t kSweepVictims = 256;
constexpr uint64_t kStaleReviews = 8;
// Shares of CPU are judged over at least this much work.
constexpr uint64_t kShareWindowNs = 2'000'000;

}  // namespace

Evictor::Evictor(EvictorGroup& group, uint32_t list, std::array<Sweep*, kMaxPipeline> sweeps)
    : group_(group),
      list_(list),
      sweeps_(sweeps),
      placement_(group.context_.metrics, group.options_.cpus) {}

Evictor::~Evictor() { Stop(); }

void Evictor::Start() {
  // Signals of the application are not for this thread.
  sigset_t all;
  sigset_t old;
  sigfillset(&all);
  sigdelset(&all, SIGBUS);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  thread_ = std::thread([this] { Run(); });
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

void Evictor::Restart() {
  std::construct_at(&thread_);  // Nobody to join.
  rest_.store(kAwake, std::memory_order_relaxed);
  placement_.Forget();
  Start();
}

void Evictor::Stop() {
  if (!thread_.joinable()) return;
  stopping_.store(true, std::memory_order_seq_cst);
  rest_.store(kAwake, std::memory_order_seq_cst);
  FutexWake(rest_, 1);
  thread_.join();
}

void Evictor::Wake() noexcept {
  if (rest_.load(std::memory_order_seq_cst) == kAwake) return;
  group_.wakes_.fetch_add(1, std::memory_order_seq_cst);  // Before it is awake: AwaitIdle().
  if (rest_.exchange(kAwake, std::memory_order_seq_cst) == kAwake) return;
  group_.context_.metrics.Add(Metric::kEvictorWakes);
  FutexWake(rest_, 1);
}

void Evictor::Run() {
  pthread_setname_np(pthread_self(), "spiritos-evict");
  bool gave_up = false;
  while (!stopping_.load(std::memory_order_seq_cst)) {
    const bool wanted = group_.WorkWanted() || group_.SpareWorkWanted();
    if (!gave_up && wanted && !group_.passive() && list_ < group_.active_evictors()) {
      gave_up = !Work();
    } else {
      SleepUntilNeeded(gave_up);
      gave_up = false;
    }
  }
}

void Evictor::SleepUntilNeeded(bool gave_up) {
  rest_.store(kDrowsy, std::memory_order_seq_cst);
  // Whoever lowers the level looks at `rest_` afterwards; here it is the
  // other way around.
  const FreeFramePool& frames = group_.context_.frames;
  const bool short_of_frames = frames.level() < frames.watermarks().low || frames.waiters() != 0;
  const bool wanted = short_of_frames || group_.SpareWorkWanted();
  const bool needed = !gave_up && wanted && !group_.passive() && list_ < group_.active_evictors();
  if (needed || stopping_.load(std::memory_order_seq_cst)) {
    rest_.store(kAwake, std::memory_order_seq_cst);
    return;
  }
  uint32_t drowsy = kDrowsy;
  if (!rest_.compare_exchange_strong(drowsy, kAsleep, std::memory_order_seq_cst)) return;
  group_.context_.parker.Unpark(this);  // AwaitIdle().
  while (rest_.load(std::memory_order_seq_cst) == kAsleep) FutexWait(rest_, kAsleep);
}

bool Evictor::BeginOne(uint32_t slot) {
  guards_[slot].emplace(group_.context_.epoch);
  Zone* const zone = group_.context_.zones.Pop(list_, std::max(1u, group_.active_evictors()));
  if (zone == nullptr) {
    guards_[slot].reset();
    return false;
  }
  if (sweeps_[slot]->Begin(group_.context_, *zone, zone->cursor, kZonePages,
                           group_.PressureAfter(fruitless_), kSweepVictims)) {
    fruitless_ = 0;
    sweeps_[slot]->Write(group_.context_);
    group_.context_.metrics.Add(Metric::kSweeps);
    return true;
  }
  ++fruitless_;
  group_.ReturnZone(*zone, kZonePages);
  guards_[slot].reset();
  return false;
}

void Evictor::FinishOne(uint32_t slot) {
  Zone* const zone = sweeps_[slot]->zone();
  const uint32_t reached = sweeps_[slot]->reached();
  const uint32_t freed = sweeps_[slot]->Finish(group_.context_);
  barren_ = freed != 0 ? 0 : barren_ + 1;
  group_.ReturnZone(*zone, reached);
  guards_[slot].reset();
}

bool Evictor::Hopeless() const noexcept {
  const uint64_t zones = group_.context_.zones.size() + 1;
  return fruitless_ > 4 * zones || barren_ > zones;
}

void Evictor::Review(uint64_t now) {
  const uint64_t window = now - reviewed_at_;
  const uint64_t busy = busy_ns_ + (now - busy_from_);
  reviewed_at_ = busy_from_ = now;
  busy_ns_ = 0;
  placement_.Update();
  if (window > kStaleReviews * kReviewNs) return;  // It says little about now.
  if (list_ == 0) group_.ConsiderScaling();
  if (placement_.crowded()) group_.ReportCrowded(busy, window);
}

bool Evictor::Work() {
  const uint32_t depth = group_.options_.pipeline;
  uint32_t head = 0;  // The oldest sweep in flight.
  uint32_t in_flight = 0;
  uint64_t window_begin = NowNs();
  busy_from_ = window_begin;
  uint64_t cpu_begin = ThreadCpuNs();
  uint64_t waited_ns = 0;
  uint64_t expected = 0;  // Frames that sweeps in flight will free.
  const FreeFramePool& frames = group_.context_.frames;

  while (!stopping_.load(std::memory_order_relaxed)) {
    const uint64_t now = NowNs();
    if (now - reviewed_at_ > kReviewNs) {
      Review(now);
      if (group_.passive()) break;
    }
    if (now - window_begin > kShareWindowNs) {
      const uint64_t cpu = ThreadCpuNs();
      group_.ReportShare(now - window_begin - waited_ns, cpu - cpu_begin);
      window_begin = now;
      cpu_begin = cpu;
      waited_ns = 0;
      if (group_.passive()) break;
    }
    // A little at a time: zones in hand are closed or frozen.
    const bool spare = group_.SpareWorkWanted();
    if (spare) group_.spare_work_->DoOne();
    const bool wanted =
        frames.level() + static_cast<int64_t>(expected) < frames.watermarks().high ||
        frames.waiters() > expected;
    bool began = false;
    if (wanted && in_flight < depth) {
      const uint32_t slot = (head + in_flight) % depth;
      began = BeginOne(slot);
      if (began) {
        expected += sweeps_[slot]->victims();
        ++in_flight;
      }
    }
    if (in_flight != 0 && (in_flight == depth || !began || !wanted)) {
      Sweep& oldest = *sweeps_[head];
      if (!oldest.WritesDone(group_.context_)) {
        const uint64_t wait_begin = NowNs();
        oldest.WaitForWrites(group_.context_);
        waited_ns += NowNs() - wait_begin;
      }
      expected -= oldest.victims();
      FinishOne(head);
      head = (head + 1) % depth;
      --in_flight;
      if (barren_ != 0 && Hopeless()) break;
      continue;
    }
    if (in_flight == 0 && !began) {
      if (spare) continue;
      if (!wanted) break;
      // Nothing could be claimed now. Ending the turn lets a fault decide.
      if (fruitless_ == 0 || Hopeless()) break;
    }
  }
  // Nothing stays half-evicted.
  for (; in_flight != 0; --in_flight, head = (head + 1) % depth) {
    sweeps_[head]->WaitForWrites(group_.context_);
    FinishOne(head);
  }
  const uint64_t end = NowNs();
  busy_ns_ += end - busy_from_;
  if (end - window_begin > kShareWindowNs / 8) {
    group_.context_.metrics.Add(Metric::kEvictorBusyNs, end - window_begin - waited_ns);
    group_.context_.metrics.Add(Metric::kEvictorCpuNs, ThreadCpuNs() - cpu_begin);
  }
  return !Hopeless();
}

}  // namespace spiritos
