// SPDX-License-Identifier: Apache-2.0
// MemdReload: the options of a memory server that runs, read again.
//
//   command line --+--> options --> the server
//   --config file -+       |
//        ^                 v
//     changed, and SIGHUP: what may change does; for the rest a line says that it takes
//     another start
//
// Threads: the server's.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "libos/remote/server/server.h"

namespace CLI {
class App;
}

namespace spiritos::cli {

class MemdReload {
 public:
  // `memd` with what its command line said, and nothing of its file yet; borrowed.
  explicit MemdReload(const CLI::App& memd);

  // Reads the file again and gives `server` what may change. Errors are logged, and leave
  // it as it was.
  void Apply(MemoryServer& server);

 private:
  const CLI::App& memd_;
  std::vector<std::pair<std::string, std::vector<std::string>>> command_line_;
};

}  // namespace spiritos::cli
