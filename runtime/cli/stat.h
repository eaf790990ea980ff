// SPDX-License-Identifier: Apache-2.0
// `spiritos stat`: what a process with far memory, or a memory server, does.
#pragma once

namespace CLI {
class App;
}

namespace spiritos::cli {

// Adds the subcommand; running it sets `*status`, the program's exit status.
void AddStat(CLI::App& app, int* status);

}  // namespace spiritos::cli
