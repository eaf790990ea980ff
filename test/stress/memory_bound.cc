// SPDX-License-Identifier: Apache-2.0
// memory_bound: a space keeps to its budget as the kernel counts.
//
// A child in a memory cgroup whose limit is budget + 24 MiB + 1.5 % of the far
// size works on far memory in a file pool: writes all of it, reads it in random
// order, changes the budget both ways. Beyond the limit the kernel would kill it.
// What it holds in anonymous memory (RssAnon) is sampled all the time, and the
// books per far page are counted. Exit status 77 without root or the controller.
#include <fmt/core.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <random>
#include <string>

#include "bench/command_line.h"
#include "bench/memory_cgroup.h"
#include "libos/options_env.h"
#include "libos/space.h"
#include "test/support/temp_dir.h"

namespace spiritos {
namespace {

struct Settings {
  uint64_t far_mib = 512;
  uint64_t budget_mib = 64;
  uint64_t reads = 30'000;  // Each may wait for a disk.
  std::vector<std::string> options;
};

uint64_t RssAnonKib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssAnon:")) return std::stoull(line.substr(8));
  }
  return 0;
}

bool Check(bool holds, const std::string& what) {
  if (!holds) fmt::print("FAILED: {}\n", what);
  return holds;
}

int Work(const Settings& settings, const std::string& pool, uint64_t bound_kib) {
  auto options = ApplyOptions({.budget = Bytes(settings.budget_mib << 20)}, settings.options);
  if (options.ok()) {
    options->remote.pool = "file://" + pool;
    options->remote.pool_size = Bytes(std::max<uint64_t>(settings.far_mib, 64) << 20);
  }
  auto space = options.ok() ? Space::Create(*options) : options.status();
  if (!space.ok()) {
    fmt::print("{}\n", space.status().ToString());
    return 1;
  }
  const AddressRange region = (*space)->CreateRegion(Bytes(settings.far_mib << 20)).value();
  const uint64_t pages = region.size.raw() / kPageSize;
  uint64_t most_kib = 0;
  uint64_t wrong = 0;
  const auto word = [&](uint64_t page) -> volatile uint64_t& {
    return *reinterpret_cast<volatile uint64_t*>(region.begin + page * kPageSize + 8);
  };
  const auto sample = [&](uint64_t i) {
    if (i % 1024 == 0) most_kib = std::max(most_kib, RssAnonKib());
  };
  for (uint64_t page = 0; page < pages; ++page) {
    word(page) = page + 1;
    sample(page);
  }
  std::minstd_rand random(5);
  const auto read_some = [&](uint64_t reads) {
    for (uint64_t i = 0; i < reads; ++i) {
      const uint64_t page = random() % pages;
      wrong += word(page) != page + 1;
      sample(i);
    }
  };
  read_some(settings.reads);
  bool good = Check((*space)->SetBudget(Bytes(settings.budget_mib << 18)).ok(), "a quarter");
  read_some(settings.reads / 10);
  const uint64_t quarter_kib = RssAnonKib();
  good &= Check((*space)->SetBudget(Bytes(settings.budget_mib << 20)).ok(), "the whole again");
  read_some(settings.reads);
  const Stats stats = (*space)->GetStats();
  const double books = static_cast<double>(stats.metadata.raw()) / static_cast<double>(pages);
  fmt::print(
      "far {} MiB, budget {} MiB: most anonymous memory {:.1f} MiB (bound {:.1f}), at a quarter of "
      "the budget {:.1f} MiB; books {:.1f} bytes a far page\n",
      settings.far_mib, settings.budget_mib, static_cast<double>(most_kib) / 1024,
      static_cast<double>(bound_kib) / 1024, static_cast<double>(quarter_kib) / 1024, books);
  good &= Check(wrong == 0, fmt::format("{} wrong words", wrong));
  good &= Check(most_kib <= bound_kib, "anonymous memory is above its bound");
  good &= Check(quarter_kib + settings.budget_mib * 1024 * 3 / 4 <= bound_kib,
                "the quarter of the budget is not kept");
  good &= Check(books <= 40, "more than 40 bytes of books a far page");
  good &= Check(stats[Metric::kEvictedPages] > pages / 2 + settings.reads,
                "hardly anything was evicted");
  return good ? 0 : 1;
}

int Main(int argc, char** argv) {
  Settings settings;
  bench::CommandLine line("a space keeps to its budget as the kernel counts");
  line.Add("--far", &settings.far_mib, "far memory, MiB");
  line.Add("--budget", &settings.budget_mib, "local memory, MiB");
  line.Add("--reads", &settings.reads, "random reads");
  line.Add("options", &settings.options, "NAME=value space options");
  if (const auto status = line.Parse(argc, argv)) return *status;
  auto group = bench::MemoryCgroup::Create(fmt::format("spiritos-bound-{}", getpid()));
  if (!group.ok()) {
    fmt::print("skipped: {}\n", group.status().ToString());
    return 77;
  }
  const uint64_t bound_kib =
      settings.budget_mib * 1024 + 24 * 1024 + settings.far_mib * 1024 * 15 / 1000;
  if (const auto status = group->SetLimit(Bytes(bound_kib << 10)); !status.ok()) {
    fmt::print("skipped: {}\n", status.ToString());
    return 77;
  }
  const TempDir directory;
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    const bool joined = bench::MemoryCgroup::JoinByPath(group->procs_path().c_str());
    const int code = joined ? Work(settings, directory.file("pool"), bound_kib) : 1;
    std::fflush(stdout);
    _exit(code);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (group->OomKills() != 0) {
    fmt::print("FAILED: killed for want of memory\n");
    return 1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

}  // namespace
}  // namespace spiritos

int main(int argc, char** argv) { return spiritos::Main(argc, argv); }
