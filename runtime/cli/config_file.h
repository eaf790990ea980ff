// SPDX-License-Identifier: Apache-2.0
// A subcommand's options from a file, in TOML.
//
//   memory = "64G"              # spiritos memd --memory 64G
//   tcp    = "127.0.0.1:7070"   #               --tcp 127.0.0.1:7070
//   no-lock = true              #               --no-lock
//
// A key is an option's long name, and its value passes the option's own checks: what
// the command line knows, the file knows, and says no in the same words.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace CLI {
class App;
}

namespace spiritos::cli {

// Gives `command` the options that `path` holds and the command line does not. An error
// names the file, the line and the key, and what is allowed.
absl::Status ApplyConfigFile(const std::string& path, CLI::App& command);

}  // namespace spiritos::cli
