// SPDX-License-Identifier: Apache-2.0
// Figures into columns.
#include "runtime/cli/top_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

namespace spiritos::cli {
namespace {

constexpr std::string_view kHeading =
    "    PID COMMAND            STATE  RESIDENT   BUDGET      FAR  FAULTS/s     IN/s    OUT/s"
    "      P50      P99  STALLED";

// 999, 1.2K, 34M: at most five characters, in steps of 1024.
std::string Scaled(double value) {
  constexpr std::string_view kUnits = " KMGTPE";
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  const std::string_view suffix = unit == 0 ? std::string_view() : kUnits.substr(unit, 1);
  return unit != 0 && value < 9.95 ? fmt::format("{:.1f}{}", value, suffix)
                                   : fmt::format("{:.0f}{}", value, suffix);
}

std::string Scaled(Bytes bytes) { return Scaled(static_cast<double>(bytes.raw())); }

std::string Time(double ns) {
  if (ns == 0) return "-";
  if (ns < 999.5e3) return fmt::format("{:.{}f}us", ns / 1e3, ns < 9.95e3 ? 1 : 0);
  if (ns < 999.5e6) return fmt::format("{:.{}f}ms", ns / 1e6, ns < 9.95e6 ? 1 : 0);
  return fmt::format("{:.1f}s", ns / 1e9);
}

std::string_view StateOf(const ProcessFigures& process) {
  if (process.silent) return "silent";
  return process.far ? "far" : "local";
}

std::string Row(const ProcessFigures& p) {
  return fmt::format(
      "{:>7} {:<16} {:>7}  {:>8} {:>8} {:>8}  {:>8.0f} {:>8} {:>8} {:>8} {:>8} {:>7.0f}%", p.pid,
      p.command.substr(0, 16), StateOf(p), Scaled(p.resident), Scaled(p.budget),
      p.far ? Scaled(p.far_size) : "-", p.faults_per_s, Scaled(p.fetched_bytes_per_s),
      Scaled(p.written_bytes_per_s), Time(p.fault_ns_p50), Time(p.fault_ns_p99), 100 * p.stalled);
}

}  // namespace

void TopTable::Update(std::vector<ProcessFigures> processes) {
  processes_ = std::move(processes);
  std::map<pid_t, std::deque<double>> faults;
  for (const ProcessFigures& process : processes_) {
    std::deque<double>& curve = faults[process.pid];
    if (!curve.empty()) {  // Another space of the same process.
      curve.back() += process.faults_per_s;
      continue;
    }
    curve = std::move(faults_[process.pid]);
    curve.push_back(process.faults_per_s);
    if (curve.size() > kCurve) curve.pop_front();
  }
  faults_ = std::move(faults);
}

std::string TopTable::Totals() const {
  Bytes resident;
  Bytes far;
  double faults = 0;
  for (const ProcessFigures& process : processes_) {
    resident += process.resident;
    far += process.far_size;
    faults += process.faults_per_s;
  }
  return fmt::format("{} processes: {} resident of {} far, {:.0f} faults/s", processes_.size(),
                     Scaled(resident), Scaled(far), faults);
}

std::string TopTable::Heading() { return std::string(kHeading); }

std::vector<std::string> TopTable::Rows(bool curves) const {
  std::vector<const ProcessFigures*> order;
  for (const ProcessFigures& process : processes_) order.push_back(&process);
  const auto key = [this](const ProcessFigures* p) {
    switch (sort_) {
      case SortBy::kFaults:
        return p->faults_per_s;
      case SortBy::kResident:
        return static_cast<double>(p->resident.raw());
      case SortBy::kStalled:
        return p->stalled;
      case SortBy::kPid:
        break;
    }
    return 0.0;  // As they are: by number.
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](const auto* a, const auto* b) { return key(a) > key(b); });
  std::vector<std::string> rows;
  for (const ProcessFigures* process : order) {
    rows.push_back(Row(*process) + (curves ? "  " + Curve(process->pid) : ""));
  }
  return rows;
}

std::string TopTable::Curve(pid_t pid) const {
  constexpr std::array<std::string_view, 9> kSteps = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const auto at = faults_.find(pid);
  if (at == faults_.end()) return "";
  const double most = *std::max_element(at->second.begin(), at->second.end());
  std::string curve(kCurve - at->second.size(), ' ');
  for (const double rate : at->second) {
    curve += kSteps[most == 0 ? 0 : static_cast<size_t>(rate / most * 8 + 0.5)];
  }
  return curve;
}

std::string TopTable::Json(double at_s) const {
  auto list = nlohmann::ordered_json::array();
  for (const ProcessFigures& p : processes_) {
    list.push_back({{"pid", p.pid},
                    {"command", p.command},
                    {"state", StateOf(p)},
                    {"resident_bytes", p.resident.raw()},
                    {"budget_bytes", p.budget.raw()},
                    {"far_bytes", p.far_size.raw()},
                    {"faults_per_s", p.faults_per_s},
                    {"fetched_bytes_per_s", p.fetched_bytes_per_s},
                    {"written_bytes_per_s", p.written_bytes_per_s},
                    {"fault_ns_p50", p.fault_ns_p50},
                    {"fault_ns_p99", p.fault_ns_p99},
                    {"stalled", p.stalled}});
  }
  return nlohmann::ordered_json{{"at_s", at_s}, {"processes", std::move(list)}}.dump();
}

}  // namespace spiritos::cli
