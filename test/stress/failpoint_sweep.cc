// SPDX-License-Identifier: Apache-2.0
// failpoint_sweep: the Nth kernel call or pool operation fails, for every N.
//
// For each kind of operation, each errno it may give and each N, a child process
// runs a fixed workload on a small space with that one failure in it and then
// verifies every page. The child must either finish with every byte right, or
// stop with a message (a failed check or an error of Space::Create): it must
// never hang, and never read a wrong byte. A single failure of a call that can
// be repeated must be survived.
#include <fmt/core.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "bench/command_line.h"
#include "libos/base/failpoint.h"
#include "libos/options_env.h"
#include "libos/space.h"

namespace spiritos {
namespace {

struct Case {
  Failpoint point;
  const char* name;
  int error;
  bool must_survive;
};
constexpr Case kCases[] = {
    {Failpoint::kUffdCopy, "UFFDIO_COPY", EAGAIN, true},
    {Failpoint::kUffdCopy, "UFFDIO_COPY", ENOMEM, true},
    {Failpoint::kUffdWriteProtect, "UFFDIO_WRITEPROTECT", EAGAIN, true},
    {Failpoint::kUffdIoctlAny, "any userfaultfd ioctl", EAGAIN, false},
    {Failpoint::kMadvise, "zap", EAGAIN, true},
    {Failpoint::kMadvise, "zap", ENOMEM, true},
    {Failpoint::kMadvise, "zap", EINVAL, true},
    {Failpoint::kBackendRead, "pool read", EIO, true},
    {Failpoint::kBackendWrite, "pool write", EIO, true},
    {Failpoint::kBackendWrite, "pool write", ENOSPC, true},
};

enum ExitCode { kSurvived = 0, kWrongByte = 10, kRefused = 11 };

uint64_t ValueOf(uint64_t page, uint64_t round) { return page * 0x9E3779B97F4A7C15ull + round + 1; }

// Pages are written, sent away, rewritten and read in an order that takes every
// kind of operation more than 200 times.
int Workload(const Options& options) {
  auto space = Space::Create(options);
  if (!space.ok()) {
    fmt::print(stderr, "{}\n", space.status().ToString());
    return kRefused;
  }
  auto region = (*space)->CreateRegion(12_MiB);
  if (!region.ok()) {
    fmt::print(stderr, "{}\n", region.status().ToString());
    return kRefused;
  }
  const uint64_t pages = region->size.raw() / kPageSize;
  const auto word = [&](uint64_t page) {
    return reinterpret_cast<volatile uint64_t*>(region->begin + page * kPageSize);
  };
  std::vector<uint64_t> shadow(pages);
  for (uint64_t round = 0; round < 3; ++round) {
    for (uint64_t i = 0; i < pages; ++i) {
      const uint64_t page = i * 1543 % pages;
      if (*word(page) != shadow[page]) return kWrongByte;
      if ((page + round) % 3 != 0) *word(page) = shadow[page] = ValueOf(page, round);
      if (i % 16 == 0) {
        const AddressRange near{region->begin + page / 64 * 64 * kPageSize, Bytes(64 * kPageSize)};
        if (!(*space)->Evict(near).ok()) return kRefused;
      }
    }
  }
  for (uint64_t page = 0; page < pages; ++page) {
    if (*word(page) != shadow[page]) return kWrongByte;
  }
  (*space)->Drain();
  return (*space)->GetStats()[Metric::kLostPages] == 0 ? kSurvived : kWrongByte;
}

struct Tally {
  uint64_t survived = 0;
  uint64_t loud = 0;
  uint64_t not_reached = 0;
  std::vector<std::string> bad;
};

// Runs one child. Its standard error is kept for the report.
void RunOne(const Case& test, uint64_t nth, const Options& options, Tally* tally) {
  std::array<int, 2> ends;
  if (pipe(ends.data()) != 0) {
    tally->bad.push_back(fmt::format("pipe: {}", strerror(errno)));
    return;
  }
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    alarm(60);  // A hang ends by SIGALRM and counts as one.
    Failpoints::Arm(test.point, nth, test.error);
    const int code = Workload(options);
    const bool reached = Failpoints::Failures(test.point) != 0;
    _exit(code == kSurvived && !reached ? 20 : code);
  }
  close(ends[1]);
  std::string message(600, '\0');
  size_t length = 0;
  while (length < message.size()) {
    const ssize_t n = read(ends[0], message.data() + length, message.size() - length);
    if (n <= 0) break;
    length += static_cast<size_t>(n);
  }
  message.resize(length);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  const bool aborted = WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
  const bool refused = WIFEXITED(status) && WEXITSTATUS(status) == kRefused;
  if (WIFEXITED(status) && WEXITSTATUS(status) == kSurvived) {
    ++tally->survived;
  } else if (WIFEXITED(status) && WEXITSTATUS(status) == 20) {
    ++tally->not_reached;
  } else if ((aborted || refused) && !message.empty() && !test.must_survive) {
    ++tally->loud;
  } else {
    tally->bad.push_back(fmt::format("N={} status {:#x}: {}", nth, status, message));
  }
}

int Main(int argc, char** argv) {
  uint64_t last = 200;
  uint64_t stride = 1;
  std::vector<std::string> variables;
  bench::CommandLine line("the Nth operation fails, for every N");
  line.Add("--last", &last, "highest N");
  line.Add("--stride", &stride, "step of N");
  line.Add("options", &variables, "NAME=value space options");
  if (const auto status = line.Parse(argc, argv)) return *status;
  auto options = ApplyOptions({.budget = 4_MiB}, variables);
  if (!options.ok()) {
    fmt::print("{}\n", options.status().ToString());
    return 2;
  }
  bool passed = true;
  for (const Case& test : kCases) {
    Tally tally;
    for (uint64_t nth = 1; nth <= last; nth += stride) RunOne(test, nth, *options, &tally);
    fmt::print("{:24} {:8}: {} survived, {} loud, {} not reached, {} bad\n", test.name,
               strerrorname_np(test.error), tally.survived, tally.loud, tally.not_reached,
               tally.bad.size());
    for (const std::string& bad : tally.bad) fmt::print("  {}\n", bad);
    std::fflush(stdout);
    passed = passed && tally.bad.empty();
  }
  return passed ? 0 : 1;
}

}  // namespace
}  // namespace spiritos

int main(int argc, char** argv) { return spiritos::Main(argc, argv); }
