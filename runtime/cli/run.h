// SPDX-License-Identifier: Apache-2.0
// `spiritos run`: a program that knows nothing of this, with little local memory.
#pragma once

namespace CLI {
class App;
}

namespace spiritos::cli {

// Adds the subcommand. Running it ends in the program, or sets `*status`: 125 when it
// cannot begin, 126 when the command cannot be run, 127 when there is none.
void AddRun(CLI::App& app, int* status);

// Before the parser sees them: where the command of `spiritos run` begins.
void MarkCommand(int argc, char** argv);

}  // namespace spiritos::cli
