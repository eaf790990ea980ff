// SPDX-License-Identifier: Apache-2.0
// The processes of this machine whose memory is far, and what they say of themselves.
//
//   far     a page of statistics among its descriptors (libos/stats_page.h)
//   local   the shim is loaded, and all its memory is local so far
//
// Only processes that the caller may look into are found: its own, or all, as root. What
// they say is checked for form, not for truth.
#pragma once

#include <sys/types.h>

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libos/base/units.h"

namespace spiritos::cli {

struct ProcessFigures {
  pid_t pid = 0;
  std::string command;  // As ps(1) calls it, with `?` for what does not print.
  bool far = false;
  bool silent = false;  // Stopped, or starved: the figures are seconds old.
  Bytes resident;       // Of the budget; of a local process, all that it has.
  Bytes budget;
  Bytes far_size;  // What may be far: its regions.
  double faults_per_s = 0;
  double fetched_bytes_per_s = 0;
  double written_bytes_per_s = 0;
  double fault_ns_p50 = 0;
  double fault_ns_p99 = 0;
  double stalled = 0;  // Threads that wait for a frame, on average.
};

// By number. A process with several spaces comes several times.
std::vector<ProcessFigures> FindProcesses();

// Each space's page of the process, as it published it. kNotFound: there is no such process
// or nothing in it is far; kPermissionDenied.
absl::StatusOr<std::vector<nlohmann::ordered_json>> ReadPages(pid_t pid);

}  // namespace spiritos::cli
