// SPDX-License-Identifier: Apache-2.0
// `spiritos memd`: the memory server as a daemon.
#pragma once

namespace CLI {
class App;
}

namespace spiritos::cli {

// Adds the subcommand; running it sets `*status`, the program's exit status.
void AddMemd(CLI::App& app, int* status);

}  // namespace spiritos::cli
