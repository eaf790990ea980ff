// SPDX-License-Identifier: Apache-2.0
// Looks, shows, waits.
#include "runtime/cli/top.h"

#include <fmt/core.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "libos/base/clock.h"
#include "libos/base/status.h"
#include "runtime/cli/interval.h"
#include "runtime/cli/processes.h"
#include "runtime/cli/top_screen.h"
#include "runtime/cli/top_table.h"

namespace spiritos::cli {
namespace {

struct TopOptions {
  double interval_s = 1;
  uint64_t count = 0;  // 0: for ever.
  bool plain = false;
  bool json = false;
};

std::string TimeOfDay() {
  const time_t now = time(nullptr);
  tm local;
  localtime_r(&now, &local);
  return fmt::format("{:02}:{:02}:{:02}", local.tm_hour, local.tm_min, local.tm_sec);
}

double UnixTime() {
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

absl::Status ShowLines(const TopOptions& options) {
  SPIRITOS_ASSIGN_OR_RETURN(Interval interval, Interval::Every(options.interval_s, "--interval"));
  TopTable table;
  for (uint64_t i = 0; options.count == 0 || i < options.count; ++i) {
    if (i != 0) SPIRITOS_RETURN_IF_ERROR(interval.Await());
    table.Update(FindProcesses());
    if (options.json) {
      fmt::print("{}\n", table.Json(UnixTime()));
    } else {
      fmt::print("{}{}  {}\n{}\n", i == 0 ? "" : "\n", TimeOfDay(), table.Totals(),
                 TopTable::Heading());
      for (const std::string& row : table.Rows(false)) fmt::print("{}\n", row);
    }
    if (std::fflush(stdout) != 0) return ErrnoStatus(errno, "writing the table");
  }
  return absl::OkStatus();
}

absl::Status ShowScreen(const TopOptions& options) {
  SPIRITOS_ASSIGN_OR_RETURN(const std::unique_ptr<TopScreen> screen, TopScreen::Open());
  TopTable table;
  const auto interval_ns = static_cast<uint64_t>(options.interval_s * 1e9);
  uint64_t shown = 0;
  uint64_t next_ns = 0;
  while (true) {
    const uint64_t now_ns = NowNs();
    if (now_ns >= next_ns) {
      if (options.count != 0 && shown++ == options.count) return absl::OkStatus();
      table.Update(FindProcesses());
      next_ns = now_ns + interval_ns;
    }
    const std::string heading = TopTable::Heading() + (screen->shows_curves() ? "  LATELY" : "");
    screen->Draw(fmt::format("spiritos top  {}  {}", TimeOfDay(), table.Totals()), heading,
                 table.Rows(screen->shows_curves()),
                 "sort by: f faults  r resident  s stalled  p pid      q quit");
    const uint64_t drawn_ns = NowNs();
    const uint64_t left_ns = next_ns > drawn_ns ? next_ns - drawn_ns : 0;
    switch (screen->AwaitKey(static_cast<int>(left_ns / 1'000'000 + 1))) {
      case 'q':
        return absl::OkStatus();
      case 'f':
        table.set_sort(SortBy::kFaults);
        break;
      case 'r':
        table.set_sort(SortBy::kResident);
        break;
      case 's':
        table.set_sort(SortBy::kStalled);
        break;
      case 'p':
        table.set_sort(SortBy::kPid);
        break;
      default:
        break;
    }
  }
}

}  // namespace

void AddTop(CLI::App& app, int* status) {
  auto options = std::make_shared<TopOptions>();
  CLI::App* const top = app.add_subcommand("top", "Show the processes whose memory is far, live.");
  top->add_option("--interval", options->interval_s, "how often")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  top->add_option("--count", options->count, "how many times; 0: until it is stopped")
      ->capture_default_str();
  CLI::Option* const plain = top->add_flag("--plain", options->plain,
                                           "tables, one after the other; as where no terminal is");
  top->add_flag("--json", options->json, "an object each time, on a line of its own")
      ->excludes(plain);
  top->callback([options, status] {
    const bool terminal = isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0;
    const bool lines = options->plain || options->json || !terminal;
    const absl::Status shown = lines ? ShowLines(*options) : ShowScreen(*options);
    if (shown.ok()) return;
    fmt::print(stderr, "spiritos top: {}\n", std::string(shown.message()));
    *status = 1;
  });
}

}  // namespace spiritos::cli
