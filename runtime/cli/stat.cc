// SPDX-License-Identifier: Apache-2.0
// The table, once or again and again.
#include "runtime/cli/stat.h"

#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "libos/base/clock.h"
#include "libos/base/status.h"
#include "runtime/cli/host_port.h"
#include "runtime/cli/interval.h"
#include "runtime/cli/metrics_reader.h"
#include "runtime/cli/processes.h"

namespace spiritos::cli {
namespace {

constexpr uint64_t kSecondNs = 1'000'000'000;
constexpr uint64_t kPatienceNs = 5 * kSecondNs;
constexpr std::string_view kPrefix = "spiritos_memd_";
constexpr std::string_view kTotal = "_total";

struct StatFlags {
  pid_t pid = 0;  // 0: a server is meant.
  HostPort metrics;
  double watch_s = 0;
};

absl::Status PrintProcess(pid_t pid) {
  SPIRITOS_ASSIGN_OR_RETURN(const auto pages, ReadPages(pid));
  for (size_t i = 0; i < pages.size(); ++i) {
    if (pages.size() > 1) fmt::print("{}space {} of {}\n", i == 0 ? "" : "\n", i + 1, pages.size());
    for (const char* part : {"recent", "stats"}) {
      for (const auto& [name, value] : pages[i][part].items()) {
        if (value.is_number()) fmt::print("{} {}\n", name, value.dump());
      }
    }
  }
  std::fflush(stdout);
  return absl::OkStatus();
}

// What a server told at one moment.
struct Snapshot {
  uint64_t at_ns = 0;
  std::map<std::string, double> counters;
  std::map<std::string, double> gauges;
  std::map<std::string, std::map<std::string, double>> tenants;
};

absl::StatusOr<Snapshot> Take(const HostPort& place) {
  Snapshot snapshot;
  SPIRITOS_ASSIGN_OR_RETURN(const std::vector<MetricSample> samples,
                            FetchMetrics(place, NowNs() + kPatienceNs));
  snapshot.at_ns = NowNs();
  for (const MetricSample& sample : samples) {
    if (!sample.name.starts_with(kPrefix)) continue;
    const std::string name = sample.name.substr(kPrefix.size());
    if (!sample.tenant.empty()) {
      snapshot.tenants[sample.tenant][name] = sample.value;
    } else if (name.ends_with(kTotal)) {
      snapshot.counters[name.substr(0, name.size() - kTotal.size())] = sample.value;
    } else {
      snapshot.gauges[name] = sample.value;
    }
  }
  if (snapshot.gauges.empty()) {
    return absl::UnavailableError(
        fmt::format("{} is no memory server (--metrics)", place.ToString()));
  }
  return snapshot;
}

// What happened each second since `before`, or nothing to say the first time.
std::string Rate(const Snapshot* before, const Snapshot& now, const std::string& counter) {
  if (before == nullptr) return "";
  const auto at = before->counters.find(counter);
  const double past = at == before->counters.end() ? 0 : at->second;
  const double seconds = static_cast<double>(now.at_ns - before->at_ns) / kSecondNs;
  const double change = now.counters.at(counter) - past;
  return change < 0 ? "restarted" : fmt::format("{:.1f}", change / seconds);
}

void Print(const Snapshot* before, Snapshot& now) {
  auto& gauges = now.gauges;
  fmt::print("slabs of 64 MiB: {} rented, {} free, {} in all; {} ready, {} found again\n",
             gauges["slabs_rented"], gauges["slabs_free"], gauges["slabs"], gauges["slabs_ready"],
             gauges["slabs_restored"]);
  if (gauges["slabs_asked_back"] != 0) {
    fmt::print("asked back from tenants: {} slabs\n", gauges["slabs_asked_back"]);
  }
  fmt::print("clients: {}, over {} connections\n", gauges["clients"], gauges["open_connections"]);
  fmt::print("\n{:<20} {:>16} {:>12}\n", "", "in all", before == nullptr ? "" : "a second");
  for (const auto& [name, value] : now.counters) {
    if (value != 0) {
      fmt::print("{:<20} {:>16.0f} {:>12}\n", name, value, Rate(before, now, name));
    }
  }
  if (!now.tenants.empty()) {
    fmt::print("\n{:<32} {:>8} {:>8} {:>14} {:>12} {:>8}\n", "tenant", "slabs", "leases",
               "lease left, s", "MiB moved", "pauses");
  }
  for (auto& [name, figures] : now.tenants) {
    fmt::print("{:<32} {:>8} {:>8} {:>14.1f} {:>12.1f} {:>8}\n", name, figures["tenant_slabs"],
               figures["tenant_leases"], figures["tenant_lease_left_seconds"],
               figures["tenant_bytes_total"] / (1 << 20), figures["tenant_pauses_total"]);
  }
  std::fflush(stdout);
}

// Shows it by `show`, once or each --watch seconds.
absl::Status Repeat(const StatFlags& flags, const std::function<absl::Status()>& show) {
  SPIRITOS_RETURN_IF_ERROR(show());
  if (flags.watch_s == 0) return absl::OkStatus();
  SPIRITOS_ASSIGN_OR_RETURN(Interval interval, Interval::Every(flags.watch_s, "--watch"));
  while (true) {
    SPIRITOS_RETURN_IF_ERROR(interval.Await());
    fmt::print("{}", isatty(STDOUT_FILENO) != 0 ? "\x1b[H\x1b[J" : "\n");
    SPIRITOS_RETURN_IF_ERROR(show());
  }
}

absl::Status Show(const StatFlags& flags) {
  if (flags.pid != 0) return Repeat(flags, [&flags] { return PrintProcess(flags.pid); });
  std::optional<Snapshot> before;
  return Repeat(flags, [&]() -> absl::Status {
    SPIRITOS_ASSIGN_OR_RETURN(Snapshot now, Take(flags.metrics));
    Print(before.has_value() ? &*before : nullptr, now);
    before = std::move(now);
    return absl::OkStatus();
  });
}

}  // namespace

void AddStat(CLI::App& app, int* status) {
  auto flags = std::make_shared<StatFlags>();
  CLI::App* const stat =
      app.add_subcommand("stat", "Show what a process with far memory, or a memory server, does.");
  const auto set_place = [flags](const std::string& text) {
    absl::StatusOr<HostPort> place = HostPort::Parse(text);
    if (!place.ok()) {
      throw CLI::ValidationError("--metrics", std::string(place.status().message()));
    }
    flags->metrics = *std::move(place);
  };
  CLI::Option* const pid = stat->add_option("PID", flags->pid, "the process (`spiritos top`)")
                               ->check(CLI::PositiveNumber);
  CLI::Option* const metrics =
      stat->add_option_function<std::string>("--metrics", set_place,
                                             "the server: where `spiritos memd --metrics` listens")
          ->type_name("[HOST:]PORT")
          ->excludes(pid);
  stat->add_option("--watch", flags->watch_s, "show it again each so many seconds, with rates")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.1, 86400.0));
  stat->callback([flags, status, pid, metrics] {
    if (pid->count() + metrics->count() == 0) throw CLI::RequiredError("PID or --metrics");
    const absl::Status shown = Show(*flags);
    if (shown.ok()) return;
    fmt::print(stderr, "spiritos stat: {}\n", std::string(shown.message()));
    *status = 1;
  });
}

}  // namespace spiritos::cli
