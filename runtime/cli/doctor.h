// SPDX-License-Identifier: Apache-2.0
// `spiritos doctor`: what this machine lacks for far memory, and how to give it.
#pragma once

namespace CLI {
class App;
}

namespace spiritos::cli {

// Adds the subcommand; running it sets `*status`: 1 when something needs fixing.
void AddDoctor(CLI::App& app, int* status);

}  // namespace spiritos::cli
