// SPDX-License-Identifier: Apache-2.0
// Options, signals and the life of a memory server.
#include "runtime/cli/memd.h"

#include <fmt/core.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <string>
#include <string_view>

#include "libos/base/status.h"
#include "libos/options_env.h"
#include "libos/remote/server/server.h"

namespace spiritos::cli {
namespace {

MemoryServer* running = nullptr;  // For the signal handler.

void OnStopSignal(int) { running->Stop(); }

struct MemdFlags {
  std::string memory = "1G";
  std::string unix_path;
  std::string tcp;
  std::string host;
  double lease_s = 60;
  uint64_t quota_slabs = 0;
  bool no_lock = false;
};

// "host:port", "[v6]:port" or "port".
absl::Status ParseListen(const std::string& text, ServerOptions* options) {
  const size_t colon = text.rfind(':');
  const std::string port = colon == text.npos ? text : text.substr(colon + 1);
  int number = -1;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc() || end != port.data() + port.size() || number < 0 || number > 65535) {
    return InvalidArgument("\"{}\" is no port, in --tcp {}", port, text);
  }
  options->tcp_port = number;
  if (colon == text.npos) return absl::OkStatus();
  options->tcp_host = text.substr(0, colon);
  if (options->tcp_host.starts_with('[') && options->tcp_host.ends_with(']')) {
    options->tcp_host = options->tcp_host.substr(1, options->tcp_host.size() - 2);
  }
  return absl::OkStatus();
}

bool IsLoopback(std::string_view host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

absl::StatusOr<ServerOptions> OptionsOf(const MemdFlags& flags) {
  ServerOptions options;
  SPIRITOS_ASSIGN_OR_RETURN(options.memory, ParseBytes(flags.memory));
  options.unix_path = flags.unix_path;
  if (!flags.tcp.empty()) SPIRITOS_RETURN_IF_ERROR(ParseListen(flags.tcp, &options));
  if (options.tcp_port >= 0 && !IsLoopback(options.tcp_host)) {
    return InvalidArgument(
        "{} is not this machine alone, and nobody who connects would have to prove who they are: "
        "listen on 127.0.0.1 (--tcp)",
        options.tcp_host);
  }
  options.lease_ms = static_cast<uint64_t>(flags.lease_s * 1000);
  options.slab_quota = flags.quota_slabs;
  options.host = flags.host;
  options.lock_memory = !flags.no_lock;
  return options;
}

absl::Status Serve(const MemdFlags& flags) {
  SPIRITOS_ASSIGN_OR_RETURN(const ServerOptions options, OptionsOf(flags));
  SPIRITOS_ASSIGN_OR_RETURN(const std::unique_ptr<MemoryServer> server,
                            MemoryServer::Create(options));
  running = server.get();
  struct sigaction action {};
  action.sa_handler = OnStopSignal;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  std::string places;
  if (!options.unix_path.empty()) places += " shm://" + options.unix_path;
  if (server->tcp_port() >= 0) {
    places += fmt::format(" tcp://{}:{}", options.tcp_host, server->tcp_port());
  }
  fmt::print("ready: {} slabs of 64 MiB{} at{}\n", server->slabs(),
             server->store().locked() ? ", locked in memory" : "", places);
  std::fflush(stdout);
  server->Run();
  return absl::OkStatus();
}

}  // namespace

void AddMemd(CLI::App& app, int* status) {
  auto flags = std::make_shared<MemdFlags>();
  CLI::App* const memd = app.add_subcommand("memd", "Serve this machine's memory to others.");
  memd->add_option("--memory", flags->memory, "memory to serve, taken at once")
      ->capture_default_str();
  memd->add_option("--unix", flags->unix_path, "socket for programs of this machine");
  memd->add_option("--tcp", flags->tcp, "address and port to listen on; port 0 picks one");
  memd->add_option("--host", flags->host,
                   "name of what fails as one, if not the machine; copies of a page are on "
                   "different hosts");
  memd->add_option("--lease", flags->lease_s, "seconds that a silent program keeps its memory for")
      ->capture_default_str();
  memd->add_option("--quota", flags->quota_slabs, "slabs of 64 MiB one tenant may have; 0 = all");
  memd->add_flag("--no-lock", flags->no_lock, "do not lock the memory");
  memd->callback([flags, status] {
    const absl::Status served = Serve(*flags);
    if (served.ok()) return;
    fmt::print(stderr, "spiritos memd: {}\n", std::string(served.message()));
    *status = 1;
  });
}

}  // namespace spiritos::cli
