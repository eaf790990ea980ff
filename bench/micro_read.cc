// SPDX-License-Identifier: Apache-2.0
// micro_read: what read(2) into memory that is away costs, beside touching it.
//
// 1 MiB of a region whose pages are in an embedded pool, in handler-thread mode, each time:
//   present   read(2) from a file in memory into pages that are here: copying alone
//   touched   a store into each page, by the program: its faults are in user mode
//   read      read(2) into the pages: the kernel faults, in the middle of copying
// Medians over the rounds of a run, in turns; then over the runs.
#include <fmt/core.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "bench/command_line.h"
#include "bench/harness.h"
#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "libos/base/fd.h"
#include "libos/fault/probe.h"
#include "libos/space.h"

namespace spiritos::bench {
namespace {

constexpr size_t kSize = size_t{1} << 20;
constexpr size_t kBuffers = 64;  // Of kSize, in turns: each is away when its turn comes.
constexpr double kMost = 2;      // Read over touched.

enum Case : size_t { kPresent, kTouched, kRead, kCases };
constexpr std::array<const char*, kCases> kNames = {
    "read into present pages", "stores into absent pages", "read into absent pages"};

class Rig {
 public:
  Rig() : file_(memfd_create("content", MFD_CLOEXEC)) {
    Options options{.budget = Bytes(2 * kBuffers * kSize)};
    options.fault.mode = FaultMode::kThread;
    auto made = Space::Create(options);
    SPIRITOS_CHECK(made.ok(), "{}", MessageOf(made.status()));
    space_ = *std::move(made);
    region_ = space_->CreateRegion(Bytes(kBuffers * kSize)).value();
    const std::vector<char> content(kSize, 'c');
    SPIRITOS_CHECK(write(file_.get(), content.data(), kSize) == kSize, "write: errno {}", errno);
    for (size_t at = 0; at < kBuffers * kSize; at += kPageSize)
      region_.begin[at] = std::byte(at >> 12 | 1);
  }

  double Measure(Case which) {
    const AddressRange buffer{region_.begin + next_++ % kBuffers * kSize, Bytes(kSize)};
    if (which != kPresent) {
      const absl::Status status = space_->Evict(buffer);
      SPIRITOS_CHECK(status.ok(), "{}", MessageOf(status));
    }
    const uint64_t begin = NowNs();
    if (which == kTouched) {
      for (size_t at = 0; at < kSize; at += kPageSize) {
        *reinterpret_cast<volatile std::byte*>(buffer.begin + at) = std::byte{7};
      }
    } else {
      SPIRITOS_CHECK(pread(file_.get(), buffer.begin, kSize, 0) == kSize, "pread: errno {}", errno);
    }
    return static_cast<double>(NowNs() - begin);
  }

 private:
  UniqueFd file_;
  std::unique_ptr<Space> space_;
  AddressRange region_;
  size_t next_ = 0;
};

int Main(int argc, char** argv) {
  uint32_t runs = 7;
  uint32_t rounds = 64;
  std::string json_path;
  CommandLine line("what read(2) into memory that is away costs");
  line.Add("--runs", &runs, "runs");
  line.Add("--rounds", &rounds, "buffers of 1 MiB to a run and case");
  line.Add("--json", &json_path, "also write the figures to this file");
  if (const auto status = line.Parse(argc, argv)) return *status;
  PrintMachine(stdout);
  if (const absl::Status status = ProbeKernel().thread_mode; !status.ok()) {
    fmt::print("cannot run here: {}\n", MessageOf(status));
    return kExitSkipped;
  }
  std::array<std::vector<double>, kCases> values;
  std::vector<double> ratios;
  Rig rig;
  Progress progress(static_cast<int>(runs));
  for (uint32_t run = 0; run < runs; ++run) {
    progress.Step("a run");
    std::array<std::vector<double>, kCases> times;
    for (uint32_t round = 0; round < rounds; ++round) {
      for (size_t which = 0; which < kCases; ++which) {
        times[which].push_back(rig.Measure(static_cast<Case>(which)));
      }
    }
    for (size_t which = 0; which < kCases; ++which) values[which].push_back(Median(times[which]));
    ratios.push_back(values[kRead].back() / values[kTouched].back());
  }
  progress.Finish();
  Table table({"1 MiB", "ns/page", "spread"});
  Json json;
  json.Open('{').Field("program", "micro_read");
  for (size_t which = 0; which < kCases; ++which) {
    const double per_page = Median(values[which]) / (kSize / kPageSize);
    table.Add({kNames[which], fmt::format("{:.0f}", per_page),
               fmt::format("{:.0f} %", 100 * Spread(values[which]))});
    json.Field(kNames[which], per_page);
  }
  const double ratio = Median(ratios);
  json.Field("read over touched", ratio).Close();
  fmt::print("{}\nread over stores, into absent pages: {:.2f} (at most {:.0f}: {})\n",
             table.ToText(), ratio, kMost, ratio <= kMost ? "met" : "MISSED");
  return SaveFigures(json_path, json);
}

}  // namespace
}  // namespace spiritos::bench

int main(int argc, char** argv) { return spiritos::bench::Main(argc, argv); }
