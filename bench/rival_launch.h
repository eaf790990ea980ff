// SPDX-License-Identifier: Apache-2.0
// RivalLaunch: surrounds one measured process with what its system needs.
//
//   spiritos:  fork, exec, read the result
//   swap:      zram device, memory group, fork, join, exec, read the result,
//              group and device removed; after an out-of-memory kill once more
//              with twice the swap
//
// Interrupts (SIGINT, SIGTERM, SIGHUP) end the run in progress and come back as
// kCancelled, so that destructors put the machine back in order.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/memory_cgroup.h"
#include "bench/rival_child.h"

namespace spiritos::bench {

struct LaunchOptions {
  double swap_factor = 2;  // Size of the zram disk over the size of the set.
  std::string algorithm = "lz4";
  uint64_t timeout_s = 900;  // For one run.
};

struct RunOutcome {
  RunResult result;
  int oom_repeats = 0;  // Runs that were killed before this one.
  Bytes swap_size;
};

class RivalLauncher {
 public:
  // Installs the signal handlers, for the rest of the process.
  explicit RivalLauncher(const LaunchOptions& options);

  // Whether the swap side can run here; kUnavailable says what is missing.
  static absl::Status Probe();
  static bool interrupted();

  absl::StatusOr<RunOutcome> Run(RunSpec spec);

 private:
  absl::StatusOr<RunOutcome> RunSwap(RunSpec spec);
  // `group`, unless null, is joined; `killed` tells of a death by SIGKILL.
  absl::StatusOr<RunResult> RunProcess(const RunSpec& spec, const MemoryCgroup* group,
                                       bool& killed);

  const LaunchOptions options_;
  int groups_ = 0;  // Numbers the names of groups.
};

// What RivalLauncher put on the command line of a measured process.
inline constexpr const char* kChildFlag = "--child";

}  // namespace spiritos::bench
