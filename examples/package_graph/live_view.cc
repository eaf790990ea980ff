// SPDX-License-Identifier: Apache-2.0
// Rates are differences between two samples; latencies come as they are.
#include "examples/package_graph/live_view.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace package_graph {
namespace {

constexpr double kPlainLineEvery_s = 5;
constexpr size_t kBarWidth = 20;

size_t TerminalColumns() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

std::string Bar(const Sample& sample) {
  if (sample.total == 0) return fmt::format("[{:^{}}]     ", sample.done, kBarWidth);
  double fraction =
      std::min(1.0, static_cast<double>(sample.done) / static_cast<double>(sample.total));
  auto filled = static_cast<size_t>(fraction * kBarWidth);
  return fmt::format("[{:#<{}}{: <{}}] {:3.0f}%", "", filled, "", kBarWidth - filled,
                     100 * fraction);
}

std::string Memory(const Sample& now, const Sample& before) {
  constexpr double kMebi = 1 << 20;
  double seconds = std::max(now.seconds - before.seconds, 1e-3);
  auto rate = [seconds](uint64_t a, uint64_t b) { return static_cast<double>(a - b) / seconds; };
  const MemorySample& m = now.memory;
  const MemorySample& b = before.memory;
  std::string line =
      fmt::format("resident {:.0f} MiB", static_cast<double>(m.resident_bytes) / kMebi);
  if (m.faults == 0) return line;  // An all-local run has none.
  line += fmt::format("  {:.1f}k faults/s  in {:.0f} out {:.0f} MB/s",
                      rate(m.faults, b.faults) / 1e3, rate(m.fetched_bytes, b.fetched_bytes) / 1e6,
                      rate(m.written_bytes, b.written_bytes) / 1e6);
  if (m.p50_ns != 0) {
    line += fmt::format("  p50 {:.1f} p99 {:.1f} us", static_cast<double>(m.p50_ns) / 1e3,
                        static_cast<double>(m.p99_ns) / 1e3);
  }
  return line;
}

}  // namespace

LiveView::LiveView(std::string label)
    : label_(std::move(label)), terminal_(isatty(STDERR_FILENO) != 0) {}

LiveView::~LiveView() {
  if (terminal_) fmt::print(stderr, "\r\033[K");
}

void LiveView::Show(const Sample& sample) {
  if (terminal_) {
    std::string line = fmt::format("{:<12} {:<10} {}  {}", label_, sample.phase, Bar(sample),
                                   Memory(sample, last_));
    line.resize(std::min(line.size(), TerminalColumns() - 1));
    fmt::print(stderr, "\r\033[K{}", line);
    std::fflush(stderr);
    last_ = sample;
  } else if (sample.phase != last_.phase || sample.seconds >= last_printed_s_ + kPlainLineEvery_s) {
    fmt::print(stderr, "{:<12} {:6.1f} s  {:<10} {}  {}\n", label_, sample.seconds, sample.phase,
               Bar(sample), Memory(sample, last_));
    last_printed_s_ = sample.seconds;
    last_ = sample;
  }
}

}  // namespace package_graph
