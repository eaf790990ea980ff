// SPDX-License-Identifier: Apache-2.0
// Text and JSON forms of a snapshot.
#include "libos/stats.h"

#include <fmt/format.h>

#include <iterator>

namespace spiritos {
namespace {

struct Gauge {
  const char* name;
  uint64_t value;
};

std::array<Gauge, 15> Gauges(const Stats& stats) {
  return {{{"budget_pages", static_cast<uint64_t>(stats.budget.raw())},
           {"free_frames", static_cast<uint64_t>(stats.free_frames.raw())},
           {"used_frames", static_cast<uint64_t>(stats.used_frames.raw())},
           {"pinned_pages", static_cast<uint64_t>(stats.pinned.raw())},
           {"degraded_slabs", stats.degraded_slabs},
           {"lost_slabs", stats.lost_slabs},
           {"mended_slabs", stats.mended_slabs},
           {"hedged_reads", stats.hedged_reads},
           {"hedges_won", stats.hedges_won},
           {"moved_slabs", stats.moved_slabs},
           {"unbacked_slabs", stats.unbacked_slabs},
           {"backup_behind_pages", static_cast<uint64_t>(stats.backup_behind.raw())},
           {"backup_errors", stats.backup_errors},
           {"metadata_bytes", stats.metadata.raw()},
           {"far_pages", static_cast<uint64_t>(stats.far_pages.raw())}}};
}

struct Quantile {
  const char* name;
  double q;
};
constexpr Quantile kQuantiles[] = {{"p50", 0.5}, {"p99", 0.99}, {"p999", 0.999}};

}  // namespace

std::string Stats::ToText() const {
  std::string text;
  auto out = std::back_inserter(text);
  for (const Gauge& gauge : Gauges(*this)) fmt::format_to(out, "{} {}\n", gauge.name, gauge.value);
  for (size_t i = 0; i < kMetricCount; ++i) {
    fmt::format_to(out, "{} {}\n", MetricTable()[i].name, counters[i]);
  }
  for (const auto& [name, q] : kQuantiles) {
    fmt::format_to(out, "fault_ns_{} {}\n", name, fault_ns.Quantile(q));
  }
  for (const auto& [name, q] : kQuantiles) {
    fmt::format_to(out, "stall_ns_{} {}\n", name, stall_ns.Quantile(q));
  }
  return text;
}

std::string Stats::ToJson() const {
  std::string text = "{";
  auto out = std::back_inserter(text);
  for (const Gauge& gauge : Gauges(*this)) {
    fmt::format_to(out, "\"{}\":{},", gauge.name, gauge.value);
  }
  for (size_t i = 0; i < kMetricCount; ++i) {
    fmt::format_to(out, "\"{}\":{},", MetricTable()[i].name, counters[i]);
  }
  for (const auto& [name, q] : kQuantiles) {
    fmt::format_to(out, "\"fault_ns_{}\":{},\"stall_ns_{}\":{},", name, fault_ns.Quantile(q), name,
                   stall_ns.Quantile(q));
  }
  text.back() = '}';
  return text;
}

}  // namespace spiritos
