// SPDX-License-Identifier: Apache-2.0
// Metrics: nothing is lost in adding up, and the table of names is fit to print.
#include "libos/base/metrics.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>
#include <set>

#include "test/support/together.h"

namespace spiritos {
namespace {

TEST_CASE("additions from all threads are summed over the cores", "[base]") {
  constexpr uint32_t kThreads = 4;
  const uint32_t each = Rounds(50'000);
  const auto metrics = std::make_unique<Metrics>();
  RunTogether(kThreads, [&](uint32_t thread) {
    for (uint32_t i = 0; i < each; ++i) {
      metrics->Add(Metric::kFaults);
      metrics->Add(Metric::kFetches, thread);
    }
  });
  CHECK(metrics->Get(Metric::kFaults) == kThreads * each);
  CHECK(metrics->Get(Metric::kFetches) == (0 + 1 + 2 + 3) * each);
  CHECK(metrics->Get(Metric::kRescues) == 0);
  uint64_t by_core = 0;
  for (uint32_t core = 0; core < CoreCount(); ++core) {
    by_core += metrics->GetOnCore(Metric::kFaults, core);
  }
  CHECK(by_core == kThreads * each);
}

TEST_CASE("a snapshot holds every counter in the order of the table", "[base]") {
  const auto metrics = std::make_unique<Metrics>();
  for (size_t i = 0; i < kMetricCount; ++i) metrics->Add(static_cast<Metric>(i), i + 1);
  const MetricArray snapshot = metrics->Snapshot();
  for (size_t i = 0; i < kMetricCount; ++i) CHECK(snapshot[i] == i + 1);
  CHECK(MetricTable()[static_cast<size_t>(Metric::kFaults)].name == "faults");
  CHECK(MetricTable()[static_cast<size_t>(Metric::kDiscardedPages)].name == "discarded_pages");
}

TEST_CASE("every counter has a name of its own, in snake case, and a meaning", "[base]") {
  std::set<std::string_view> names;
  for (const MetricInfo& info : MetricTable()) {
    CAPTURE(info.name);
    CHECK(names.insert(info.name).second);
    CHECK_FALSE(info.name.empty());
    CHECK(std::all_of(info.name.begin(), info.name.end(),
                      [](char c) { return (c >= 'a' && c <= 'z') || c == '_'; }));
    CHECK(info.help.size() > 10);
  }
}

}  // namespace
}  // namespace spiritos
