// SPDX-License-Identifier: Apache-2.0
// rival_swap: far memory by libspiritos against Linux swapping to zram.
//
// The same programs over the same sets with the same local memory; every run is
// a fresh process; the two systems take turns, and the first turn alternates:
//
//   for each set, program, local share, variant:
//     zram with page-cluster 0 and 3 (once per set, program and share): keep
//     the faster
//     runs times: spiritos, zram | zram, spiritos | ...
//
// zram is a fresh device per run with LZ4 and twice the set's size, swapped to
// by a process in its own memory group; see rival_child.h for its limit. Huge
// pages are off for both. Block contents compress about two to one.
// Needs root, zram and a memory cgroup (v1 or v2); exits with 77 without them.
#include <fmt/core.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "bench/far_block.h"
#include "bench/harness.h"
#include "bench/kronecker.h"
#include "bench/rival_child.h"
#include "bench/rival_launch.h"
#include "bench/rival_report.h"
#include "bench/zram_swap.h"
#include "libos/base/status.h"

namespace spiritos::bench {
namespace {

constexpr const char* kPageCluster = "/proc/sys/vm/page-cluster";

struct Settings {
  std::vector<Bytes> sets;
  std::vector<uint64_t> local_percents;
  std::vector<Program> programs;
  std::vector<Variant> variants;
  int runs = 5;
  uint64_t budget_ms = 2000;
  uint64_t seed = 1;
  std::string page_cluster = "best";
  std::string json_file;
  LaunchOptions launch;
};

class RivalSwap {
 public:
  RivalSwap(const Settings& settings, ScopedSysctl page_cluster)
      : settings_(settings),
        launcher_(settings.launch),
        page_cluster_(std::move(page_cluster)),
        progress_(CountSteps(settings)) {}

  // Fills configurations() as far as it gets.
  absl::Status RunAll() {
    for (const Bytes size : settings_.sets) {
      for (const Program program : settings_.programs) {
        SPIRITOS_RETURN_IF_ERROR(RunProgram(size, program));
      }
    }
    progress_.Finish();
    return absl::OkStatus();
  }

  const std::vector<Configuration>& configurations() const { return configurations_; }

 private:
  static int CountSteps(const Settings& settings) {
    const size_t shares =
        settings.sets.size() * settings.programs.size() * settings.local_percents.size();
    const size_t runs = 2 * static_cast<size_t>(settings.runs) * settings.variants.size();
    return static_cast<int>(shares * (runs + (settings.page_cluster == "best" ? 2 : 0)));
  }

  absl::Status RunProgram(Bytes size, Program program) {
    UniqueFd graph;
    if (program == Program::kPageRank) {
      progress_.Note(fmt::format("making a graph for {}", FormatSize(size)));
      SPIRITOS_ASSIGN_OR_RETURN(graph, WriteGraph(ShapeForSize(size), settings_.seed));
    }
    for (const uint64_t percent : settings_.local_percents) {
      Configuration first;
      first.size = size;
      first.local_percent = percent;
      first.program = program;
      first.variant = settings_.variants.front();
      SPIRITOS_RETURN_IF_ERROR(ChoosePageCluster(first, graph.get()));
      for (const Variant variant : settings_.variants) {
        configurations_.push_back(first);
        configurations_.back().variant = variant;
        SPIRITOS_RETURN_IF_ERROR(Compare(configurations_.back(), graph.get()));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ChoosePageCluster(Configuration& at, int graph_fd) {
    at.page_cluster = settings_.page_cluster == "3" ? 3 : 0;
    if (settings_.page_cluster != "best") return absl::OkStatus();
    for (const uint64_t cluster : {0, 3}) {
      at.page_cluster = cluster;
      SPIRITOS_ASSIGN_OR_RETURN(const RunOutcome outcome, RunOne(at, System::kSwap, graph_fd));
      if (outcome.result.error.empty())
        at.calibration[cluster == 0 ? 0 : 1] = outcome.result.rate();
    }
    at.page_cluster = at.calibration[1] > at.calibration[0] ? 3 : 0;
    progress_.Note(fmt::format("{}: zram makes {}/s with page-cluster 0, {}/s with 3: using {}",
                               at.Name(), FormatRate(at.calibration[0]),
                               FormatRate(at.calibration[1]), at.page_cluster));
    return absl::OkStatus();
  }

  absl::Status Compare(Configuration& at, int graph_fd) {
    for (int run = 0; run < settings_.runs; ++run) {
      for (int turn = 0; turn < 2; ++turn) {
        const System system = (run + turn) % 2 == 0 ? System::kSpiritos : System::kSwap;
        SPIRITOS_ASSIGN_OR_RETURN(RunOutcome outcome, RunOne(at, system, graph_fd));
        if (!outcome.result.error.empty())
          progress_.Note(fmt::format("{}, {}: {}", at.Name(),
                                     kSystemNames[static_cast<size_t>(system)],
                                     outcome.result.error));
        at.runs[static_cast<size_t>(system)].push_back(std::move(outcome));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<RunOutcome> RunOne(const Configuration& at, System system, int graph_fd) {
    progress_.Step(fmt::format("{}, {}", at.Name(), kSystemNames[static_cast<size_t>(system)]));
    SPIRITOS_RETURN_IF_ERROR(page_cluster_.Set(at.page_cluster));
    RunSpec spec;
    spec.system = system;
    spec.program = at.program;
    spec.variant = at.variant;
    spec.size = at.size;
    spec.local = at.local();
    spec.seed = settings_.seed;
    spec.budget_ms = settings_.budget_ms;
    spec.graph_fd = graph_fd;
    return launcher_.Run(spec);
  }

  const Settings settings_;
  RivalLauncher launcher_;
  ScopedSysctl page_cluster_;
  Progress progress_;
  std::vector<Configuration> configurations_;
};

// What the command line says, as text; checked by Resolve().
struct Arguments {
  std::string sets = "512M,2G";
  std::string local = "50,25,10";
  std::string programs;
  std::string variant;
  bool quick = false;
};

absl::Status Resolve(Arguments arguments, bool runs_given, Settings& settings) {
  if (arguments.quick) {
    arguments.sets = "256M";
    arguments.local = "25";
    if (arguments.variant.empty()) arguments.variant = "pinned";
    if (!runs_given) settings.runs = 3;
  }
  for (const std::string& text : SplitList(arguments.sets)) {
    SPIRITOS_ASSIGN_OR_RETURN(const Bytes size, ParseSize(text));
    if (size < 16_MiB || size.raw() % kZoneSize != 0)
      return InvalidArgument("set {} is not a multiple of 4M from 16M on (--sets)", text);
    settings.sets.push_back(size);
  }
  for (const std::string& text : SplitList(arguments.local)) {
    const uint64_t percent = std::strtoull(text.c_str(), nullptr, 10);
    if (percent < 1 || percent > 100)
      return InvalidArgument("local share '{}' is not in 1..100 percent (--local)", text);
    settings.local_percents.push_back(percent);
  }
  for (const std::string& name : SplitList(arguments.programs)) {
    const auto program = ProgramFromName(name);
    if (!program || static_cast<int>(*program) >= kRivalProgramCount)
      return InvalidArgument("program '{}' is not known (--programs)", name);
    settings.programs.push_back(*program);
  }
  if (settings.programs.empty()) {
    for (int i = 0; i < kRivalProgramCount; ++i)
      settings.programs.push_back(static_cast<Program>(i));
  }
  for (size_t i = 0; i < kVariantNames.size(); ++i) {
    const bool all = arguments.variant.empty() || arguments.variant == "all";
    if (all || arguments.variant == kVariantNames[i])
      settings.variants.push_back(static_cast<Variant>(i));
  }
  if (UsableCpus().size() < 2) std::erase(settings.variants, Variant::kPinned);
  if (settings.sets.empty() || settings.local_percents.empty() || settings.variants.empty())
    return InvalidArgument("nothing is left to run");
  return absl::OkStatus();
}

int Skip(const absl::Status& status) {
  fmt::print(stderr, "rival_swap: skipped: {}\n", MessageOf(status));
  return kExitSkipped;
}

int Fail(const absl::Status& status) {
  fmt::print(stderr, "rival_swap: {}\n", MessageOf(status));
  return 1;
}

int RunDriver(const Settings& settings, const std::string& command_line) {
  if (const auto status = RivalLauncher::Probe(); !status.ok()) return Skip(status);
  auto page_cluster = ScopedSysctl::Create(kPageCluster);
  if (!page_cluster.ok()) return Skip(page_cluster.status());

  const MachineInfo machine = PrintMachine(stderr);
  if (const auto swaps = ReadTextFile("/proc/swaps");
      swaps.ok() && std::count(swaps->begin(), swaps->end(), '\n') > 1)
    fmt::print(stderr, "warning: other swap is active; zram's has priority over it\n");

  Tally tally;
  absl::Status status;
  {
    RivalSwap rival(settings, *std::move(page_cluster));
    status = rival.RunAll();
    fmt::print("{}", FormatReport(rival.configurations(), tally));
    PrintStolenShare(stdout);
    if (!settings.json_file.empty()) {
      const std::string json = ReportToJson(machine, command_line, rival.configurations());
      if (const auto saved = SaveTextFile(settings.json_file, json); !saved.ok())
        return Fail(saved);
    }
  }
  if (!status.ok()) return absl::IsCancelled(status) ? 130 : Fail(status);
  return tally.failed_runs == 0 ? 0 : 1;
}

int RunAsChild(const char* spec_text, const char* fd_text) {
  prctl(PR_SET_NAME, "rival_run");  // Not "exe", in the kernel's log of kills.
  const auto spec = RunSpec::Decode(spec_text);
  if (!spec.ok()) return Fail(spec.status());
  return RunChild(*spec, std::atoi(fd_text));
}

int Main(int argc, char** argv) {
  if (argc == 4 && std::strcmp(argv[1], kChildFlag) == 0) return RunAsChild(argv[2], argv[3]);

  Arguments arguments;
  Settings settings;
  CLI::App app("Compares far memory by libspiritos with Linux swap on zram (lz4).");
  app.add_option("--sets", arguments.sets, "sizes of the working sets")->capture_default_str();
  app.add_option("--local", arguments.local, "local memory, percent of the set")
      ->capture_default_str();
  app.add_option("--programs", arguments.programs,
                 "random_read, random_write, zipf_get, sequential_read, triad, quicksort, "
                 "pagerank; all by default");
  app.add_option("--variant", arguments.variant, "placement of threads; all by default")
      ->check(CLI::IsMember({"pinned", "unpinned", "onecore", "all"}));
  CLI::Option* runs = app.add_option("--runs", settings.runs, "runs of each system")
                          ->check(CLI::Range(1, 1000))
                          ->capture_default_str();
  app.add_flag("--quick", arguments.quick,
               "one set of 256M, 25 %, 3 runs, pinned unless told otherwise");
  app.add_option("--json", settings.json_file, "also write everything to this file");
  app.add_option("--time", settings.budget_ms, "milliseconds of a run without fixed work")
      ->check(CLI::Range(10, 600'000))
      ->capture_default_str();
  app.add_option("--seed", settings.seed, "of data and accesses")->capture_default_str();
  app.add_option("--page-cluster", settings.page_cluster,
                 "zram's read-ahead; best = try 0 and 3, keep the faster")
      ->check(CLI::IsMember({"best", "0", "3"}))
      ->capture_default_str();
  app.add_option("--algorithm", settings.launch.algorithm, "zram's compressor")
      ->capture_default_str();
  app.add_option("--swap-factor", settings.launch.swap_factor, "zram's disk size over the set's")
      ->check(CLI::Range(0.01, 100.0))
      ->capture_default_str();
  app.add_option("--timeout", settings.launch.timeout_s, "seconds that one run may take")
      ->check(CLI::Range(1, 86'400))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  if (const auto status = Resolve(arguments, runs->count() > 0, settings); !status.ok())
    return Fail(status);
  std::string command_line;
  for (int i = 0; i < argc; ++i) command_line += fmt::format("{}{}", i == 0 ? "" : " ", argv[i]);
  return RunDriver(settings, command_line);
}

}  // namespace
}  // namespace spiritos::bench

int main(int argc, char** argv) { return spiritos::bench::Main(argc, argv); }
