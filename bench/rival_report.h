// SPDX-License-Identifier: Apache-2.0
// RivalReport: medians of both systems side by side, with targets and verdicts.
//
// Targets, all at 25 % of the set resident:
//   rate     1.8, 1.6, 1.5, 5, 4, 1.5, 1.5 times zram's, programs in their
//            order; 1.3 times for random read when both run on one core
//   p99      at most a fifth of zram's, evictors pinned or not
//   p999     at most a fifth, with the evictors pinned apart
// Latencies are those of operations, but of stalls (latency.h) for Zipf get and
// quicksort: their operations mostly find pages resident, so that a quantile
// over all of them is a cache miss or an ordinary fault on either system.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "bench/harness.h"
#include "bench/rival_child.h"
#include "bench/rival_launch.h"

namespace spiritos::bench {

// One row of the report: everything but the system is fixed.
struct Configuration {
  Bytes size;
  uint64_t local_percent = 25;
  Program program = Program::kRandomRead;
  Variant variant = Variant::kPinned;
  uint64_t page_cluster = 0;  // What zram's runs used.
  // zram's rates that chose it, by page-cluster 0 and 3; 0 = not measured.
  std::array<double, 2> calibration = {0, 0};
  // By System. Runs that failed are kept, with the reason.
  std::array<std::vector<RunOutcome>, 2> runs;

  Bytes local() const {
    return BytesOf(PageCount(PagesFor(size).raw() * static_cast<int64_t>(local_percent) / 100));
  }
  std::string Name() const;  // "512M, 25 %, triad, pinned"
};

struct Tally {
  int met = 0;
  int missed = 0;
  int failed_runs = 0;
};

// Tables, notes and the tally, for people.
std::string FormatReport(const std::vector<Configuration>& configurations, Tally& tally);

// Machine, settings, medians, verdicts and every single run, for programs.
std::string ReportToJson(const MachineInfo& machine, const std::string& command_line,
                         const std::vector<Configuration>& configurations);

}  // namespace spiritos::bench
