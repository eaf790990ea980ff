// SPDX-License-Identifier: Apache-2.0
// `spiritos key`: a secret for a tenant and its memory servers.
#pragma once

namespace CLI {
class App;
}

namespace spiritos::cli {

// Adds the subcommand; running it sets `*status`, the program's exit status.
void AddKey(CLI::App& app, int* status);

}  // namespace spiritos::cli
