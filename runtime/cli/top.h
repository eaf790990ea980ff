// SPDX-License-Identifier: Apache-2.0
// `spiritos top`: the processes of this machine whose memory is far, live.
//
// On a terminal a screen that is drawn anew each interval; else, or with --plain, a table
// each time; with --json an object a line:
//
//   {"at_s": UNIX TIME, "processes": [{"pid", "command", "state": "far" | "local" | "silent",
//     "resident_bytes", "budget_bytes", "far_bytes", "faults_per_s", "fetched_bytes_per_s",
//     "written_bytes_per_s", "fault_ns_p50", "fault_ns_p99", "stalled"}, ...]}
#pragma once

namespace CLI {
class App;
}

namespace spiritos::cli {

// `status` is the exit status of the program.
void AddTop(CLI::App& app, int* status);

}  // namespace spiritos::cli
