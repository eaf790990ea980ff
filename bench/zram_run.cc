// SPDX-License-Identifier: Apache-2.0
// zram_run: a command whose memory beyond a limit is swapped to zram (LZ4).
//
//   zram_run --local 64M --disk 2G [--page-cluster 3] -- COMMAND...
//
// The rival of `spiritos run --local 64M -- COMMAND`: the command runs in a memory cgroup of
// its own, and a fresh device takes what the group may not hold. Needs root, zram and a
// memory cgroup (v1 or v2); exits with 77 and says why without them, else with the command's
// status. Its last line on standard error says whether the kernel killed anything for want
// of memory.
#include <fmt/core.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <string>
#include <vector>

#include "bench/harness.h"
#include "bench/memory_cgroup.h"
#include "bench/zram_swap.h"
#include "libos/base/fd.h"
#include "libos/base/status.h"

namespace spiritos::bench {
namespace {

constexpr int kCannot = 77;
// See bench/rival_launch.cc: reclaim decides by statistics that reading brings up to date.
constexpr int kStatisticsPeriodMs = 100;

struct Flags {
  uint64_t local = 0;
  uint64_t disk = 0;
  uint64_t page_cluster = 0;
};

[[noreturn]] void Become(const std::string& procs, std::vector<char*> command, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent || !MemoryCgroup::JoinByPath(procs.c_str())) _exit(126);
  execvp(command[0], command.data());
  _exit(127);
}

absl::StatusOr<int> Run(const Flags& flags, std::vector<std::string> words) {
  SPIRITOS_RETURN_IF_ERROR(ZramSwap::Probe());
  SPIRITOS_ASSIGN_OR_RETURN(ScopedSysctl cluster,
                            ScopedSysctl::Create("/proc/sys/vm/page-cluster"));
  SPIRITOS_RETURN_IF_ERROR(cluster.Set(flags.page_cluster));
  SPIRITOS_ASSIGN_OR_RETURN(const ZramSwap swap, ZramSwap::Create(Bytes(flags.disk), "lz4"));
  SPIRITOS_ASSIGN_OR_RETURN(const MemoryCgroup group,
                            MemoryCgroup::Create(fmt::format("spiritos-zram-{}", getpid())));
  SPIRITOS_RETURN_IF_ERROR(group.SetLimit(Bytes(flags.local)));
  std::vector<char*> command;
  for (std::string& word : words) command.push_back(word.data());
  command.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return ErrnoStatus(errno, "fork");
  if (child == 0) Become(group.procs_path(), std::move(command), parent);
  const UniqueFd ended(static_cast<int>(syscall(SYS_pidfd_open, child, 0)));
  if (!ended.valid()) return ErrnoStatus(errno, "pidfd_open");
  pollfd wait{ended.get(), POLLIN, 0};
  while (poll(&wait, 1, kStatisticsPeriodMs) == 0) group.RefreshStatistics();
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  fmt::print(stderr, "zram_run: oom_kills {}\n", group.OomKills());
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

int Main(int argc, char** argv) {
  CLI::App app("Run a command with its memory beyond a limit on zram.");
  Flags flags;
  app.add_option("--local", flags.local, "what it may hold in memory")
      ->transform(CLI::AsSizeValue(false))
      ->required();
  app.add_option("--disk", flags.disk, "the size of the zram device")
      ->transform(CLI::AsSizeValue(false))
      ->required();
  app.add_option("--page-cluster", flags.page_cluster,
                 "vm.page-cluster: swap reads ahead 2^N pages")
      ->check(CLI::Range(0, 10))
      ->capture_default_str();
  app.prefix_command();
  CLI11_PARSE(app, argc, argv);
  std::vector<std::string> command = app.remaining();
  if (!command.empty() && command.front() == "--") command.erase(command.begin());
  if (command.empty()) {
    fmt::print(stderr, "zram_run: no command\n");
    return 2;
  }
  const absl::StatusOr<int> status = Run(flags, std::move(command));
  if (status.ok()) return *status;
  fmt::print(stderr, "zram_run: {}\n", MessageOf(status.status()));
  return kCannot;
}

}  // namespace spiritos::bench

int main(int argc, char** argv) { return spiritos::bench::Main(argc, argv); }
