// SPDX-License-Identifier: Apache-2.0
// Latency: how long single operations took, from the time-stamp counter.
//
// Two ways to cut a run into operations:
//   random access    TicksBefore(); touch; TicksAfter() around each access
//   streaming        PageClock::Tick() whenever a cursor enters another page:
//                    every nanosecond of the run belongs to some page's step,
//                    stalls of stores and of read-ahead included
//
// A stall is an operation of two microseconds or more: no access to a resident
// page takes that long, a page fault does on either system. Where most
// operations find their pages resident, quantiles over all of them say little
// about far memory; those over stalls do.
//
// Threads: one writer. Lives in near memory.
#pragma once

#include <x86intrin.h>

#include <algorithm>
#include <cstdint>

#include "libos/base/clock.h"
#include "libos/base/histogram.h"

namespace spiritos::bench {

// Fenced, so that an access stays between its two stamps (about 20 ns a pair).
inline uint64_t TicksBefore() {
  _mm_lfence();
  const uint64_t ticks = Tsc();
  _mm_lfence();
  return ticks;
}
inline uint64_t TicksAfter() {
  unsigned cpu;
  const uint64_t ticks = __rdtscp(&cpu);
  _mm_lfence();
  return ticks;
}

class LatencyRecorder {
 public:
  static constexpr double kStallNs = 2000;

  void Add(uint64_t ticks) {
    all_.Add(ticks);
    if (ticks >= stall_ticks_) stalls_.Add(ticks);
    max_ = std::max(max_, ticks);
  }
  uint64_t count() const { return all_.count(); }
  uint64_t stalls() const { return stalls_.count(); }
  double QuantileNs(double q) const { return Nanoseconds(all_.Quantile(q)); }
  double StallQuantileNs(double q) const { return Nanoseconds(stalls_.Quantile(q)); }
  double MaxNs() const { return Nanoseconds(max_); }

 private:
  // The middle of a bucket can lie beyond everything that was added to it.
  double Nanoseconds(uint64_t ticks) const {
    return static_cast<double>(std::min(ticks, max_)) * NsPerTick();
  }

  const uint64_t stall_ticks_ = static_cast<uint64_t>(kStallNs / NsPerTick());
  Histogram all_;
  Histogram stalls_;
  uint64_t max_ = 0;
};

class PageClock {
 public:
  explicit PageClock(LatencyRecorder& latency) : latency_(latency), last_(Tsc()) {}
  void Tick() {
    const uint64_t now = Tsc();
    latency_.Add(now - last_);
    last_ = now;
  }

 private:
  LatencyRecorder& latency_;
  uint64_t last_;
};

}  // namespace spiritos::bench
