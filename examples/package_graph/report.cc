// SPDX-License-Identifier: Apache-2.0
// The table and the plot are made from the same reports as the JSON.
#include "examples/package_graph/report.h"

#include <fmt/core.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cerrno>
#include <fstream>
#include <system_error>

extern char** environ;

namespace package_graph {
namespace {

constexpr const char* kRow =
    "{:>8}  {:>7}  {:>10}  {:>9}  {:>9}  {:>7}  {:>6}  {:>8}  {:>9}  {:>6}  {:>6}  {:>6}\n";

std::string Fixed(double value, int digits) { return fmt::format("{:.{}f}", value, digits); }

std::string Microseconds(uint64_t ns) {
  return ns == 0 ? "-" : Fixed(static_cast<double>(ns) / 1e3, 1);
}

std::string Row(const std::string& name, const Results& results, const Report& report, bool far) {
  const JobResult& job = report.job;
  const MemorySample& totals = report.totals;
  double moved = static_cast<double>(totals.fetched_bytes + totals.written_bytes);
  return fmt::format(
      fmt::runtime(kRow), name, Fixed(job.build_s, 1), Fixed(job.pagerank_s, 1),
      Fixed(job.queries_s, 1),
      fmt::format("{:.0f}k", static_cast<double>(job.kv_gets + job.kv_updates) / job.kv_s / 1e3),
      Fixed(job.total_s(), 1), Fixed(report.cpu_s, 1),
      Fixed(job.total_s() / results.reference.job.total_s(), 2),
      far ? std::to_string(totals.faults) : "-", Microseconds(totals.p50_ns),
      Microseconds(totals.p99_ns), far ? Fixed(moved / job.total_s() / 1e6, 0) : "-");
}

// Where nothing was fetched after the build, its few faults were first touches, which
// fill many pages at once: another thing, and left out of the plot.
std::string PlotMicroseconds(const Report& report, uint64_t ns) {
  if (report.totals.fetches == report.built.fetches) return "NaN";
  return Fixed(static_cast<double>(ns) / 1e3, 2);
}

std::string Percent(double fraction) { return fmt::format("{:.4g} %", 100 * fraction); }

// gnuplot 5 reads this. {0} data file, {1} PNG, {2} all-local seconds, {3} working set.
constexpr const char* kPlot =
    R"(# Run time and tail latency of package_graph against its local memory.
if (strstrt(GPVAL_TERMINALS, "pngcairo") > 0) {{
  set terminal pngcairo size 1000,900 font "sans,11"
}} else {{
  set terminal png size 1000,900
}}
set output "{1}"
set multiplot layout 2,1
set grid
set xrange [0:105]
set xtics 10
set lmargin 10
set key top right
set title "package\\_graph: working set {3}"
set ylabel "run time, s"
set yrange [0:*]
plot "{0}" using 1:2 with linespoints lw 2 pt 7 title "measured", \
     "{0}" using 1:3 with linespoints lw 2 dt 2 pt 6 title "ideal: all-local + fetches x median fault / threads", \
     {2} with lines dt 3 lw 2 lc rgb "gray40" title "all-local"
set title "time of a fault, phases after the build"
set xlabel "local memory, % of the working set"
set ylabel "us"
set logscale y
set yrange [1:*]
plot "{0}" using 1:4 with linespoints lw 2 pt 7 title "p99", \
     "{0}" using 1:5 with linespoints lw 2 pt 6 title "p50"
unset multiplot
)";

// The exit code, or -1 when there is no gnuplot.
int RunGnuplot(std::string program) {
  std::string name = "gnuplot";
  char* argv[] = {name.data(), program.data(), nullptr};
  pid_t pid = 0;
  if (posix_spawnp(&pid, argv[0], nullptr, nullptr, argv, environ) != 0) return -1;
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

std::string Bytes(uint64_t bytes) {
  return fmt::format("{:.0f} MiB", static_cast<double>(bytes) / (1 << 20));
}

}  // namespace

double IdealSeconds(const Results& results, const FarRun& run) {
  const MemorySample& totals = run.report.totals;
  double of_build = static_cast<double>(run.report.built.fetches);
  double later = static_cast<double>(totals.fetches) - of_build;
  double fetch_s = static_cast<double>(totals.p50_ns) / 1e9;
  return results.reference.job.total_s() + (of_build + later / results.threads) * fetch_s;
}

std::string Table(const Results& results) {
  const JobResult& job = results.reference.job;
  std::string text = fmt::format(
      "{} packages ({} copies), {} edges, {} words, {} postings; working set {}, {} thread{}\n\n",
      job.packages, results.reference.copies, job.edges, job.words, job.postings,
      Bytes(results.reference.working_set_bytes), results.threads, results.threads == 1 ? "" : "s");
  text += fmt::format(fmt::runtime(kRow), "local", "build s", "pagerank s", "queries s", "kv ops/s",
                      "total s", "cpu s", "slowdown", "faults", "p50 us", "p99 us", "MB/s");
  text += Row("no limit", results, results.reference, /*far=*/false);
  for (const FarRun& run : results.runs) {
    text += Row(Percent(run.local_fraction), results, run.report, /*far=*/true);
  }
  text +=
      "\nno limit: an ordinary heap. p50, p99: time of a fault after the build; where all is "
      "local,\n"
      "of first touches. MB/s: fetched and written. cpu s: all threads, those that evict "
      "included.\n";
  return text;
}

std::string Json(const Results& results) {
  nlohmann::json json;
  json["threads"] = results.threads;
  json["reference"] = results.reference;
  json["reference"]["total_s"] = results.reference.job.total_s();
  json["runs"] = nlohmann::json::array();
  for (const FarRun& run : results.runs) {
    nlohmann::json entry = run.report;
    entry["local_fraction"] = run.local_fraction;
    entry["budget_bytes"] = run.budget_bytes;
    entry["total_s"] = run.report.job.total_s();
    entry["ideal_s"] = IdealSeconds(results, run);
    entry["slowdown"] = run.report.job.total_s() / results.reference.job.total_s();
    json["runs"].push_back(std::move(entry));
  }
  return json.dump(2);
}

std::string Plot(const Results& results, const std::filesystem::path& png) {
  namespace fs = std::filesystem;
  fs::path data = fs::path(png).replace_extension(".dat");
  fs::path program = fs::path(png).replace_extension(".gp");
  std::error_code error;
  if (png.has_parent_path()) fs::create_directories(png.parent_path(), error);

  std::ofstream rows(data);
  rows << "# local%  total_s  ideal_s  p99_us  p50_us  faults  fetches\n";
  for (const FarRun& run : results.runs) {
    const MemorySample& totals = run.report.totals;
    rows << fmt::format("{} {:.3f} {:.3f} {} {} {} {}\n", 100 * run.local_fraction,
                        run.report.job.total_s(), IdealSeconds(results, run),
                        PlotMicroseconds(run.report, totals.p99_ns),
                        PlotMicroseconds(run.report, totals.p50_ns), totals.faults, totals.fetches);
  }
  rows.close();
  std::ofstream commands(program);
  commands << fmt::format(fmt::runtime(kPlot), data.string(), png.string(),
                          results.reference.job.total_s(),
                          Bytes(results.reference.working_set_bytes));
  commands.close();
  if (rows.fail() || commands.fail()) return "no plot: cannot write " + data.string();

  int code = RunGnuplot(program.string());
  if (code == 0) return "plot: " + png.string() + " (data: " + data.string() + ")";
  std::string why =
      code == -1 ? "gnuplot is not installed (apt-get install gnuplot-nox)" : "gnuplot failed";
  return "no plot, " + why + "; data: " + data.string() + ", program: " + program.string();
}

}  // namespace package_graph
