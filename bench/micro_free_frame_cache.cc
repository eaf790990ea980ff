// SPDX-License-Identifier: Apache-2.0
// micro_free_frame_cache: what taking and giving back a free frame costs.
//
// Interleaved, medians over the runs, per pair of one frame taken and one given:
//   floor     which core am I + one compare-and-swap + one addition, on a line of
//             the core's own: the least that a per-core cache can do
//   cached    FreeFrameCache, the frame comes from and goes to the magazine
//   drained   frames come back through the pool in batches, as sweeps return
//             them, so that one pair in tens takes the pool's lock
// by one thread and by two at a time, pinned to CPUs 0 and 1.
#include <fmt/core.h>

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "bench/command_line.h"
#include "bench/harness.h"
#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "libos/base/core.h"
#include "libos/mem/free_frame_cache.h"

namespace spiritos::bench {
namespace {

constexpr int64_t kSweepFrames = 256;  // What a sweep gives back at a time.

struct alignas(kCacheLine) Cell {
  std::atomic<int64_t> frames{1};
};

void Pin(uint32_t cpu) {
  const absl::Status status = PinThisThread({static_cast<int>(cpu)});
  SPIRITOS_CHECK(status.ok(), "pinning: {}", MessageOf(status));
}

// Nanoseconds of one of `pairs` calls of body(), by `threads` threads at once.
double NsPerPair(uint32_t threads, uint64_t pairs, const std::function<void(uint64_t)>& body) {
  std::atomic<uint32_t> waiting{threads};
  std::vector<uint64_t> took(threads);
  const auto run = [&](uint32_t thread) {
    Pin(thread);
    waiting.fetch_sub(1);
    while (waiting.load() != 0) CpuRelax();
    const uint64_t begin = NowNs();
    body(pairs);
    took[thread] = NowNs() - begin;
  };
  std::vector<std::thread> others;
  for (uint32_t t = 1; t < threads; ++t) others.emplace_back(run, t);
  run(0);
  for (std::thread& other : others) other.join();
  uint64_t longest = 0;
  for (const uint64_t ns : took) longest = std::max(longest, ns);
  return static_cast<double>(longest) / static_cast<double>(pairs);
}

void TakeFrame(FreeFrameCache& cache) {
  bool refilled;
  SPIRITOS_CHECK(cache.TryTake(&refilled), "a pool that is never empty gave nothing");
}

struct Costs {
  std::vector<double> core, swap, add, floor, cached, drained;
};

void Measure(uint32_t threads, uint64_t pairs, Costs* costs) {
  static std::array<Cell, kMaxCores> cells;
  costs->core.push_back(NsPerPair(threads, pairs, [](uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) {
      const volatile uint32_t core = CurrentCore();
      static_cast<void>(core);
    }
  }));
  const auto swap = [](std::atomic<int64_t>& frames) {
    int64_t n = frames.load(std::memory_order_relaxed);
    frames.compare_exchange_weak(n, n - 1, std::memory_order_relaxed);
  };
  costs->swap.push_back(NsPerPair(threads, pairs, [&](uint64_t n) {
    std::atomic<int64_t>& frames = cells[CurrentCore()].frames;
    for (uint64_t i = 0; i < n; ++i) swap(frames);
  }));
  costs->add.push_back(NsPerPair(threads, pairs, [](uint64_t n) {
    std::atomic<int64_t>& frames = cells[CurrentCore()].frames;
    for (uint64_t i = 0; i < n; ++i) frames.fetch_add(1, std::memory_order_relaxed);
  }));
  costs->floor.push_back(NsPerPair(threads, pairs, [&](uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) {
      swap(cells[CurrentCore()].frames);
      cells[CurrentCore()].frames.fetch_add(1, std::memory_order_relaxed);
    }
  }));
  FreeFramePool pool(PageCount(1 << 20));
  FreeFrameCache cache(pool);
  costs->cached.push_back(NsPerPair(threads, pairs, [&](uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) {
      TakeFrame(cache);
      cache.Give(1);
    }
  }));
  costs->drained.push_back(NsPerPair(threads, pairs, [&](uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) {
      TakeFrame(cache);
      if (i % kSweepFrames == kSweepFrames - 1) pool.Give(kSweepFrames);
    }
  }));
}

int Main(int argc, char** argv) {
  uint32_t runs = 7;
  uint64_t pairs = 5'000'000;
  std::string json_path;
  CommandLine line("what a free frame costs to take and give back");
  line.Add("--runs", &runs, "interleaved runs");
  line.Add("--pairs", &pairs, "frames taken and given, a run and thread");
  line.Add("--json", &json_path, "also write the figures to this file");
  if (const auto status = line.Parse(argc, argv)) return *status;
  PrintMachine(stdout);
  const uint32_t most = std::min<uint32_t>(2, static_cast<uint32_t>(UsableCpus().size()));
  std::vector<Costs> costs(most + 1);
  Progress progress(static_cast<int>(runs * most));
  for (uint32_t run = 0; run < runs; ++run) {
    for (uint32_t threads = 1; threads <= most; ++threads) {
      progress.Step(fmt::format("{} threads", threads));
      Measure(threads, pairs, &costs[threads]);
    }
  }
  progress.Finish();
  Table table({"threads", "what", "median", "spread", "over floor"});
  Json json;
  json.Open('{').Field("program", "micro_free_frame_cache");
  for (uint32_t threads = 1; threads <= most; ++threads) {
    const Costs& c = costs[threads];
    const double floor = Median(c.floor);
    const auto row = [&](const char* what, const std::vector<double>& ns) {
      table.Add({fmt::format("{}", threads), what, fmt::format("{:.1f} ns", Median(ns)),
                 fmt::format("{:.0f} %", 100 * Spread(ns)),
                 fmt::format("{:.2f}", Median(ns) / floor)});
      json.Field(fmt::format("{}, {} threads, ns", what, threads), Median(ns));
    };
    row("floor: twice the core, one swap, one addition", c.floor);
    row("  part: the core, once", c.core);
    row("  part: swap", c.swap);
    row("  part: addition", c.add);
    const double parts = 2 * Median(c.core) + Median(c.swap) + Median(c.add);
    table.Add({"", "  parts added", fmt::format("{:.1f} ns", parts), "",
               fmt::format("{:.2f}", parts / floor)});
    row("cached", c.cached);
    row("drained by batches", c.drained);
  }
  json.Close();
  fmt::print("{}", table.ToText());
  return SaveFigures(json_path, json);
}

}  // namespace
}  // namespace spiritos::bench

int main(int argc, char** argv) { return spiritos::bench::Main(argc, argv); }
