// SPDX-License-Identifier: Apache-2.0
// package_graph: a search engine for Debian packages whose data is far memory.
//
//   package_graph --demo           100, 50, 25 and 10 % local, a table and a plot
//   package_graph --local 0.25     one run with a quarter of the working set local
//
// The job reads the machine's own package lists, makes renamed copies until the
// working set has the size asked for, and then ranks all packages (PageRank over
// the dependencies), answers queries of two words and serves gets by name. It is
// written against std::pmr and runs twice: over an ordinary heap, and over a far
// heap with less local memory. Both must come to the same bits, or this fails.
//
// How it touches memory, and so what to expect from less of it:
//   build      appends, in order, to a few arrays and many short lists
//   pagerank   scans edges in order, again and again: about a seventh of the data
//   queries    scans of posting lists, then single reads of ranks and records
//   key-value  records anywhere, by Zipf's law: favourites, but no neighbours
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "examples/package_graph/live_view.h"
#include "examples/package_graph/packages_list.h"
#include "examples/package_graph/report.h"
#include "examples/package_graph/worker.h"

namespace package_graph {
namespace {

constexpr int kFailed = 1;
constexpr int kWrongResult = 2;

// Above the working set, when all of it is to be local: room for what the far
// heap's pages hold in vain and for the free frames that a space keeps.
constexpr uint64_t kHeadroomBytes = uint64_t{32} << 20;
constexpr uint64_t kHeadroomShare = 8;

// Address space of the far heap, in working sets: what is live, and holes between it. A
// pool of servers has to have room for all of it.
constexpr uint64_t kHeapFactor = 2;

struct Arguments {
  WorkerOptions worker;
  std::string lists;
  double local = 0.5;
  bool demo = false;
  bool reference = false;
  bool json = false;
  std::string plot = "build/demo/package_graph.png";
  std::string worker_json;
};

void Define(CLI::App& app, Arguments& arguments) {
  JobOptions& job = arguments.worker.job;
  arguments.worker.size_bytes = uint64_t{1} << 30;
  app.add_option("--size", arguments.worker.size_bytes,
                 "working set that the packages are copied up to, such as 512M or 4G (1G)")
      ->transform(CLI::AsSizeValue(false))
      ->option_text("SIZE");
  auto* local =
      app.add_option("--local", arguments.local, "part of the working set that may be local (0.5)");
  local->check(CLI::Range(0.01, 1.0))->option_text("FRACTION");
  app.add_flag("--demo", arguments.demo, "runs at 100, 50, 25 and 10 % local, and a plot")
      ->excludes(local);
  app.add_flag("--reference", arguments.reference, "only the run over an ordinary heap");
  app.add_option("--threads", job.threads, "threads of the phases after the build (1)")
      ->check(CLI::Range(1, 256))
      ->option_text("N");
  app.add_option("--pool", arguments.worker.pool,
                 "where pages go, as SPIRITOS_POOL says it (the library's default)");
  app.add_option("--iterations", job.iterations, "of PageRank")->capture_default_str();
  app.add_option("--queries", job.queries, "of two words")->capture_default_str();
  app.add_option("--gets", job.gets, "of records by name; every twentieth is an update")
      ->capture_default_str();
  app.add_option("--seed", job.seed, "of queries and gets")->capture_default_str();
  app.add_option("--lists", arguments.lists,
                 "directory with *Packages[.gz|.xz|.lz4|.zst] (apt's, else a small sample)");
  app.add_option("--plot", arguments.plot, "where --demo draws")->capture_default_str();
  app.add_flag("--json", arguments.json, "results as JSON on standard output, no table");
  app.add_option("--worker", arguments.worker_json)->group("");  // Hidden: see worker.h.
  app.footer(
      "Every run is a process of its own; the first one, over an ordinary heap, measures the\n"
      "working set and says what results are right. Exit code: 0, 1 when a run failed, 2 when\n"
      "far memory gave a wrong result.");
}

uint64_t BudgetFor(double fraction, uint64_t working_set) {
  if (fraction >= 1) return working_set + working_set / kHeadroomShare + kHeadroomBytes;
  return static_cast<uint64_t>(fraction * static_cast<double>(working_set));
}

absl::StatusOr<Report> RunOne(const std::string& label, const WorkerOptions& options) {
  LiveView view(label);
  return RunChild(options, [&view](const Sample& sample) { view.Show(sample); });
}

void PrintResults(const Arguments& arguments, const Results& results) {
  if (arguments.json) {
    fmt::print("{}\n", Json(results));
    return;
  }
  fmt::print("\nmost depended upon (rank, mean = 1):");
  for (const TopPackage& top : results.reference.job.top) {
    fmt::print(" {} ({:.0f})", top.name, top.rank);
  }
  fmt::print("\n");
  if (!results.runs.empty()) fmt::print("\n{}\n", results.runs.front().report.memory);
  fmt::print("{}", Table(results));
}

int Fail(const std::string& what) {
  fmt::print(stderr, "package_graph: {}\n", what);
  return kFailed;
}

int Run(Arguments arguments) {
  WorkerOptions& options = arguments.worker;
  auto lists = FindLists(arguments.lists);
  if (!lists.ok()) return Fail(std::string(lists.status().message()));
  options.job.lists = *std::move(lists);
  options.job.copies = 0;

  auto reference = RunOne("no limit", options);
  if (!reference.ok()) return Fail(std::string(reference.status().message()));
  Results results{.threads = options.job.threads, .reference = *std::move(reference), .runs = {}};
  if (results.reference.job.bad_records != 0) return Fail("the job itself is broken: bad records");

  std::vector<double> fractions = {arguments.local};
  if (arguments.demo) fractions = {1.0, 0.5, 0.25, 0.1};
  if (arguments.reference) fractions.clear();
  const uint64_t working_set = results.reference.working_set_bytes;
  for (double fraction : fractions) {
    options.job.copies = results.reference.copies;
    options.far = true;
    options.budget_bytes = BudgetFor(fraction, working_set);
    options.heap_bytes = kHeapFactor * working_set;
    std::string label = fmt::format("{:.4g} % local", 100 * fraction);
    auto report = RunOne(label, options);
    if (!report.ok()) return Fail(label + ": " + std::string(report.status().message()));
    std::string wrong = Differences(results.reference.job, report->job);
    if (!wrong.empty()) {
      fmt::print(stderr, "package_graph: WRONG RESULT at {}: {}\n", label, wrong);
      return kWrongResult;
    }
    results.runs.push_back({fraction, options.budget_bytes, *std::move(report)});
  }

  PrintResults(arguments, results);
  if (!arguments.json && !results.runs.empty()) {
    fmt::print("Every run came to the results of the ordinary heap.\n");
  }
  if (arguments.demo) {
    fmt::print(arguments.json ? stderr : stdout, "{}\n", Plot(results, arguments.plot));
  }
  return 0;
}

int Main(int argc, char** argv) {
  CLI::App app{"A search engine for Debian packages, in far memory.", "package_graph"};
  Arguments arguments;
  Define(app, arguments);
  CLI11_PARSE(app, argc, argv);
  if (!arguments.worker_json.empty()) return RunWorker(arguments.worker_json);
  return Run(std::move(arguments));
}

}  // namespace
}  // namespace package_graph

int main(int argc, char** argv) { return package_graph::Main(argc, argv); }
