// SPDX-License-Identifier: Apache-2.0
// RivalChild: the process that is measured, one per run.
//
//   driver --fork, join group, exec--> child: pin -> near memory -> limit ->
//          <------- a text of key=value on a pipe ------- block -> programs
//
// Both systems run the same program over a block of `size` bytes of which
// `local` may be resident. What a system needs beyond that is near memory and
// not counted: for `spiritos` the space's own books, for `swap` the process
// itself. So the limit of the swapping process is
//
//   limit = what the group uses before the block exists (measured, then locked
//           in memory) + page tables of the block + 512 KiB for the batches in
//           which the kernel charges pages + local
//
// and the block alone competes for `local`.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/workload.h"
#include "libos/base/units.h"

namespace spiritos::bench {

enum class System { kSpiritos, kSwap };
// How threads meet CPUs.
enum class Variant {
  kPinned,    // The program on the first usable CPU, evictors on the second.
  kUnpinned,  // Everything where the kernel likes.
  kOneCore,   // The whole process on the first usable CPU.
};
inline constexpr std::array<std::string_view, 2> kSystemNames = {"spiritos", "swap"};
inline constexpr std::array<std::string_view, 3> kVariantNames = {"pinned", "unpinned", "onecore"};

struct RunSpec {
  System system = System::kSpiritos;
  Program program = Program::kRandomRead;
  Variant variant = Variant::kPinned;
  Bytes size;
  Bytes local;
  uint64_t seed = 1;
  uint64_t budget_ms = 2000;
  int graph_fd = -1;
  std::string cgroup;  // Of the swapping process.
  std::string zram;    // "zram1"

  std::string Encode() const;
  static absl::StatusOr<RunSpec> Decode(std::string_view text);
};

struct RunResult {
  // Of the measured part.
  uint64_t operations = 0;
  uint64_t wall_ns = 0;
  uint64_t user_ns = 0;    // CPU of all threads of the process: evictors,
  uint64_t system_ns = 0;  // reclaim and compression included.
  uint64_t p50_ns = 0;
  uint64_t p99_ns = 0;
  uint64_t p999_ns = 0;
  uint64_t max_ns = 0;
  uint64_t latencies = 0;  // Operations timed, and those of them that stalled;
  uint64_t stalls = 0;     // see latency.h.
  uint64_t stall_p50_ns = 0;
  uint64_t stall_p99_ns = 0;
  uint64_t stall_p999_ns = 0;
  uint64_t major_faults = 0;
  uint64_t swapped_in = 0;  // Pages, of the whole machine.
  uint64_t swapped_out = 0;
  uint64_t checksum = 0;
  // Around it.
  uint64_t fill_ns = 0;
  uint64_t total_ns = 0;
  uint64_t resident_bytes = 0;  // Of the block, when the measured part ended.
  uint64_t near_bytes = 0;      // Used by the group before the block existed.
  uint64_t limit_bytes = 0;
  uint64_t original_bytes = 0;  // What zram held at the end, and its size there.
  uint64_t compressed_bytes = 0;
  std::string stats;  // FarBlock::StatsLine()
  std::string error;  // Empty, or why the run does not count.

  double rate() const;  // Operations per second.
  double cpu_ns_per_operation() const;

  std::string Encode() const;
  static RunResult Decode(std::string_view text);

  struct Field {
    std::string_view name;
    uint64_t RunResult::*member;
  };
  static const std::array<Field, 24>& Fields();
};

// Runs `spec` in this process and writes the result to `result_fd`. Returns the
// exit status.
int RunChild(const RunSpec& spec, int result_fd);

}  // namespace spiritos::bench
