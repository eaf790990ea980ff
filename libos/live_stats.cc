// SPDX-License-Identifier: Apache-2.0
// A thread that looks, computes rates, and publishes.
#include "libos/live_stats.h"

#include <fmt/format.h>
#include <unistd.h>

#include <utility>

#include "libos/base/clock.h"
#include "libos/base/log.h"
#include "libos/base/parker.h"
#include "libos/base/service_thread.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

constexpr uint64_t kPeriodNs = 1'000'000'000;

}  // namespace

Rates Rates::Between(const Stats& before, const Stats& now, double seconds) {
  if (seconds <= 0) return {};
  const auto rate = [&](Metric metric, double unit) {
    return static_cast<double>(now[metric] - before[metric]) * unit / seconds;
  };
  const Histogram faults = now.fault_ns.Since(before.fault_ns);
  return {.seconds = seconds,
          .faults_per_s = rate(Metric::kFaults, 1),
          .fetched_bytes_per_s = rate(Metric::kFetchedPages, kPageSize),
          .written_bytes_per_s = rate(Metric::kWrittenPages, kPageSize),
          .fault_ns_p50 = faults.Quantile(0.5),
          .fault_ns_p99 = faults.Quantile(0.99),
          .stalled = rate(Metric::kFrameStallNs, 1e-9)};
}

LiveStats::LiveStats(std::function<Stats()> get, StatsPage page)
    : get_(std::move(get)), page_(std::move(page)), started_ns_(NowNs()) {}

absl::StatusOr<std::unique_ptr<LiveStats>> LiveStats::Start(std::function<Stats()> get) {
  SPIRITOS_ASSIGN_OR_RETURN(StatsPage page, StatsPage::Create());
  std::unique_ptr<LiveStats> live(new LiveStats(std::move(get), std::move(page)));
  live->thread_ = StartServiceThread("spiritos-stats", [raw = live.get()] { raw->Run(); });
  return live;
}

LiveStats::~LiveStats() {
  stopping_.store(1);
  FutexWake(stopping_, 1);
  if (thread_.joinable()) thread_.join();
}

absl::Status LiveStats::Restart() {
  std::construct_at(&thread_);  // It is not there: nobody to join.
  SPIRITOS_ASSIGN_OR_RETURN(page_, StatsPage::Create());
  started_ns_ = NowNs();
  thread_ = StartServiceThread("spiritos-stats", [this] { Run(); });
  return absl::OkStatus();
}

void LiveStats::Run() {
  auto before = std::make_unique<Stats>(get_());  // Two histograms: large for a stack.
  auto now = std::make_unique<Stats>(*before);
  uint64_t before_ns = NowNs();
  uint64_t now_ns = before_ns;
  while (true) {
    const double seconds = static_cast<double>(now_ns - before_ns) / 1e9;
    const Rates recent = Rates::Between(*before, *now, seconds);
    if (absl::Status status = page_.Publish(Describe(*now, recent, now_ns)); !status.ok()) {
      LogWarning(status.ToString());
      return;
    }
    std::swap(now, before);
    before_ns = now_ns;
    while ((now_ns = NowNs()) < before_ns + kPeriodNs) {
      FutexWait(stopping_, 0, before_ns + kPeriodNs - now_ns);
      if (stopping_.load() != 0) return;
    }
    *now = get_();
  }
}

std::string LiveStats::Describe(const Stats& now, const Rates& recent, uint64_t now_ns) const {
  return fmt::format(
      "{{\"version\":1,\"pid\":{},\"at_ns\":{},\"uptime_s\":{:.3f},"
      "\"recent\":{{\"seconds\":{:.3f},\"faults_per_s\":{:.1f},\"fetched_bytes_per_s\":{:.0f},"
      "\"written_bytes_per_s\":{:.0f},\"fault_ns_p50\":{},\"fault_ns_p99\":{},\"stalled\":{:.4f}}},"
      "\"stats\":{}}}",
      getpid(), now_ns, static_cast<double>(now_ns - started_ns_) / 1e9, recent.seconds,
      recent.faults_per_s, recent.fetched_bytes_per_s, recent.written_bytes_per_s,
      recent.fault_ns_p50, recent.fault_ns_p99, recent.stalled, now.ToJson());
}

}  // namespace spiritos
