// SPDX-License-Identifier: Apache-2.0
// Options, signals and the life of a memory server.
#include "runtime/cli/memd.h"

#include <fmt/core.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdio>
#include <memory>
#include <string>

#include "libos/base/log.h"
#include "libos/base/status.h"
#include "libos/remote/server/server.h"
#include "runtime/cli/config_file.h"
#include "runtime/cli/host_port.h"
#include "runtime/cli/memd_options.h"
#include "runtime/cli/memd_reload.h"
#include "runtime/cli/metrics_endpoint.h"
#include "runtime/cli/service_manager.h"

namespace spiritos::cli {
namespace {

MemoryServer* running = nullptr;  // For the signal handlers.
std::atomic<bool> reload_asked{false};
std::atomic<bool> drain_asked{false};
static_assert(std::atomic<bool>::is_always_lock_free, "for signal handlers");

void OnSignal(int number) {
  switch (number) {
    case SIGHUP:
      return reload_asked.store(true);
    case SIGUSR1:
      return drain_asked.store(true);
    default:
      return running->Stop();
  }
}

// What signals have asked for since the last time.
void Obey(MemdReload& reload) {
  if (reload_asked.exchange(false)) reload.Apply(*running);
  if (!drain_asked.exchange(false)) return;
  running->Drain();
  LogWarning("draining: no slab is rented out, and all are asked back, until SIGHUP");
}

void HearSignals(MemoryServer& server) {
  running = &server;
  struct sigaction action {};
  action.sa_handler = OnSignal;
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) sigaction(number, &action, nullptr);
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

absl::Status Serve(const MemdFlags& flags, MemdReload& reload) {
  SPIRITOS_ASSIGN_OR_RETURN(ServerOptions options, OptionsOf(flags));
  SPIRITOS_RETURN_IF_ERROR(RaiseDescriptorLimit(options));
  Watchdog watchdog;
  options.on_review = [&] {
    watchdog.Pat();
    Obey(reload);
  };
  SPIRITOS_ASSIGN_OR_RETURN(const std::unique_ptr<MemoryServer> server,
                            MemoryServer::Create(options));
  std::unique_ptr<MetricsEndpoint> metrics;
  if (flags.metrics.port >= 0) {
    SPIRITOS_ASSIGN_OR_RETURN(metrics, MetricsEndpoint::Create(flags.metrics, *server));
  }
  HearSignals(*server);
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
  CLI::App* const memd = app.add_subcommand("memd", "Serve this machine's memory to others.");
  AddMemdOptions(*memd, flags.get());
  memd->callback([flags, memd, status] {
    MemdReload reload(*memd);
    absl::Status served =
        flags->config.empty() ? absl::OkStatus() : ApplyConfigFile(flags->config, *memd);
    if (served.ok()) served = Serve(*flags, reload);
    if (served.ok()) return;
    fmt::print(stderr, "spiritos memd: {}\n", std::string(served.message()));
    *status = 1;
  });
}

}  // namespace spiritos::cli
