// SPDX-License-Identifier: Apache-2.0
// Workload: programs that run over a block of memory somebody else provides.
//
//   MakeWorkload  ->  Fill  ->  WarmUp  ->  Run  ->  Verify
//   near books        writes     residency   what     every program checks
//                     in order   settles     counts   its own contents
//
// The block may be far memory, swapped memory or plain memory: a program only
// loads and stores, and makes no system call on it. Histograms, sort stacks and
// logs of what was written live in near memory, allocated and touched by
// MakeWorkload(), so that a caller can weigh them before the block exists.
//
// Random programs stop at a time or an operation limit, the others do fixed
// work. Threads: one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/latency.h"
#include "libos/base/units.h"

namespace spiritos::bench {

enum class Program {
  kRandomRead,      // 8 bytes anywhere; each value is checked.
  kRandomWrite,     // 8 bytes anywhere; the last write to each page is checked.
  kZipfGet,         // 256-byte values, Zipf-distributed keys scattered over the block.
  kSequentialRead,  // Whole passes, front to back; the sum of each is checked.
  kTriad,           // a[i] = b[i] + s * c[i] over three arrays of doubles.
  kQuicksort,       // 64-bit keys; order and multiset are checked.
  kPageRank,        // Pull iterations on a Kronecker graph; the ranks sum to 1.
  kStride,          // One word every `stride`, around and around.
  kPointerChase,    // Each page names the next: no two faults overlap.
};
inline constexpr int kProgramCount = 9;
// The first ones, compared with rivals; the rest are for micro benchmarks.
inline constexpr int kRivalProgramCount = 7;

std::string_view ProgramName(Program program);
std::optional<Program> ProgramFromName(std::string_view name);
// What one operation is: "read", "page", "edge".
std::string_view OperationName(Program program);
// Fixed work on fixed data: equal checksums wherever it runs.
bool HasFixedWork(Program program);

struct WorkloadConfig {
  Bytes size;  // Of the block.
  uint64_t seed = 1;
  uint64_t budget_ms = 2000;  // Length of a run that has no fixed work.
  uint64_t max_operations = UINT64_MAX;
  uint32_t passes = 0;  // Of sequential read, triad, PageRank; 0 = by size.
  double zipf_exponent = 0.99;
  Bytes stride = Bytes(17 * kPageSize);
  // A graph made by WriteGraph() for this size, or -1: made in the block.
  int graph_fd = -1;
};

struct WorkloadResult {
  uint64_t operations = 0;
  uint64_t wall_ns = 0;
  uint64_t checksum = 0;
  LatencyRecorder latency;
};

class Workload {
 public:
  virtual ~Workload() = default;
  // Writes the initial contents front to back. `block` must stay valid until
  // the workload is gone.
  virtual absl::Status Fill(std::byte* block) = 0;
  virtual void WarmUp() {}
  // The measured part.
  virtual void Run(WorkloadResult& result) = 0;
  // kDataLoss says what was wrong in the block.
  virtual absl::Status Verify() = 0;
};

std::unique_ptr<Workload> MakeWorkload(Program program, const WorkloadConfig& config);

// All phases in a row.
absl::StatusOr<WorkloadResult> RunWorkload(Program program, std::byte* block,
                                           const WorkloadConfig& config);

// Defined beside their programs; MakeWorkload() calls them.
std::unique_ptr<Workload> MakeAccessWorkload(Program program, const WorkloadConfig& config);
std::unique_ptr<Workload> MakeStreamWorkload(Program program, const WorkloadConfig& config);
std::unique_ptr<Workload> MakeQuicksort(const WorkloadConfig& config);
std::unique_ptr<Workload> MakePageRank(const WorkloadConfig& config);

}  // namespace spiritos::bench
