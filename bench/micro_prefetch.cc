// SPDX-License-Identifier: Apache-2.0
// micro_prefetch: page rates of patterns that can be foreseen, against those that
// cannot.
//
// Interleaved, each in a process of its own, one word read or written per page,
// medians over the runs:
//   floor         a fault that brings a run of pages: signal -> one UFFDIO_COPY of
//                 the run -> return; and its parts, for runs of 1 and of 16
//   random        25 % local, every page faults alone
//   sequential, reverse, stride 3, stride 17
//                 the same memory and budget, foreseeable
//   first touch   a fresh region written in order, with and without fault-around
// The reading thread is pinned to CPU 0; the evictor finds its own.
#include <fmt/core.h>

#include <algorithm>
#include <random>
#include <vector>

#include "bench/command_line.h"
#include "bench/floor.h"
#include "bench/harness.h"
#include "bench/isolated.h"
#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "libos/options_env.h"
#include "libos/space.h"

namespace spiritos::bench {
namespace {

struct Settings {
  uint32_t runs = 5;
  uint64_t far_mib = 512;
  uint64_t reads = 400'000;
  bool unpinned = false;
  std::string json;
};

enum class Pattern { kRandom, kSequential, kReverse, kStride3, kStride17, kTouch, kTouchSingly };

void Pin(const Settings& settings) {
  if (settings.unpinned) return;
  const absl::Status status = PinThisThread({0});
  SPIRITOS_CHECK(status.ok(), "pinning: {}", MessageOf(status));
}

std::unique_ptr<Space> MakeSpace(const Options& defaults) {
  auto options = OptionsFromEnvironment(defaults);
  auto space = options.ok() ? Space::Create(*options) : options.status();
  SPIRITOS_CHECK(space.ok(), "{}", MessageOf(space.status()));
  return *std::move(space);
}

// {ns a page, faults a page, prefetched pages given up, p99 of a fault}
std::vector<double> Measure(const Settings& settings, Pattern pattern) {
  const bool touch = pattern == Pattern::kTouch || pattern == Pattern::kTouchSingly;
  Options options{.budget = Bytes(settings.far_mib << (touch ? 21 : 18))};
  if (pattern == Pattern::kTouchSingly) options.prefetch.fault_around = 1;
  const auto space = MakeSpace(options);
  const AddressRange region = space->CreateRegion(Bytes(settings.far_mib << 20)).value();
  const uint64_t pages = region.size.raw() / kPageSize;
  const auto word = [&](uint64_t page) -> volatile uint64_t& {
    return *reinterpret_cast<volatile uint64_t*>(region.begin + page * kPageSize);
  };
  Pin(settings);
  const auto fill = [&] {
    for (uint64_t page = 0; page < pages; ++page) word(page) = page + 1;
  };
  if (!touch) fill();
  const Stats before = space->GetStats();
  const uint64_t begin = NowNs();
  uint64_t count = settings.reads;
  std::minstd_rand random(11);
  const auto read = [&](uint64_t page) {
    const uint64_t found = word(page);
    SPIRITOS_CHECK(found == page + 1, "page {} holds {}", page, found);
  };
  const auto stride = [&](uint64_t step) {
    // Around and around; each round one page further, so that no page repeats soon.
    for (uint64_t i = 0, page = 0, round = 0; i < count; ++i) {
      read(page);
      page += step;
      if (page >= pages) page = ++round % step;
    }
  };
  switch (pattern) {
    case Pattern::kRandom:
      for (uint64_t i = 0; i < count; ++i) read(random() % pages);
      break;
    case Pattern::kSequential:
      for (uint64_t i = 0; i < count; ++i) read(i % pages);
      break;
    case Pattern::kReverse:
      for (uint64_t i = 0; i < count; ++i) read(pages - 1 - i % pages);
      break;
    case Pattern::kStride3:
      stride(3);
      break;
    case Pattern::kStride17:
      stride(17);
      break;
    case Pattern::kTouch:
    case Pattern::kTouchSingly:
      fill();
      count = pages;
      break;
  }
  const auto ns = static_cast<double>(NowNs() - begin);
  const Stats after = space->GetStats();
  const Histogram faults = after.fault_ns.Since(before.fault_ns);
  const auto delta = [&](Metric metric) {
    return static_cast<double>(after[metric] - before[metric]);
  };
  return {ns / static_cast<double>(count), delta(Metric::kFaults) / static_cast<double>(count),
          delta(Metric::kPrefetchWaste), static_cast<double>(faults.Quantile(0.99))};
}

constexpr uint32_t kRun = 16;  // Pages of the floor's run.

int Main(int argc, char** argv) {
  Settings settings;
  CommandLine line("page rates of patterns that can be foreseen");
  line.Add("--runs", &settings.runs, "interleaved runs");
  line.Add("--far", &settings.far_mib, "far memory, MiB");
  line.Add("--reads", &settings.reads, "pages read in a run");
  line.Add("--unpinned", &settings.unpinned, "leave placement to the scheduler");
  line.Add("--json", &settings.json, "also write the figures to this file");
  if (const auto status = line.Parse(argc, argv)) return *status;
  PrintMachine(stdout);

  struct Series {
    const char* name;
    Pattern pattern;
    double target;   // Of the rate, over the rate of `against`; 0 = none.
    size_t against;  // Index of another series.
    std::vector<double> ns, faults, waste, p99;
  };
  std::vector<Series> all = {
      {"random", Pattern::kRandom, 0, 0, {}, {}, {}, {}},
      {"sequential", Pattern::kSequential, 4, 0, {}, {}, {}, {}},
      {"reverse", Pattern::kReverse, 0, 0, {}, {}, {}, {}},
      {"stride 3", Pattern::kStride3, 0, 0, {}, {}, {}, {}},
      {"stride 17", Pattern::kStride17, 0, 0, {}, {}, {}, {}},
      {"first touch, one by one", Pattern::kTouchSingly, 0, 5, {}, {}, {}, {}},
      {"first touch", Pattern::kTouch, 3, 5, {}, {}, {}, {}}};
  std::vector<FloorCosts> single;
  std::vector<FloorCosts> runs;
  Progress progress(static_cast<int>(settings.runs * (all.size() + 2)));
  const auto floor = [&](uint32_t run, std::vector<FloorCosts>* to) {
    progress.Step(fmt::format("floor, runs of {}", run));
    auto numbers = RunIsolated([&]() -> std::vector<double> {
      Pin(settings);
      const FloorCosts c = MeasureFloor(static_cast<uint32_t>(settings.far_mib * 256), run);
      return {c.fault_ns, c.signal_ns, c.copy_ns};
    });
    if (!numbers.ok()) {
      progress.Note(fmt::format("floor: {}", MessageOf(numbers.status())));
      return false;
    }
    to->push_back(
        {.fault_ns = (*numbers)[0], .signal_ns = (*numbers)[1], .copy_ns = (*numbers)[2]});
    return true;
  };
  for (uint32_t r = 0; r < settings.runs; ++r) {
    if (!floor(1, &single) || !floor(kRun, &runs)) return 1;
    for (Series& series : all) {
      progress.Step(series.name);
      const auto numbers = RunIsolated([&] { return Measure(settings, series.pattern); });
      if (!numbers.ok()) {
        progress.Note(fmt::format("{}: {}", series.name, MessageOf(numbers.status())));
        return 1;
      }
      series.ns.push_back((*numbers)[0]);
      series.faults.push_back((*numbers)[1]);
      series.waste.push_back((*numbers)[2]);
      series.p99.push_back((*numbers)[3]);
    }
  }
  progress.Finish();

  Json json;
  json.Open('{').Field("program", "micro_prefetch").Field("pinned", !settings.unpinned);
  Table floors({"floor, a page", "median", "parts added"});
  const auto floor_rows = [&](const char* what, double pages,
                              const std::vector<FloorCosts>& costs) {
    std::vector<double> fault, signal, copy;
    for (const FloorCosts& c : costs) {
      fault.push_back(c.fault_ns);
      signal.push_back(c.signal_ns);
      copy.push_back(c.copy_ns);
    }
    floors.Add({fmt::format("{}: fault, signal, copy, return", what),
                fmt::format("{:.0f} ns", Median(fault) / pages),
                fmt::format("{:.2f}", (Median(signal) + Median(copy)) / Median(fault))});
    floors.Add(
        {"  part: fault, signal, return", fmt::format("{:.0f} ns", Median(signal) / pages), ""});
    floors.Add({"  part: UFFDIO_COPY", fmt::format("{:.0f} ns", Median(copy) / pages), ""});
    json.Field(fmt::format("floor, {}, ns a page", what), Median(fault) / pages);
  };
  floor_rows("one page", 1, single);
  floor_rows("run of 16", kRun, runs);
  fmt::print("{}\n", floors.ToText());
  Table table({"pattern", "a page", "spread", "faults/page", "given up", "p99 fault", "ratio",
               "target", "verdict"});
  for (const Series& series : all) {
    const Series& against = all[series.against];
    const double ratio = Median(against.ns) / Median(series.ns);
    const bool judged = series.target != 0;
    table.Add({series.name, fmt::format("{:.0f} ns", Median(series.ns)),
               fmt::format("{:.0f} %", 100 * Spread(series.ns)),
               fmt::format("{:.3f}", Median(series.faults)),
               fmt::format("{:.0f}", Median(series.waste)), FormatNs(Median(series.p99)),
               fmt::format("{:.2f} x {}", ratio, against.name),
               judged ? fmt::format(">= {:.0f}", series.target) : "",
               judged ? (ratio >= series.target ? "met" : "MISSED") : ""});
    json.Key(series.name).Open('{').Field("ns a page", Median(series.ns));
    json.Field("ratio", ratio).Field("target", series.target).Close();
  }
  fmt::print("{}", table.ToText());
  json.Close();
  return SaveFigures(settings.json, json);
}

}  // namespace
}  // namespace spiritos::bench

int main(int argc, char** argv) { return spiritos::bench::Main(argc, argv); }
