// SPDX-License-Identifier: Apache-2.0
// LiveStats: the figures of a space, each second, for other processes to see.
//
//   {"version": 1, "pid": N, "at_ns": N, "uptime_s": N,
//    "recent": {"seconds", "faults_per_s", "fetched_bytes_per_s", "written_bytes_per_s",
//               "fault_ns_p50", "fault_ns_p99", "stalled"},
//    "stats": as Stats::ToJson() says}
//
// `recent` is the second before: `stalled` is how many threads waited for a free frame, on
// average. `pid` is as the process knows itself; `at_ns` is CLOCK_MONOTONIC.
//
// Costs a thread that works for some microseconds a second. Threads: its owner's alone.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "absl/status/statusor.h"
#include "libos/stats.h"
#include "libos/stats_page.h"

namespace spiritos {

// What happened between two snapshots.
struct Rates {
  double seconds = 0;
  double faults_per_s = 0;
  double fetched_bytes_per_s = 0;
  double written_bytes_per_s = 0;
  uint64_t fault_ns_p50 = 0;
  uint64_t fault_ns_p99 = 0;
  double stalled = 0;

  static Rates Between(const Stats& before, const Stats& now, double seconds);
};

class LiveStats {
 public:
  static absl::StatusOr<std::unique_ptr<LiveStats>> Start(std::function<Stats()> get);
  ~LiveStats();

  // In a child of fork(2), where the page is the parent's and no thread is left.
  absl::Status Restart();

 private:
  LiveStats(std::function<Stats()> get, StatsPage page);
  void Run();
  std::string Describe(const Stats& now, const Rates& recent, uint64_t now_ns) const;

  const std::function<Stats()> get_;
  StatsPage page_;
  uint64_t started_ns_;
  std::atomic<uint32_t> stopping_{0};
  std::thread thread_;
};

}  // namespace spiritos
