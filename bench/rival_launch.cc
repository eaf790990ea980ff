// SPDX-License-Identifier: Apache-2.0
// Starts measured processes, waits for them, and cleans up behind them.
#include "bench/rival_launch.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include "bench/memory_cgroup.h"
#include "bench/zram_swap.h"
#include "libos/base/clock.h"
#include "libos/base/fd.h"
#include "libos/base/status.h"

namespace spiritos::bench {
namespace {

constexpr int kMostOomRepeats = 3;

// Reclaim decides by statistics of the group that the kernel brings up to date
// every two seconds, or when somebody reads them. With older ones it believes in
// an inactive list that is long since empty, ages nothing, and kills a process
// whose swap is mostly free. Reading them keeps the rival at its best; it takes
// the driver some 50 us each time.
constexpr uint64_t kStatisticsPeriodMs = 100;

volatile std::sig_atomic_t interrupt_seen = 0;

// The signals are blocked except while a child is waited for: nothing that
// sets up or removes a device is cut in half.
sigset_t BlockedSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, signal);
  return set;
}

// Between fork and exec: system calls only.
[[noreturn]] void ExecChild(const char* procs_path, char* const argv[], pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(126);
  if (procs_path != nullptr && !MemoryCgroup::JoinByPath(procs_path)) _exit(125);
  const sigset_t blocked = BlockedSignals();
  sigprocmask(SIG_UNBLOCK, &blocked, nullptr);
  execv("/proc/self/exe", argv);
  _exit(127);
}

// Reads the pipe to its end and `group`, unless null, now and then. False: the
// time ran out or a signal came.
bool ReadToEnd(int fd, uint64_t timeout_s, const MemoryCgroup* group, std::string& text) {
  const uint64_t deadline_ns = NowNs() + timeout_s * 1'000'000'000;
  sigset_t none;
  sigemptyset(&none);
  for (;;) {
    const uint64_t now_ns = NowNs();
    if (now_ns >= deadline_ns) return false;
    uint64_t left_ns = deadline_ns - now_ns;
    if (group != nullptr) {
      group->RefreshStatistics();
      left_ns = std::min(left_ns, kStatisticsPeriodMs * 1'000'000);
    }
    const timespec left = {static_cast<time_t>(left_ns / 1'000'000'000),
                           static_cast<long>(left_ns % 1'000'000'000)};
    pollfd waiting = {fd, POLLIN, 0};
    const int ready = ppoll(&waiting, 1, &left, &none);
    if (interrupt_seen != 0) return false;
    if (ready <= 0) continue;
    char part[4096];
    const ssize_t n = read(fd, part, sizeof(part));
    if (n == 0) return true;
    if (n > 0) text.append(part, static_cast<size_t>(n));
  }
}

}  // namespace

RivalLauncher::RivalLauncher(const LaunchOptions& options) : options_(options) {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupt_seen = 1; };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
  const sigset_t blocked = BlockedSignals();
  sigprocmask(SIG_BLOCK, &blocked, nullptr);
}

bool RivalLauncher::interrupted() {
  sigset_t pending;
  sigpending(&pending);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP})
    if (sigismember(&pending, signal) == 1) interrupt_seen = 1;
  return interrupt_seen != 0;
}

absl::Status RivalLauncher::Probe() {
  if (geteuid() != 0)
    return absl::UnavailableError("root is needed to set up zram swap and a memory group");
  SPIRITOS_RETURN_IF_ERROR(ZramSwap::Probe());
  return MemoryCgroup::Create(fmt::format("spiritos-rival-{}-probe", getpid())).status();
}

absl::StatusOr<RunOutcome> RivalLauncher::Run(RunSpec spec) {
  if (spec.system == System::kSwap) return RunSwap(std::move(spec));
  bool killed = false;
  RunOutcome outcome;
  SPIRITOS_ASSIGN_OR_RETURN(outcome.result, RunProcess(spec, nullptr, killed));
  return outcome;
}

absl::StatusOr<RunOutcome> RivalLauncher::RunSwap(RunSpec spec) {
  RunOutcome outcome;
  const double size = static_cast<double>(spec.size.raw()) * options_.swap_factor;
  outcome.swap_size = BytesOf(PagesFor(Bytes(static_cast<uint64_t>(size))));
  for (;; ++outcome.oom_repeats, outcome.swap_size += outcome.swap_size) {
    SPIRITOS_ASSIGN_OR_RETURN(const ZramSwap zram,
                              ZramSwap::Create(outcome.swap_size, options_.algorithm));
    SPIRITOS_ASSIGN_OR_RETURN(
        const MemoryCgroup group,
        MemoryCgroup::Create(fmt::format("spiritos-rival-{}-{}", getpid(), groups_++)));
    spec.zram = zram.name();
    spec.cgroup = group.path();
    bool killed = false;
    SPIRITOS_ASSIGN_OR_RETURN(outcome.result, RunProcess(spec, &group, killed));
    const bool out_of_memory = killed && group.OomKills() > 0;
    if (!out_of_memory) return outcome;
    outcome.result.error = fmt::format("killed for want of memory, with {} MiB of swap",
                                       outcome.swap_size.raw() >> 20);
    if (outcome.oom_repeats == kMostOomRepeats) return outcome;
  }
}

absl::StatusOr<RunResult> RivalLauncher::RunProcess(const RunSpec& spec, const MemoryCgroup* group,
                                                    bool& killed) {
  if (interrupted()) return absl::CancelledError("interrupted");
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "making a pipe");
  const UniqueFd from_child(ends[0]);
  UniqueFd to_driver(ends[1]);

  // Everything the child touches before exec is made before fork.
  const std::string procs = group == nullptr ? "" : group->procs_path();
  const int result_fd = fcntl(to_driver.get(), F_DUPFD, 3);  // Survives exec.
  if (result_fd < 0) return ErrnoStatus(errno, "duplicating a pipe");
  to_driver = UniqueFd(result_fd);
  std::string name = "rival_swap", flag = kChildFlag, text = spec.Encode();
  std::string fd_text = fmt::format("{}", result_fd);
  char* const argv[] = {name.data(), flag.data(), text.data(), fd_text.data(), nullptr};

  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return ErrnoStatus(errno, "starting a measured process");
  if (pid == 0) ExecChild(group == nullptr ? nullptr : procs.c_str(), argv, parent);
  to_driver.Reset();

  std::string output;
  const bool complete = ReadToEnd(from_child.get(), options_.timeout_s, group, output);
  if (!complete) kill(pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (interrupted()) return absl::CancelledError("interrupted");

  RunResult result = RunResult::Decode(output);
  killed = complete && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
  if (!complete) {
    result.error = fmt::format("not done after {} s", options_.timeout_s);
  } else if (WIFSIGNALED(status)) {
    result.error = fmt::format("died of signal {}", WTERMSIG(status));
  } else if (WEXITSTATUS(status) == 125) {
    result.error = "could not join its memory group";
  } else if (WEXITSTATUS(status) != 0 && result.error.empty()) {
    result.error = fmt::format("ended with status {}", WEXITSTATUS(status));
  }
  return result;
}

}  // namespace spiritos::bench
