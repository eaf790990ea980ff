// SPDX-License-Identifier: Apache-2.0
// The options of `spiritos memd`, on its command line and in its file.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "libos/remote/server/server.h"
#include "runtime/cli/host_port.h"

namespace CLI {
class App;
}

namespace spiritos::cli {

struct MemdFlags {
  std::string config;
  HostPort tcp;
  HostPort rdma;
  HostPort metrics;
  Bytes tenant_bandwidth;  // A second.
  ServerOptions server;    // But for what the others say.
};

// Gives `memd` its options; what they are given goes to `flags`, which must outlive it.
void AddMemdOptions(CLI::App& memd, MemdFlags* flags);

// The server's, or why these do not go together.
absl::StatusOr<ServerOptions> OptionsOf(const MemdFlags& flags);

// Every slab is a file and every connection a socket: as many as the hard limit allows, or
// what is wrong with it.
absl::Status RaiseDescriptorLimit(const ServerOptions& options);

}  // namespace spiritos::cli
