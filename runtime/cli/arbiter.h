// SPDX-License-Identifier: Apache-2.0
// `spiritos arbiter`: what the arbiter would decide.
#pragma once

namespace CLI {
class App;
}

namespace spiritos::cli {

// Adds the subcommand; running it sets `*status`, the program's exit status.
void AddArbiter(CLI::App& app, int* status);

}  // namespace spiritos::cli
