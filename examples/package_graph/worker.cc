// SPDX-License-Identifier: Apache-2.0
// The child's half of worker.h: two threads, the job's and the sampler's, which
// share the progress and the memory's counters.
#include "examples/package_graph/worker.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string_view>
#include <thread>
#include <utility>

#include "examples/package_graph/corpus.h"

namespace package_graph {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kSampleEvery = std::chrono::milliseconds(200);

// Takes near memory only: write(2) of an absent far page fails with EFAULT.
void WriteLine(const nlohmann::json& message) {
  std::string line = message.dump() + "\n";
  std::string_view rest = line;
  while (!rest.empty()) {
    ssize_t n = write(STDOUT_FILENO, rest.data(), rest.size());
    if (n < 0) _exit(1);  // The parent is gone.
    rest.remove_prefix(static_cast<size_t>(n));
  }
}

// Reads the space's counters in a thread of its own, while the job runs.
class Sampler {
 public:
  Sampler(JobMemory& memory, const Progress& progress)
      : memory_(memory),
        progress_(progress),
        thread_([this](const std::stop_token& stop) { Run(stop); }) {}

  uint64_t Stop() {
    thread_.request_stop();
    thread_.join();
    return peak_resident_;
  }

 private:
  void Run(const std::stop_token& stop) {
    const Clock::time_point start = Clock::now();
    std::mutex mutex;
    std::unique_lock lock(mutex);
    do {
      Sample sample{
          .seconds = std::chrono::duration<double>(Clock::now() - start).count(),
          .phase = progress_.phase(),
          .done = progress_.done(),
          .total = progress_.total(),
          .memory = memory_.Sample(),
      };
      peak_resident_ = std::max(peak_resident_, sample.memory.resident_bytes);
      WriteLine({{"sample", sample}});
    } while (!wake_.wait_for(lock, stop, kSampleEvery, [&stop] { return stop.stop_requested(); }));
  }

  JobMemory& memory_;
  const Progress& progress_;
  std::condition_variable_any wake_;
  uint64_t peak_resident_ = 0;
  std::jthread thread_;  // Last: it uses the others.
};

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Bytes that a job with this many copies holds at its peak.
absl::StatusOr<double> MeasureBytes(const WorkerOptions& options, unsigned copies) {
  std::unique_ptr<JobMemory> memory = MakeLocalMemory();
  Progress progress;
  auto corpus = BuildCorpus(options.job.lists, copies, memory->resource(), progress);
  if (!corpus.ok()) return corpus.status();
  size_t ranks = 2 * sizeof(double) * (*corpus)->catalog.size();  // PageRank's two vectors.
  return static_cast<double>(memory->counted().live_bytes() + ranks);
}

// How many copies make a working set of `size_bytes`. Builds one and measures; where
// lists are short, so that one says little, a sixteenth of what one promised.
absl::StatusOr<unsigned> CopiesFor(const WorkerOptions& options) {
  constexpr double kPart = 16;
  const auto size = static_cast<double>(options.size_bytes);
  absl::StatusOr<double> one = MeasureBytes(options, 1);
  if (!one.ok()) return one.status();
  double per_copy = *one;
  if (auto part = static_cast<unsigned>(size / *one / kPart); part > 1) {
    absl::StatusOr<double> bytes = MeasureBytes(options, part);
    if (!bytes.ok()) return bytes.status();
    per_copy = *bytes / part;
  }
  return std::max(1u, static_cast<unsigned>(std::ceil(size / per_copy)));
}

absl::StatusOr<Report> Run(WorkerOptions options) {
  if (options.job.copies == 0) {
    absl::StatusOr<unsigned> copies = CopiesFor(options);
    if (!copies.ok()) return copies.status();
    options.job.copies = *copies;
  }
  const double cpu_before = CpuSeconds();
  std::unique_ptr<JobMemory> memory;
  if (options.far) {
    auto far = MakeFarMemory({options.budget_bytes, options.heap_bytes, options.pool});
    if (!far.ok()) return far.status();
    memory = *std::move(far);
  } else {
    memory = MakeLocalMemory();
  }

  Report report;
  report.copies = options.job.copies;
  report.memory = memory->Describe();
  Progress progress;
  Sampler sampler(*memory, progress);
  JobHooks hooks;
  hooks.built = [&] {
    report.built = memory->Totals();
    memory->MarkBuilt();
  };
  hooks.finished = [&] {
    report.totals = memory->Totals();
    report.cpu_s = CpuSeconds() - cpu_before;
  };
  auto result = RunJob(options.job, memory->resource(), progress, hooks);
  report.peak_resident_bytes = sampler.Stop();
  if (!result.ok()) return result.status();
  report.job = *std::move(result);
  report.working_set_bytes = memory->counted().peak_bytes();
  return report;
}

}  // namespace

int RunWorker(const std::string& options_json) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  WorkerOptions options = nlohmann::json::parse(options_json).get<WorkerOptions>();
  absl::StatusOr<Report> report = Run(std::move(options));
  if (!report.ok()) {
    WriteLine({{"error", std::string(report.status().message())}});
    return 1;
  }
  WriteLine({{"report", *report}});
  return 0;
}

}  // namespace package_graph
