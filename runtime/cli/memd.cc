// SPDX-License-Identifier: Apache-2.0
// Options, signals and the life of a memory server.
#include "runtime/cli/memd.h"

#include <fmt/core.h>
#include <signal.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "libos/base/status.h"
#include "libos/options_env.h"
#include "libos/remote/server/server.h"
#include "runtime/cli/config_file.h"
#include "runtime/cli/host_port.h"
#include "runtime/cli/metrics_endpoint.h"
#include "runtime/cli/service_manager.h"

namespace spiritos::cli {
namespace {

MemoryServer* running = nullptr;  // For the signal handler.

void OnStopSignal(int) { running->Stop(); }

struct MemdFlags {
  std::string config;
  HostPort tcp;
  HostPort rdma;
  HostPort metrics;
  ServerOptions server;
};

// An option whose text `parse` turns into `*to`, or says what is wrong with it.
template <typename T>
CLI::Option* AddParsed(CLI::App& app, const std::string& name,
                       absl::StatusOr<T> (*parse)(std::string_view), T* to,
                       const std::string& help) {
  const auto set = [name, parse, to](const std::string& text) {
    auto parsed = parse(text);
    if (!parsed.ok()) throw CLI::ValidationError(name, std::string(parsed.status().message()));
    *to = *std::move(parsed);
  };
  return app.add_option_function<std::string>(name, set, help);
}

absl::StatusOr<ServerOptions> OptionsOf(const MemdFlags& flags) {
  ServerOptions options = flags.server;
  options.rdma = flags.rdma.port >= 0;
  const HostPort& place = options.rdma ? flags.rdma : flags.tcp;
  if (options.rdma && flags.tcp.port >= 0 && flags.tcp.ToString() != place.ToString()) {
    return InvalidArgument(
        "--rdma {} listens for TCP there too, so --tcp {} cannot be another place",
        place.ToString(), flags.tcp.ToString());
  }
  options.tcp_host = place.host;
  options.tcp_port = place.port;
  return options;
}

// Every slab is a file and every connection a socket: as many as the hard limit allows.
absl::Status RaiseDescriptorLimit(const ServerOptions& options) {
  constexpr rlim_t kForConnections = 256;
  const rlim_t wanted = options.memory.raw() / kSlabSize + kForConnections;
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_max < wanted) {
    return absl::ResourceExhaustedError(fmt::format(
        "{} open files are too few for {} slabs and {} connections: raise the hard limit, by "
        "LimitNOFILE={} in the unit, or ulimit -Hn (--memory)",
        limit.rlim_max, wanted - kForConnections, kForConnections, wanted));
  }
  limit.rlim_cur = limit.rlim_max;
  return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? absl::OkStatus()
                                               : ErrnoStatus(errno, "raising RLIMIT_NOFILE");
}

void StopOnSignals(MemoryServer& server) {
  running = &server;
  struct sigaction action {};
  action.sa_handler = OnStopSignal;
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
}

// What a server has and where: for people, and for programs that start one.
std::string Describe(const ServerOptions& options, const MemoryServer& server,
                     const MetricsEndpoint* metrics) {
  std::string places;
  if (!options.unix_path.empty()) places += " shm://" + options.unix_path;
  if (server.tcp_port() >= 0) {
    const std::string place = HostPort{options.tcp_host, server.tcp_port()}.ToString();
    places += " tcp://" + place;
    if (options.rdma) places += " rdma://" + place;
  }
  if (metrics != nullptr) {
    places += fmt::format(", metrics at http://{}/metrics", metrics->place().ToString());
  }
  const std::string restored =
      server.restored() == 0 ? "" : fmt::format(", {} restored", server.restored());
  return fmt::format("{} slabs of 64 MiB{}{} at{}", server.slabs(), restored,
                     server.store().locked() ? ", locked in memory" : "", places);
}

absl::Status Serve(const MemdFlags& flags) {
  SPIRITOS_ASSIGN_OR_RETURN(ServerOptions options, OptionsOf(flags));
  SPIRITOS_RETURN_IF_ERROR(RaiseDescriptorLimit(options));
  Watchdog watchdog;
  options.on_review = [&watchdog] { watchdog.Pat(); };
  SPIRITOS_ASSIGN_OR_RETURN(const std::unique_ptr<MemoryServer> server,
                            MemoryServer::Create(options));
  std::unique_ptr<MetricsEndpoint> metrics;
  if (flags.metrics.port >= 0) {
    SPIRITOS_ASSIGN_OR_RETURN(metrics, MetricsEndpoint::Create(flags.metrics, *server));
  }
  StopOnSignals(*server);
  const std::string description = Describe(options, *server, metrics.get());
  fmt::print("ready: {}\n", description);
  std::fflush(stdout);
  NotifyReady(description);
  server->Run();
  NotifyStopping();
  return absl::OkStatus();
}

}  // namespace

void AddMemd(CLI::App& app, int* status) {
  auto flags = std::make_shared<MemdFlags>();
  ServerOptions& server = flags->server;
  CLI::App* const memd = app.add_subcommand("memd", "Serve this machine's memory to others.");
  memd->add_option("--config", flags->config,
                   "TOML file of these options, without their dashes; the command line wins");
  AddParsed(*memd, "--memory", ParseBytes, &server.memory, "memory to serve, taken at once")
      ->type_name("SIZE")
      ->default_str("1G");
  memd->add_option("--unix", server.unix_path, "socket for programs of this machine")
      ->type_name("PATH");
  AddParsed(*memd, "--tcp", HostPort::Parse, &flags->tcp,
            "address and port to listen on; port 0 picks one")
      ->type_name("[HOST:]PORT");
  AddParsed(*memd, "--rdma", HostPort::Parse, &flags->rdma,
            "address of an RDMA device, and port, to listen on; for TCP too")
      ->type_name("[HOST:]PORT");
  memd->add_option("--host", server.host,
                   "name of what fails as one, if not the machine; copies of a page are on "
                   "different hosts")
      ->type_name("NAME");
  memd->add_option("--state", server.state_path,
                   "folder in a tmpfs where slabs outlive a restart; not with --unix")
      ->type_name("DIR");
  AddParsed(*memd, "--metrics", HostPort::Parse, &flags->metrics,
            "address and port for OpenMetrics over HTTP, and for `spiritos stat`")
      ->type_name("[HOST:]PORT");
  const auto set_lease = [&server](const double& seconds) {
    server.lease_ms = static_cast<uint64_t>(seconds * 1000);
  };
  memd->add_option_function<double>("--lease", set_lease,
                                    "how long a silent program keeps its memory")
      ->type_name("SECONDS")
      ->check(CLI::Range(1.0, 4e6))
      ->default_str("60");
  memd->add_option("--quota", server.slab_quota, "slabs of 64 MiB one tenant may have; 0 = all")
      ->capture_default_str();
  memd->add_option("--tls-psk", server.tls.psk,
                   "file of tenants' keys, a line of `spiritos key` each")
      ->type_name("FILE");
  memd->add_option("--tls-cert", server.tls.cert, "certificate of this server, PEM")
      ->type_name("FILE");
  memd->add_option("--tls-key", server.tls.key, "its key, PEM")->type_name("FILE");
  memd->add_option("--tls-ca", server.tls.ca, "authority of programs' certificates, PEM")
      ->type_name("FILE");
  const auto set_lock = [&server](int64_t count) { server.lock_memory = count <= 0; };
  memd->add_flag_function("--no-lock", set_lock, "do not lock the memory");
  memd->callback([flags, memd, status] {
    absl::Status served =
        flags->config.empty() ? absl::OkStatus() : ApplyConfigFile(flags->config, *memd);
    if (served.ok()) served = Serve(*flags);
    if (served.ok()) return;
    fmt::print(stderr, "spiritos memd: {}\n", std::string(served.message()));
    *status = 1;
  });
}

}  // namespace spiritos::cli
