// SPDX-License-Identifier: Apache-2.0
// The job: build, rank, search, serve. It knows nothing of far memory: all it is
// given is a memory resource for its data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory_resource>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "examples/package_graph/progress.h"

namespace package_graph {

struct JobOptions {
  std::vector<std::filesystem::path> lists;
  unsigned copies = 1;
  unsigned threads = 1;
  unsigned iterations = 50;
  uint64_t queries = 5'000;
  uint64_t gets = 1'500'000;  // Updates included.
  uint64_t seed = 1;
};

struct TopPackage {
  std::string name;
  double rank = 0;  // Times the number of packages: 1 is the mean.
};

struct JobResult {
  uint64_t packages = 0;
  uint64_t edges = 0;
  uint64_t words = 0;
  uint64_t postings = 0;
  double build_s = 0;
  double pagerank_s = 0;
  double queries_s = 0;
  double kv_s = 0;
  uint64_t rank_hash = 0;  // Of the vector's bits.
  uint64_t query_hits = 0;
  uint64_t query_hash = 0;
  uint64_t kv_gets = 0;
  uint64_t kv_updates = 0;
  uint64_t kv_hash = 0;
  uint64_t bad_records = 0;
  std::vector<TopPackage> top;  // Of copy 0; the others repeat it.

  double total_s() const { return build_s + pagerank_s + queries_s + kv_s; }
};

// Called by the job's thread: after the build, and after the last phase, while
// the data is still there.
struct JobHooks {
  std::function<void()> built;
  std::function<void()> finished;
};

absl::StatusOr<JobResult> RunJob(const JobOptions& options, std::pmr::memory_resource* memory,
                                 Progress& progress, const JobHooks& hooks);

// What differs between two runs that should agree, "" when nothing does.
std::string Differences(const JobResult& expected, const JobResult& found);

}  // namespace package_graph
