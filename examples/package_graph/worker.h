// SPDX-License-Identifier: Apache-2.0
// Worker: one run of the job in a process of its own, so that each run starts
// with fresh memory.
//
//   parent --- posix_spawn: --worker '{options}' ---> child
//          <-- a pipe: {"sample": ...} 5 times a second, then {"report": ...} --
//
// The types below are what travels, as JSON, one object to a line.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "examples/package_graph/job.h"
#include "examples/package_graph/job_memory.h"

namespace package_graph {

struct WorkerOptions {
  JobOptions job;  // copies = 0: as many as `size_bytes` asks for.
  uint64_t size_bytes = 0;
  bool far = false;
  uint64_t budget_bytes = 0;  // Far only.
  uint64_t heap_bytes = 0;    // Far only.
  std::string pool;           // Far only.
};

struct Sample {
  double seconds = 0;  // Since the run began.
  std::string phase;
  uint64_t done = 0;
  uint64_t total = 0;  // 0: not known.
  MemorySample memory;
};

struct Report {
  JobResult job;
  unsigned copies = 0;
  uint64_t working_set_bytes = 0;  // The peak of what CountingResource counted.
  uint64_t peak_resident_bytes = 0;
  double cpu_s = 0;     // Of all threads, evictors included.
  MemorySample built;   // At the end of the build.
  MemorySample totals;  // At the end; latencies of what came after the build.
  std::string memory;   // JobMemory::Describe().
};

// In the child: runs the job and writes to standard output. Returns the exit code.
int RunWorker(const std::string& options_json);

// In the parent: starts a child, calls `see` for each sample, returns its report.
absl::StatusOr<Report> RunChild(const WorkerOptions& options,
                                const std::function<void(const Sample&)>& see);

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(MemorySample, resident_bytes, faults, fetches, fetched_bytes,
                                   written_bytes, p50_ns, p99_ns)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(JobOptions, lists, copies, threads, iterations, queries, gets,
                                   seed)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TopPackage, name, rank)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(JobResult, packages, edges, words, postings, build_s, pagerank_s,
                                   queries_s, kv_s, rank_hash, query_hits, query_hash, kv_gets,
                                   kv_updates, kv_hash, bad_records, top)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(WorkerOptions, job, size_bytes, far, budget_bytes, heap_bytes,
                                   pool)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Sample, seconds, phase, done, total, memory)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Report, job, copies, working_set_bytes, peak_resident_bytes,
                                   cpu_s, built, totals, memory)

}  // namespace package_graph
