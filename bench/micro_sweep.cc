// SPDX-License-Identifier: Apache-2.0
// micro_sweep: what evicting a page costs, stage by stage, and how many
// shootdowns it takes by the runtime's count and by the kernel's.
//
// A zone of 1024 pages with a quarter of them resident at random places is sent
// away, many times over, while a thread of the process spins on the other CPU (so
// that every shootdown has somebody to interrupt). Interleaved, medians:
//   floor     the kernel's calls and nothing else: UFFDIO_WRITEPROTECT over the
//             zone, memcpy of its resident pages, MADV_DONTNEED over the zone
//   dirty     Space::Evict of pages that were written: frozen, hashed, copied
//   clean     of pages that were only read since they came: no write
// a budget that goes from 100 % to 25 % and back while two threads write, with
// every page verified afterwards;
// and the whole of a steady state: random reads at 25 % local, with the kernel's
// own count of shootdown interrupts (/proc/interrupts, TLB) beside the runtime's.
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <numeric>
#include <random>
#include <sstream>
#include <thread>
#include <vector>

#include "bench/command_line.h"
#include "bench/harness.h"
#include "bench/isolated.h"
#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "libos/base/core.h"
#include "libos/options_env.h"
#include "libos/space.h"

namespace spiritos::bench {
namespace {

struct Settings {
  uint32_t runs = 5;
  uint32_t zones = 64;     // Swept once each, a run.
  uint32_t resident = 25;  // Percent of a zone.
  uint64_t steady_mib = 512;
  uint64_t steady_reads = 400'000;
  std::string json;
};

void Pin(int cpu) {
  const absl::Status status = PinThisThread({cpu});
  SPIRITOS_CHECK(status.ok(), "pinning: {}", MessageOf(status));
}

// Keeps a CPU in user mode on this process's page tables, for its lifetime.
class Spinner {
 public:
  explicit Spinner(int cpu)
      : thread_([this, cpu] {
          Pin(cpu);
          while (!stop_.load(std::memory_order_relaxed)) CpuRelax();
        }) {}
  ~Spinner() {
    stop_ = true;
    thread_.join();
  }
  Spinner(const Spinner&) = delete;
  Spinner& operator=(const Spinner&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

// TLB shootdowns received so far by all CPUs: the TLB line of /proc/interrupts.
uint64_t KernelShootdowns() {
  std::ifstream interrupts("/proc/interrupts");
  for (std::string line; std::getline(interrupts, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    if (name != "TLB:") continue;
    uint64_t sum = 0;
    for (uint64_t count = 0; words >> count;) sum += count;
    return sum;
  }
  return 0;
}

std::vector<uint32_t> ResidentPages(const Settings& settings, uint64_t seed) {
  std::vector<uint32_t> pages(kZonePages);
  std::iota(pages.begin(), pages.end(), 0u);
  std::shuffle(pages.begin(), pages.end(), std::mt19937_64(seed));
  pages.resize(kZonePages * settings.resident / 100);
  std::sort(pages.begin(), pages.end());
  return pages;
}

// {freeze, copy, drop, all three in a row}, ns a page.
std::vector<double> MeasureFloor(const Settings& settings) {
  Pin(0);
  const Spinner spinner(1);
  const int uffd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* user mode only */));
  uffdio_api api{.api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP, .ioctls = 0};
  SPIRITOS_CHECK(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0, "userfaultfd: errno {}", errno);
  const size_t bytes = size_t{settings.zones} * kZoneSize;
  const auto map = [](size_t size) {
    void* const at = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    SPIRITOS_CHECK(at != MAP_FAILED, "mmap of {} bytes", size);
    return static_cast<std::byte*>(at);
  };
  std::byte* const far = map(bytes);
  std::byte* const pool = map(bytes);
  madvise(far, bytes, MADV_NOHUGEPAGE);
  std::memset(pool, 1, bytes);
  std::byte* const source = map(kPageSize);
  source[0] = std::byte{1};
  uffdio_register request{.range = {.start = reinterpret_cast<uintptr_t>(far), .len = bytes},
                          .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
                          .ioctls = 0};
  SPIRITOS_CHECK(ioctl(uffd, UFFDIO_REGISTER, &request) == 0, "UFFDIO_REGISTER: errno {}", errno);
  const auto populate = [&](uint32_t zone) {
    for (const uint32_t page : ResidentPages(settings, zone)) {
      uffdio_copy copy{.dst = reinterpret_cast<uintptr_t>(far) + size_t{zone} * kZoneSize +
                              size_t{page} * kPageSize,
                       .src = reinterpret_cast<uintptr_t>(source),
                       .len = kPageSize,
                       .mode = 0,
                       .copy = 0};
      SPIRITOS_CHECK(ioctl(uffd, UFFDIO_COPY, &copy) == 0, "UFFDIO_COPY: errno {}", errno);
    }
  };
  uint64_t freeze_ns = 0;
  uint64_t copy_ns = 0;
  uint64_t drop_ns = 0;
  uint64_t whole_ns = 0;
  for (const bool parts : {true, false}) {
    for (uint32_t zone = 0; zone < settings.zones; ++zone) {
      populate(zone);
      const auto pages = ResidentPages(settings, zone);
      std::byte* const begin = far + size_t{zone} * kZoneSize;
      const uint64_t t0 = NowNs();
      uffdio_writeprotect protect{
          .range = {.start = reinterpret_cast<uintptr_t>(begin), .len = kZoneSize},
          .mode = UFFDIO_WRITEPROTECT_MODE_WP};
      SPIRITOS_CHECK(ioctl(uffd, UFFDIO_WRITEPROTECT, &protect) == 0, "freeze: errno {}", errno);
      const uint64_t t1 = parts ? NowNs() : t0;
      for (const uint32_t page : pages) {
        std::memcpy(pool + size_t{zone} * kZoneSize + size_t{page} * kPageSize,
                    begin + size_t{page} * kPageSize, kPageSize);
      }
      const uint64_t t2 = parts ? NowNs() : t0;
      madvise(begin, kZoneSize, MADV_DONTNEED);
      const uint64_t t3 = NowNs();
      if (parts) {
        freeze_ns += t1 - t0;
        copy_ns += t2 - t1;
        drop_ns += t3 - t2;
      } else {
        whole_ns += t3 - t0;
      }
    }
  }
  const auto per_page = [&](uint64_t ns) {
    return static_cast<double>(ns) / settings.zones / (kZonePages * settings.resident / 100);
  };
  return {per_page(freeze_ns), per_page(copy_ns), per_page(drop_ns), per_page(whole_ns)};
}

// {dirty ns a page, clean ns a page, shootdowns a page, written of clean ones}
std::vector<double> MeasureSweeps(const Settings& settings) {
  auto options = OptionsFromEnvironment({.budget = Bytes(uint64_t{settings.zones} * kZoneSize)});
  auto space = options.ok() ? Space::Create(*options) : options.status();
  SPIRITOS_CHECK(space.ok(), "{}", MessageOf(space.status()));
  const AddressRange region =
      (*space)->CreateRegion(Bytes(uint64_t{settings.zones} * kZoneSize)).value();
  Pin(0);
  const Spinner spinner(1);
  std::vector<double> figures;
  uint64_t written = 0;
  enum { kWarmUp, kDirty, kClean };  // The first sweep also meets the pool's slots first.
  for (const int pass : {kWarmUp, kDirty, kClean}) {
    uint64_t ns = 0;
    const Stats before = (*space)->GetStats();
    for (uint32_t zone = 0; zone < settings.zones; ++zone) {
      std::byte* const begin = region.begin + size_t{zone} * kZoneSize;
      for (const uint32_t page : ResidentPages(settings, zone)) {
        auto* word = reinterpret_cast<volatile uint64_t*>(begin + size_t{page} * kPageSize);
        const uint64_t mark = page + (pass == kWarmUp ? 2 : 1);
        if (pass != kClean) *word = mark;
        SPIRITOS_CHECK(*word == mark, "page {} holds {}", page, *word);
      }
      const uint64_t t0 = NowNs();
      SPIRITOS_CHECK((*space)->Evict({begin, Bytes(kZoneSize)}).ok(), "evicting a zone");
      ns += NowNs() - t0;
    }
    const Stats after = (*space)->GetStats();
    const auto evicted =
        static_cast<double>(after[Metric::kEvictedPages] - before[Metric::kEvictedPages]);
    if (pass == kWarmUp) continue;
    figures.push_back(static_cast<double>(ns) / evicted);
    if (pass == kDirty) {
      figures.push_back(
          static_cast<double>(after[Metric::kShootdowns] - before[Metric::kShootdowns]) / evicted);
    }
    written = after[Metric::kWrittenPages] - before[Metric::kWrittenPages];
  }
  figures.push_back(static_cast<double>(written));
  return figures;
}

// Random reads at 25 % local by a thread on CPU 0, evictors and a spinner on CPU 1:
// {evicted pages, runtime's shootdowns, kernel's, kernel's in as long without}
std::vector<double> MeasureSteady(const Settings& settings) {
  auto options = OptionsFromEnvironment({.budget = Bytes(settings.steady_mib << 18)});
  auto space = options.ok() ? Space::Create(*options) : options.status();
  SPIRITOS_CHECK(space.ok(), "{}", MessageOf(space.status()));
  const AddressRange region = (*space)->CreateRegion(Bytes(settings.steady_mib << 20)).value();
  const uint64_t pages = region.size.raw() / kPageSize;
  for (uint64_t page = 0; page < pages; ++page) {
    *reinterpret_cast<volatile uint64_t*>(region.begin + page * kPageSize) = page + 1;
  }
  Pin(0);
  const Spinner spinner(1);
  std::minstd_rand random(7);
  const Stats before = (*space)->GetStats();
  const uint64_t kernel_before = KernelShootdowns();
  const uint64_t begin = NowNs();
  for (uint64_t i = 0; i < settings.steady_reads; ++i) {
    const uint64_t page = random() % pages;
    const uint64_t found = *reinterpret_cast<volatile uint64_t*>(region.begin + page * kPageSize);
    SPIRITOS_CHECK(found == page + 1, "page {} holds {}", page, found);
  }
  const uint64_t took = NowNs() - begin;
  const uint64_t kernel = KernelShootdowns() - kernel_before;
  const Stats after = (*space)->GetStats();
  // What the machine does by itself, in the same time.
  const uint64_t idle_before = KernelShootdowns();
  while (NowNs() - begin < 2 * took) CpuRelax();
  const uint64_t idle = KernelShootdowns() - idle_before;
  const auto delta = [&](Metric metric) {
    return static_cast<double>(after[metric] - before[metric]);
  };
  return {delta(Metric::kEvictedPages), delta(Metric::kShootdowns), static_cast<double>(kernel),
          static_cast<double>(idle)};
}

// {s/GiB from 100 % to 25 %, s/GiB back to 100 %, pages that hold a wrong word}
std::vector<double> MeasureBudget(const Settings& settings) {
  const Bytes far(settings.steady_mib << 20);
  auto options = OptionsFromEnvironment({.budget = Bytes(far.raw() + (16 << 20))});
  auto space = options.ok() ? Space::Create(*options) : options.status();
  SPIRITOS_CHECK(space.ok(), "{}", MessageOf(space.status()));
  const AddressRange region = (*space)->CreateRegion(far).value();
  const uint64_t pages = far.raw() / kPageSize;
  const auto word = [&](uint64_t page) -> volatile uint64_t& {
    return *reinterpret_cast<volatile uint64_t*>(region.begin + page * kPageSize);
  };
  for (uint64_t page = 0; page < pages; ++page) word(page) = 0;
  std::atomic<bool> stop{false};
  constexpr uint32_t kWriters = 2;
  std::vector<std::vector<uint32_t>> counts(kWriters, std::vector<uint32_t>(pages));
  std::vector<std::thread> writers;
  for (uint32_t t = 0; t < kWriters; ++t) {
    writers.emplace_back([&, t] {
      std::minstd_rand random(t + 1);
      while (!stop.load(std::memory_order_relaxed)) {
        const uint64_t page = random() % (pages / kWriters) * kWriters + t;
        word(page) = word(page) + 1;
        ++counts[t][page];
      }
    });
  }
  const auto change = [&](Bytes budget) {
    const uint64_t begin = NowNs();
    const absl::Status status = (*space)->SetBudget(budget);
    SPIRITOS_CHECK(status.ok(), "changing the budget: {}", MessageOf(status));
    SPIRITOS_CHECK((*space)->GetStats().used_frames <= PagesFor(budget), "above the new budget");
    return static_cast<double>(NowNs() - begin) / 1e9 /
           (static_cast<double>(far.raw()) / (1 << 30));
  };
  const double shrink = change(Bytes(far.raw() / 4));
  const double grow = change(Bytes(far.raw() + (16 << 20)));
  stop = true;
  for (std::thread& writer : writers) writer.join();
  uint64_t wrong = 0;
  for (uint64_t page = 0; page < pages; ++page)
    wrong += word(page) != counts[page % kWriters][page];
  return {shrink, grow, static_cast<double>(wrong)};
}

int Main(int argc, char** argv) {
  Settings settings;
  CommandLine line("what evicting a page costs, and its shootdowns");
  line.Add("--runs", &settings.runs, "interleaved runs");
  line.Add("--zones", &settings.zones, "zones swept in a run");
  line.Add("--resident", &settings.resident, "percent of a zone's pages that are resident");
  line.Add("--far", &settings.steady_mib, "far memory of the steady state, MiB");
  line.Add("--reads", &settings.steady_reads, "random reads of the steady state");
  line.Add("--json", &settings.json, "also write the figures to this file");
  if (const auto status = line.Parse(argc, argv)) return *status;
  if (UsableCpus().size() < 2) {
    fmt::print("a spinner needs a second CPU\n");
    return kExitSkipped;
  }
  PrintMachine(stdout);
  std::vector<std::vector<double>> floor;
  std::vector<std::vector<double>> sweeps;
  std::vector<std::vector<double>> steady;
  std::vector<std::vector<double>> budget;
  Progress progress(static_cast<int>(4 * settings.runs));
  const auto run = [&](const char* what, std::vector<std::vector<double>>* series,
                       std::vector<double> (*measure)(const Settings&)) {
    progress.Step(what);
    auto numbers = RunIsolated([&] { return measure(settings); });
    if (numbers.ok()) {
      series->push_back(*std::move(numbers));
      return true;
    }
    progress.Note(fmt::format("{}: {}", what, MessageOf(numbers.status())));
    return false;
  };
  for (uint32_t r = 0; r < settings.runs; ++r) {
    if (!run("floor", &floor, MeasureFloor) || !run("sweeps", &sweeps, MeasureSweeps) ||
        !run("steady state", &steady, MeasureSteady) || !run("budget", &budget, MeasureBudget)) {
      return 1;
    }
  }
  progress.Finish();
  const auto column = [](const std::vector<std::vector<double>>& series, size_t index) {
    std::vector<double> values;
    for (const auto& numbers : series) values.push_back(numbers[index]);
    return values;
  };
  const double whole = Median(column(floor, 3));
  Table table({"what", "a page", "spread", "over floor"});
  Json json;
  json.Open('{').Field("program", "micro_sweep");
  const auto row = [&](const char* what, const std::vector<double>& ns) {
    table.Add({what, fmt::format("{:.0f} ns", Median(ns)),
               fmt::format("{:.0f} %", 100 * Spread(ns)),
               fmt::format("{:.2f}", Median(ns) / whole)});
    json.Field(fmt::format("{}, ns a page", what), Median(ns));
  };
  row("floor: freeze, memcpy, drop", column(floor, 3));
  row("  part: freeze", column(floor, 0));
  row("  part: memcpy", column(floor, 1));
  row("  part: drop", column(floor, 2));
  const double parts =
      Median(column(floor, 0)) + Median(column(floor, 1)) + Median(column(floor, 2));
  table.Add(
      {"  parts added", fmt::format("{:.0f} ns", parts), "", fmt::format("{:.2f}", parts / whole)});
  row("sweep of dirty pages", column(sweeps, 0));
  row("sweep of clean pages", column(sweeps, 2));
  fmt::print("{}", table.ToText());

  std::vector<double> counted;
  std::vector<double> seen;
  std::vector<double> background;
  for (const auto& numbers : steady) {
    counted.push_back(numbers[1] / numbers[0]);
    seen.push_back(numbers[2] / numbers[0]);
    background.push_back(numbers[3] / numbers[0]);
  }
  fmt::print(
      "shootdowns per evicted page: one whole sweep {:.4f}; steady state {:.4f} by the runtime's "
      "count, {:.4f} received by CPUs by the kernel's, {:.4f} of those without us; target <= 0.05: "
      "{}\n",
      Median(column(sweeps, 1)), Median(counted), Median(seen), Median(background),
      std::max(Median(counted), Median(seen)) <= 0.05 ? "met" : "MISSED");
  fmt::print("clean pages written: {:.0f}: {}\n", Median(column(sweeps, 3)),
             Median(column(sweeps, 3)) == 0 ? "met" : "MISSED");
  const double shrink = Median(column(budget, 0));
  const double grow = Median(column(budget, 1));
  const double wrong = Median(column(budget, 2));
  fmt::print(
      "budget under load, seconds a GiB: {:.2f} from 100 % to 25 %, {:.4f} back; {:.0f} wrong "
      "words; target <= 2 s and none: {}\n",
      shrink, grow, wrong, shrink <= 2 && grow <= 2 && wrong == 0 ? "met" : "MISSED");
  json.Field("budget to 25 %, s a GiB", shrink).Field("budget to 100 %, s a GiB", grow);
  json.Field("shootdowns a page, runtime", Median(counted));
  json.Field("shootdowns a page, kernel", Median(seen));
  json.Field("shootdowns a page, background", Median(background));
  json.Field("clean pages written", Median(column(sweeps, 3)));
  json.Close();
  return SaveFigures(settings.json, json);
}

}  // namespace
}  // namespace spiritos::bench

int main(int argc, char** argv) { return spiritos::bench::Main(argc, argv); }
