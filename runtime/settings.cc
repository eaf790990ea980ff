// SPDX-License-Identifier: Apache-2.0
// Keys to options: one table serves all ways of setting them.
#include "runtime/settings.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <utility>
#include <vector>

#include "libos/base/status.h"
#include "libos/options_env.h"
#include "runtime/memory_limit.h"

namespace spiritos {
namespace {

std::string OptionName(std::string_view key) {
  if (key == "local") return "SPIRITOS_BUDGET";
  if (key == "mode") return "SPIRITOS_FAULT_MODE";
  std::string name = "SPIRITOS_";
  for (const char c : key) {
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return name;
}

absl::StatusOr<bool> IsFirst(std::string_view key, std::string_view value, std::string_view first,
                             std::string_view second) {
  if (value == first || value == second) return value == first;
  return InvalidArgument("{}={} is neither {} nor {} (SPIRITOS_CONF)", key, value, first, second);
}

absl::Status SetReport(std::string_view value, Settings* settings) {
  constexpr uint64_t kMostSeconds = 86'400;
  using Report = Settings::Report;
  settings->report_interval_ns = 0;
  for (const auto& [name, report] :
       {std::pair("none", Report::kNone), {"exit", Report::kExit}, {"signal", Report::kSignal}}) {
    if (value != name) continue;
    settings->report = report;
    return absl::OkStatus();
  }
  uint64_t seconds = 0;
  const char* const last = value.data() + value.size();
  const auto [end, error] = std::from_chars(value.data(), last, seconds);
  if (error != std::errc() || end != last || seconds == 0 || seconds > kMostSeconds) {
    return InvalidArgument(
        "stats={} is neither none, exit, signal nor a number of seconds from 1 to {} "
        "(SPIRITOS_CONF)",
        value, kMostSeconds);
  }
  settings->report = Report::kInterval;
  settings->report_interval_ns = seconds * 1'000'000'000;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Settings> ParseSettings(std::string_view text) {
  Settings settings;
  settings.space.fault.mode = FaultMode::kThread;
  std::vector<std::string> variables;
  while (!text.empty()) {
    const std::string_view pair = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), pair.size() + 1));
    if (pair.empty()) continue;
    const size_t equals = pair.find('=');
    if (equals == std::string_view::npos || equals == 0) {
      return InvalidArgument("\"{}\" in SPIRITOS_CONF is not key=value", pair);
    }
    const std::string_view key = pair.substr(0, equals);
    std::string value(pair.substr(equals + 1));
    if (key == "stats") {
      SPIRITOS_RETURN_IF_ERROR(SetReport(value, &settings));
      continue;
    }
    if (key == "children") {
      SPIRITOS_ASSIGN_OR_RETURN(settings.children, IsFirst(key, value, "inherit", "none"));
      continue;
    }
    if (key == "unseen-pins") {
      SPIRITOS_ASSIGN_OR_RETURN(settings.allow_unseen_pins, IsFirst(key, value, "allow", "refuse"));
      continue;
    }
    if (key == "mode" && value == "auto") continue;
    settings.auto_budget = key == "local" ? value == "auto" : settings.auto_budget;
    if (key == "local" && settings.auto_budget) value = "87%";  // Until it is known better.
    if (key == "local") {
      SPIRITOS_ASSIGN_OR_RETURN(const Bytes budget, ParseBudget(key, value));
      value = std::to_string(budget.raw());
    }
    if (key == "pool") std::replace(value.begin(), value.end(), '+', ',');
    variables.push_back(OptionName(key) + "=" + value);
  }
  SPIRITOS_ASSIGN_OR_RETURN(settings.space, ApplyOptions(settings.space, variables));
  if (settings.space.fault.mode != FaultMode::kThread) {
    return InvalidArgument(
        "mode=sigbus in SPIRITOS_CONF: programs that are not linked with libspiritos need "
        "handler threads (mode=thread)");
  }
  if (settings.auto_budget && settings.space.remote.pool.starts_with("embedded:")) {
    return InvalidArgument(
        "local=auto in SPIRITOS_CONF: with pool={} what leaves local memory would stay in this "
        "process; it needs a memory server or a file (--pool)",
        settings.space.remote.pool);
  }
  return settings;
}

}  // namespace spiritos
