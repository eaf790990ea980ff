// SPDX-License-Identifier: Apache-2.0
// micro_fault_path: what a fault costs, against the floor that the kernel sets.
//
// Interleaved, each in a process of its own, medians over the runs:
//   floor          signal -> UFFDIO_COPY -> return, and its parts
//   free frames    every page is in the pool, the budget holds them all
//   random read    25 % local: the fault and the eviction that makes room
//   random write   the same with stores
//   two threads    random read by two, against what two compute loops gain
// Faulting threads are pinned to CPUs 0 (and 1), the evictor finds its own CPU;
// `--unpinned` leaves all to the scheduler.
#include <fmt/core.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <thread>

#include "bench/command_line.h"
#include "bench/far_block.h"
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
  uint64_t far_mib = 512;
  uint32_t runs = 5;
  uint64_t operations = 400'000;
  bool unpinned = false;
  std::string json;
};

struct Shape {
  double local = 0.25;
  uint32_t threads = 1;
  bool write = false;
  bool once = false;  // Every page once: as many faults as pages.
};

void Pin(const Settings& settings, int cpu) {
  if (settings.unpinned) return;
  const absl::Status status = PinThisThread({cpu});
  SPIRITOS_CHECK(status.ok(), "pinning: {}", status.ToString());
}

uint64_t NextRandom(uint64_t* state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

// {wall ns, faults, CPU ns, shootdowns, evicted pages, fault p50, p99, p999, guarded pages}
std::vector<double> MeasureSpace(const Settings& settings, const Shape& shape) {
  auto options =
      OptionsFromEnvironment({.budget = Bytes(static_cast<uint64_t>(
                                  static_cast<double>(settings.far_mib << 20) * shape.local))});
  auto space = options.ok() ? Space::Create(*options) : options.status();
  SPIRITOS_CHECK(space.ok(), "{}", space.status().ToString());
  const AddressRange region = (*space)->CreateRegion(Bytes(settings.far_mib << 20)).value();
  const uint64_t pages = region.size.raw() / kPageSize;
  const auto word = [&](uint64_t page) {
    return reinterpret_cast<volatile uint64_t*>(region.begin + page * kPageSize);
  };
  Pin(settings, 0);
  for (uint64_t page = 0; page < pages; ++page) {
    word(page)[0] = page + 1;
    word(page)[256] = page * 0x9E3779B97F4A7C15ull + 1;
  }
  if (shape.once) SPIRITOS_CHECK((*space)->Evict(region).ok(), "evicting everything");
  const uint64_t operations = shape.once ? pages : settings.operations;
  std::vector<uint32_t> order(shape.once ? pages : 0);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  const auto body = [&](uint32_t thread) {
    Pin(settings, static_cast<int>(thread));
    uint64_t state = 88172645463325252ull + thread * 7919;
    for (uint64_t i = 0; i < operations; ++i) {
      const uint64_t page = shape.once ? order[i] : NextRandom(&state) % pages;
      if (shape.write) {
        *word(page) = (i << 32) + page + 1;  // Another value every time.
      } else {
        SPIRITOS_CHECK(*word(page) == page + 1, "page {} holds {}", page, *word(page));
      }
    }
  };
  const auto run_threads = [&] {
    std::vector<std::thread> threads;
    for (uint32_t t = 1; t < shape.threads; ++t) threads.emplace_back(body, t);
    body(0);
    for (std::thread& thread : threads) thread.join();
  };
  if (!shape.once) run_threads();  // To the steady state.
  const Stats before = (*space)->GetStats();
  timespec cpu_begin;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu_begin);
  const uint64_t begin = NowNs();
  run_threads();
  const uint64_t wall = NowNs() - begin;
  timespec cpu_end;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu_end);
  const Stats after = (*space)->GetStats();
  for (uint64_t page = 0; page < pages; ++page) {
    SPIRITOS_CHECK(static_cast<uint32_t>(*word(page)) == page + 1 &&
                       word(page)[256] == page * 0x9E3779B97F4A7C15ull + 1,
                   "page {} holds {}", page, *word(page));
  }
  const Histogram faults = after.fault_ns.Since(before.fault_ns);
  const auto delta = [&](Metric metric) {
    return static_cast<double>(after[metric] - before[metric]);
  };
  return {static_cast<double>(wall),
          delta(Metric::kFaults),
          static_cast<double>(cpu_end.tv_sec - cpu_begin.tv_sec) * 1e9 +
              static_cast<double>(cpu_end.tv_nsec - cpu_begin.tv_nsec),
          delta(Metric::kShootdowns),
          delta(Metric::kEvictedPages),
          static_cast<double>(faults.Quantile(0.5)),
          static_cast<double>(faults.Quantile(0.99)),
          static_cast<double>(faults.Quantile(0.999)),
          delta(Metric::kGuardedPages)};
}

// Loops per second of `threads` threads that only compute.
double ComputeRate(const Settings& settings, uint32_t threads) {
  const auto body = [&](uint32_t thread) {
    Pin(settings, static_cast<int>(thread));
    uint64_t state = 1 + thread;
    for (int i = 0; i < 100'000'000; ++i) NextRandom(&state);
    volatile uint64_t sink = state;
    static_cast<void>(sink);
  };
  const uint64_t begin = NowNs();
  std::vector<std::thread> others;
  for (uint32_t t = 1; t < threads; ++t) others.emplace_back(body, t);
  body(0);
  for (std::thread& other : others) other.join();
  return threads * 1e9 / static_cast<double>(NowNs() - begin);
}

struct Series {
  std::vector<double> floor, signal, copy, load, floor_scaling;
  std::vector<double> free_frames, free_p50;
  std::vector<double> read, read_cpu, read_p99, read_p999, write;
  std::vector<double> one_rate, two_rate, one_compute, two_compute, two_p99;
  std::vector<double> shootdowns, guarded;
};

void Collect(const Settings& settings, Series* s) {
  Progress progress(static_cast<int>(settings.runs * 6));
  const auto run = [&](const char* what, const std::function<std::vector<double>()>& measure) {
    progress.Step(what);
    auto numbers = RunIsolated(measure);
    SPIRITOS_CHECK(numbers.ok(), "{}: {}", what, numbers.status().ToString());
    return *numbers;
  };
  for (uint32_t r = 0; r < settings.runs; ++r) {
    const auto floor = run("floor", [&]() -> std::vector<double> {
      Pin(settings, 0);
      const FloorCosts c =
          MeasureFloor(static_cast<uint32_t>(settings.far_mib * 256), 1, !settings.unpinned);
      return {c.fault_ns, c.signal_ns, c.copy_ns, c.load_ns, c.two_ns};
    });
    s->floor.push_back(floor[0]);
    s->signal.push_back(floor[1]);
    s->copy.push_back(floor[2]);
    s->load.push_back(floor[3]);
    s->floor_scaling.push_back(floor[0] / floor[4]);
    const auto once =
        run("free frames", [&] { return MeasureSpace(settings, {.local = 1.1, .once = true}); });
    s->free_frames.push_back(once[0] / once[1]);
    s->free_p50.push_back(once[5]);
    const auto read = run("random read", [&] { return MeasureSpace(settings, {}); });
    s->read.push_back(read[0] / read[1]);
    s->read_cpu.push_back(read[2] / read[1]);
    s->read_p99.push_back(read[6]);
    s->read_p999.push_back(read[7]);
    s->one_rate.push_back(1e9 * static_cast<double>(settings.operations) / read[0]);
    s->shootdowns.push_back(read[3] / read[4]);
    s->guarded.push_back(read[8] / read[1]);
    const auto write = run("random write", [&] { return MeasureSpace(settings, {.write = true}); });
    s->write.push_back(write[0] / write[1]);
    const auto two = run("two threads", [&] { return MeasureSpace(settings, {.threads = 2}); });
    s->two_rate.push_back(2e9 * static_cast<double>(settings.operations) / two[0]);
    s->two_p99.push_back(two[6]);
    const auto compute = run("compute loops", [&]() -> std::vector<double> {
      return {ComputeRate(settings, 1), ComputeRate(settings, 2)};
    });
    s->one_compute.push_back(compute[0]);
    s->two_compute.push_back(compute[1]);
  }
  progress.Finish();
}

int Main(int argc, char** argv) {
  Settings settings;
  CommandLine line("what a fault costs, against the kernel's floor");
  line.Add("--far", &settings.far_mib, "far memory, MiB");
  line.Add("--runs", &settings.runs, "interleaved runs");
  line.Add("--operations", &settings.operations, "accesses of a thread and run");
  line.Add("--unpinned", &settings.unpinned, "leave placement to the scheduler");
  line.Add("--json", &settings.json, "also write the figures to this file");
  if (const auto status = line.Parse(argc, argv)) return *status;
  PrintMachine(stdout);
  Series s;
  Collect(settings, &s);

  const double floor = Median(s.floor);
  const double parts = Median(s.signal) + Median(s.copy);
  const double scaling = Median(s.two_rate) / Median(s.one_rate);
  const double compute = Median(s.two_compute) / Median(s.one_compute);
  Table table({"what", "median", "spread", "ratio", "target", "verdict"});
  Json json;
  json.Open('{').Field("program", "micro_fault_path").Field("pinned", !settings.unpinned);
  const auto row = [&](const char* what, const std::vector<double>& values, const char* unit,
                       double ratio, double target, bool at_most) {
    const bool judged = target != 0;
    const bool met = at_most ? ratio <= target : ratio >= target;
    table.Add({what, fmt::format("{:.0f} {}", Median(values), unit),
               fmt::format("{:.0f} %", 100 * Spread(values)),
               ratio == 0 ? "" : fmt::format("{:.2f}", ratio),
               judged ? fmt::format("{} {:.2f}", at_most ? "<=" : ">=", target) : "",
               judged ? (met ? "met" : "MISSED") : ""});
    json.Key(what).Open('{').Field("median", Median(values)).Field("ratio", ratio);
    json.Field("target", target).Close();
  };
  row("floor: signal, copy, return", s.floor, "ns", 1, 0, true);
  row("  part: fault, signal, return", s.signal, "ns", 0, 0, true);
  row("  part: UFFDIO_COPY, random", s.copy, "ns", 0, 0, true);
  row("  parts added over floor", s.floor, "ns", parts / floor, 0, true);
  row("fault with free frames", s.free_frames, "ns", Median(s.free_frames) / floor, 1.2, true);
  row("  in the handler, p50", s.free_p50, "ns", 0, 0, true);
  row("random read, 25 % local", s.read, "ns", Median(s.read) / floor, 1.45, true);
  row("  CPU per fault, all threads", s.read_cpu, "ns", Median(s.read_cpu) / floor, 0, true);
  row("  p99 in the handler", s.read_p99, "ns", 0, 0, true);
  row("  p999 in the handler", s.read_p999, "ns", 0, 0, true);
  row("random write, 25 % local", s.write, "ns", Median(s.write) / floor, 1.7, true);
  row("random reads/s, one thread", s.one_rate, "/s", 0, 0, false);
  row("random reads/s, two threads", s.two_rate, "/s", scaling / compute, 0.85, false);
  row("  p99 in the handler", s.two_p99, "ns", 0, 0, true);
  fmt::print("{}", table.ToText());
  fmt::print("two threads: {:.2f}x one; two compute loops: {:.2f}x one; the floor alone: {:.2f}x\n",
             scaling, compute, Median(s.floor_scaling));
  fmt::print("shootdowns per evicted page: {:.4f} (random read); {:.0f} % of faults fill guarded\n",
             Median(s.shootdowns), 100 * Median(s.guarded));
  json.Field("floor, two threads over one", Median(s.floor_scaling));
  json.Close();
  return SaveFigures(settings.json, json);
}

}  // namespace
}  // namespace spiritos::bench

int main(int argc, char** argv) { return spiritos::bench::Main(argc, argv); }
