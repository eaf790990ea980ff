// SPDX-License-Identifier: Apache-2.0
// micro_distance: how near the emulated distance to a pool comes to what was asked for.
//
// Medians over the runs, against an embedded pool behind the distance:
//   latency     a page read at 5 us to 1 ms, one at a time
//   bandwidth   16-page messages, 64 of them in flight, at 0.1 and 1 GB/s, on the lane of
//               demand reads and on that of write-backs
#include <fmt/core.h>

#include <array>
#include <cmath>
#include <functional>
#include <utility>
#include <vector>

#include "bench/command_line.h"
#include "bench/harness.h"
#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "libos/base/mapping.h"
#include "libos/remote/embedded_backend.h"
#include "libos/remote/shaped_backend.h"

namespace spiritos::bench {
namespace {

constexpr double kNear = 0.05;  // Of what was asked for.

struct Pool {
  explicit Pool(ShapedBackend::Distance distance) {
    auto inner = EmbeddedBackend::Create(Bytes(kSlabSize));
    SPIRITOS_CHECK(inner.ok(), "{}", MessageOf(inner.status()));
    auto made = ShapedBackend::Create(*std::move(inner), distance);
    SPIRITOS_CHECK(made.ok(), "{}", MessageOf(made.status()));
    shaped = *std::move(made);
    SPIRITOS_CHECK(shaped->PlaceSlab(&slab) == IoResult::kOk, "no slab");
  }
  void Submit(IoRequest& request, IoOp op, Lane lane, SlotId first, uint32_t pages,
              std::byte* memory) {
    request.op = op;
    request.lane = lane;
    request.first = first;
    request.pages = pages;
    request.memory = memory;
    while (shaped->Submit(request) == IoResult::kBusy) shaped->Poll(lane);
  }

  std::unique_ptr<ShapedBackend> shaped;
  SlotId slab;
};

Mapping Memory(uint32_t pages) {
  auto memory = Mapping::Anonymous(Bytes(size_t{pages} << kPageShift), kPageSize, "benchmark");
  SPIRITOS_CHECK(memory.ok(), "{}", MessageOf(memory.status()));
  return *std::move(memory);
}

// Nanoseconds, the median of some 0.1 s of reads.
double Latency(uint64_t asked_ns) {
  Pool pool({.latency_ns = asked_ns});
  const Mapping page = Memory(1);
  std::vector<double> times;
  for (uint64_t i = 0; i < 100'000'000 / asked_ns; ++i) {
    const uint64_t begin = NowNs();
    IoRequest request;
    pool.Submit(request, IoOp::kRead, Lane::kDemand, pool.slab, 1, page.data());
    pool.shaped->Wait(request);
    times.push_back(static_cast<double>(NowNs() - begin));
  }
  return Median(times);
}

// Bytes per second, over 0.1 s.
double Bandwidth(uint64_t cap, Lane lane) {
  constexpr uint32_t kDepth = 64;
  constexpr uint32_t kRun = 16;
  Pool pool({.latency_ns = 10'000, .bytes_per_second = cap});
  const Mapping pages = Memory(kDepth * kRun);
  std::array<IoRequest, kDepth> requests;
  const uint64_t rounds = cap / 10 / (kRun * kPageSize);
  const uint64_t begin = NowNs();
  for (uint64_t i = 0; i < rounds + kDepth; ++i) {
    IoRequest& request = requests[i % kDepth];
    if (i >= kDepth) pool.shaped->Wait(request);
    if (i >= rounds) continue;
    pool.Submit(request, i % 2 == 0 ? IoOp::kRead : IoOp::kWrite, lane,
                pool.slab + PageCount(kRun * static_cast<int64_t>(i % kDepth)), kRun,
                pages.data() + i % kDepth * kRun * kPageSize);
  }
  return static_cast<double>(rounds * kRun * kPageSize) * 1e9 /
         static_cast<double>(NowNs() - begin);
}

struct Row {
  std::string name;
  double asked;
  const char* unit;
  double per_unit;
  std::function<double()> measure;
  std::vector<double> values{};
};

std::vector<Row> Rows() {
  std::vector<Row> rows;
  for (const uint64_t us : {5, 20, 100, 1000}) {
    rows.push_back({fmt::format("latency of {} us", us), static_cast<double>(us * 1000), "us", 1e3,
                    [us] { return Latency(us * 1000); }});
  }
  for (const uint64_t cap : {100'000'000, 1'000'000'000}) {
    for (const auto& [lane, name] :
         {std::pair{Lane::kDemand, "demand"}, {Lane::kWriteBack, "write-back"}}) {
      rows.push_back({fmt::format("{} MB/s, {} lane", cap / 1'000'000, name),
                      static_cast<double>(cap), "MB/s", 1e6, [=] { return Bandwidth(cap, lane); }});
    }
  }
  return rows;
}

int Main(int argc, char** argv) {
  uint32_t runs = 7;
  std::string json_path;
  CommandLine line("how near the emulated distance comes to what was asked for");
  line.Add("--runs", &runs, "interleaved runs");
  line.Add("--json", &json_path, "also write the figures to this file");
  if (const auto status = line.Parse(argc, argv)) return *status;
  PrintMachine(stdout);
  std::vector<Row> rows = Rows();
  Progress progress(static_cast<int>(runs * rows.size()));
  for (uint32_t run = 0; run < runs; ++run) {
    for (Row& row : rows) {
      progress.Step(row.name);
      row.values.push_back(row.measure());
    }
  }
  progress.Finish();
  Table table({"emulated", "reached", "spread", "off by", "verdict"});
  Json json;
  json.Open('{').Field("program", "micro_distance");
  for (const Row& row : rows) {
    const double reached = Median(row.values);
    const double off = reached / row.asked - 1;
    table.Add({row.name, fmt::format("{:.2f} {}", reached / row.per_unit, row.unit),
               fmt::format("{:.0f} %", 100 * Spread(row.values)),
               fmt::format("{:+.1f} %", 100 * off),
               std::abs(off) <= kNear ? "within 5 %" : "MISSED"});
    json.Field(row.name, reached);
  }
  json.Close();
  fmt::print("{}", table.ToText());
  return SaveFigures(json_path, json);
}

}  // namespace
}  // namespace spiritos::bench

int main(int argc, char** argv) { return spiritos::bench::Main(argc, argv); }
