// SPDX-License-Identifier: Apache-2.0
// What the runs say together: a table, JSON, a plot.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "examples/package_graph/worker.h"

namespace package_graph {

struct FarRun {
  double local_fraction = 1;
  uint64_t budget_bytes = 0;
  Report report;
};

struct Results {
  unsigned threads = 1;
  Report reference;  // All-local: the times and results that others are held to.
  std::vector<FarRun> runs;
};

// What a run would take if its only cost were the fetches: the all-local time and,
// for every fault that fetched, the median time of a fault in this run (of the
// phases after the build). Fetches of the build are one after another, those of
// the later phases are shared by the threads.
double IdealSeconds(const Results& results, const FarRun& run);

std::string Table(const Results& results);
std::string Json(const Results& results);

// Writes `png` and beside it the data (.dat) and gnuplot's program (.gp). Returns
// a sentence that says where they are, or why there is no plot.
std::string Plot(const Results& results, const std::filesystem::path& png);

}  // namespace package_graph
