// SPDX-License-Identifier: Apache-2.0
// Statistics on standard error: at the end, at a signal, or a line each interval.
#include <errno.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "libos/base/clock.h"
#include "libos/base/fd.h"
#include "libos/base/parker.h"
#include "libos/base/service_thread.h"
#include "libos/live_stats.h"
#include "runtime/shim/shim.h"

namespace spiritos::shim {
namespace {

constexpr int kSignal = SIGUSR2;

struct Reports {
  // Standard error of the beginning, as programs close theirs before they end.
  UniqueFd file;
  uint64_t interval_ns = 0;
  bool thread = false;  // There is more to do than at the end.
};
Reports* reports = nullptr;  // Null: none. Never destroyed, as it is needed later than that.
constinit std::atomic<uint32_t> asked{0};

void Write(const std::string& text) {
  [[maybe_unused]] const ssize_t ignored = write(reports->file.get(), text.data(), text.size());
}

std::string AllLocal() {
  return fmt::format("spiritos: all memory was local: {} MiB mapped\n",
                     far_map.load()->dormant().raw() >> 20);
}

void OnSignal(int) {
  const int saved_errno = errno;
  asked.fetch_add(1);
  FutexWake(asked, 1);
  errno = saved_errno;
}

constexpr double kMiB = 1 << 20;

// What has happened since the last line.
class Line {
 public:
  void Report() {
    const Space* const space = far_map.load()->space();
    if (space == nullptr) {
      Write(AllLocal());
      return;
    }
    const uint64_t now_ns = NowNs();
    auto now = std::make_unique<Stats>(space->GetStats());
    if (before_ == nullptr) before_ = std::make_unique<Stats>();
    const Rates rates =
        Rates::Between(*before_, *now, static_cast<double>(now_ns - before_ns_) / 1e9);
    Write(fmt::format(
        "spiritos[{}]: {:.0f} of {:.0f} MiB resident, {:.0f} MiB far; {:.0f} faults/s, in {:.1f} "
        "MiB/s, out {:.1f} MiB/s; a fault takes {:.1f} us (p99 {:.1f}); stalled {:.0f} %\n",
        getpid(), static_cast<double>(BytesOf(now->used_frames).raw()) / kMiB,
        static_cast<double>(BytesOf(now->budget).raw()) / kMiB,
        static_cast<double>(BytesOf(now->far_pages).raw()) / kMiB, rates.faults_per_s,
        rates.fetched_bytes_per_s / kMiB, rates.written_bytes_per_s / kMiB,
        static_cast<double>(rates.fault_ns_p50) / 1e3,
        static_cast<double>(rates.fault_ns_p99) / 1e3, 100 * rates.stalled));
    before_ = std::move(now);
    before_ns_ = now_ns;
  }

 private:
  std::unique_ptr<Stats> before_;
  uint64_t before_ns_ = NowNs();
};

// For ever: the process ends around it.
void Run() {
  Line line;
  uint32_t answered = asked.load();
  uint64_t next_ns = NowNs() + reports->interval_ns;
  while (true) {
    const uint64_t now_ns = NowNs();
    if (reports->interval_ns != 0 && now_ns >= next_ns) {
      line.Report();
      next_ns += reports->interval_ns;
      continue;
    }
    FutexWait(asked, answered, reports->interval_ns == 0 ? 0 : next_ns - now_ns);
    if (asked.load() == answered) continue;
    answered = asked.load();
    ReportAll();
  }
}

void StartThread() { StartServiceThread("spiritos-report", Run).detach(); }

}  // namespace

void StartReports(const Settings& settings) {
  if (settings.report == Settings::Report::kNone) return;
  reports = new Reports{UniqueFd(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)),
                        settings.report_interval_ns, settings.report != Settings::Report::kExit};
  if (settings.report == Settings::Report::kSignal) {
    struct sigaction action {};
    action.sa_handler = OnSignal;
    action.sa_flags = SA_RESTART;
    sigaction(kSignal, &action, nullptr);
  }
  if (reports->thread) StartThread();
}

void ReportAll() {
  if (reports == nullptr) return;
  const Space* const space = far_map.load()->space();
  Write(space == nullptr ? AllLocal() : space->description() + space->GetStats().ToText());
}

void RestartReports() {
  if (reports != nullptr && reports->thread) StartThread();
}

}  // namespace spiritos::shim
