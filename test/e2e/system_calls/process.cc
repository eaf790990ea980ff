// SPDX-License-Identifier: Apache-2.0
// Processes and what belongs to them: programs that begin, children that end, limits, names.
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "test/e2e/system_calls/trial.h"

namespace system_calls {
namespace {

// What a new program is told: its name, arguments and environment, all in the trial's memory.
struct Program {
  explicit Program(Trial& t)
      : name(t.Text("/bin/sh")),
        arguments(t.Kept(t.In(std::array<char*, 6>{t.Text("shell"), t.Text("-c"),
                                                   t.Text("exit $((${#1} + ${#WORD}))"),
                                                   t.Text("name"), t.Text("argument"), nullptr}),
                         6)),
        environment(t.Kept(t.In(std::array<char*, 2>{t.Text("WORD=twelve letters"), nullptr}), 2)) {
  }
  const char* name;
  char** arguments;
  char** environment;
};

void SeeStatus(Trial& t, pid_t child) {
  int status = -1;
  t.Returned(waitpid(child, &status, 0) == child ? 0 : -1);
  t.See(WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

constexpr int kNotBegun = 100;  // And errno.

void ExecuteAfterVfork(Trial& t) {
  const Program program(t);
  t.Ready();
  const pid_t child = vfork();
  if (child == 0) {
    execve(program.name, program.arguments, program.environment);
    _exit(kNotBegun + errno);
  }
  SeeStatus(t, child);
}

void ExecuteAfterFork(Trial& t) {
  const Program program(t);
  t.Ready();
  const pid_t child = fork();
  if (child == 0) {
    execve(program.name, program.arguments, program.environment);
    _exit(kNotBegun + errno);
  }
  SeeStatus(t, child);
}

void ExecuteByFile(Trial& t) {
  const Program program(t);
  const File folder(open("/", O_RDONLY | O_DIRECTORY));
  t.Ready();
  const pid_t child = vfork();
  if (child == 0) {
    syscall(SYS_execveat, static_cast<int>(folder), program.name, program.arguments,
            program.environment, 0);
    _exit(kNotBegun + errno);
  }
  SeeStatus(t, child);
}

// The C library counts the arguments: the program would end at what it may not touch.
void Spawn(Trial& t) {
  if (t.residence() >= Residence::kNone) return;
  const Program program(t);
  t.Ready();
  pid_t child = -1;
  const int error =
      posix_spawn(&child, program.name, nullptr, nullptr, program.arguments, program.environment);
  t.See(error == 0 ? "begun" : strerrorname_np(error));
  if (error == 0) SeeStatus(t, child);
}

pid_t ChildThatEnds(int status) {
  const pid_t child = vfork();
  if (child == 0) _exit(status);
  Require(child > 0, "vfork");
  return child;
}

void Wait(Trial& t) {
  const pid_t child = ChildThatEnds(7);
  int* const status = t.Out<int>();
  rusage* const usage = t.Ignored(t.Out<rusage>());
  t.Ready();
  t.Returned(syscall(SYS_wait4, child, status, 0, usage) == child ? 0 : -1);
  if (t.usable()) t.See(t.Get(usage).ru_maxrss > 0);
  waitpid(child, nullptr, WNOHANG);
}

void WaitForInformation(Trial& t) {
  const pid_t child = ChildThatEnds(8);
  siginfo_t* const info = t.Ignored(t.Out<siginfo_t>());
  rusage* const usage = t.Ignored(t.Out<rusage>());
  t.Ready();
  t.Returned(syscall(SYS_waitid, P_PID, child, info, WEXITED, usage));
  if (t.usable()) {
    t.See(t.Get(info).si_pid == child);
    t.See(t.Get(info).si_status);
  }
  waitpid(child, nullptr, WNOHANG);
}

// By a structure that says how; nobody but the kernel touches memory in the child.
void CloneByStructure(Trial& t) {
  struct Arguments {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
  };
  int* const parent_tid = t.Ignored(t.Out<int>());
  Arguments arguments{};
  arguments.flags = CLONE_PARENT_SETTID;
  arguments.parent_tid = reinterpret_cast<uintptr_t>(parent_tid);
  arguments.exit_signal = SIGCHLD;
  const Arguments* const at = t.Kept(t.In(arguments));
  t.Ready();
  const long child = syscall(SYS_clone3, at, sizeof(*at));
  if (child == 0) syscall(SYS_exit_group, 9);
  t.Returned(child > 0 ? 0 : -1);
  if (child < 0) return;
  if (t.usable()) t.See(t.Get(parent_tid) == child);
  int status = -1;
  waitpid(static_cast<pid_t>(child), &status, 0);
  t.See(WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

void Usage(Trial& t) {
  rusage* const usage = t.Ignored(t.Out<rusage>());
  t.Ready();
  t.Returned(syscall(SYS_getrusage, RUSAGE_SELF, usage));
  if (t.usable()) t.See(t.Get(usage).ru_maxrss > 0);
}

void Limits(Trial& t) {
  rlimit now{};
  Require(getrlimit(RLIMIT_CORE, &now) == 0, "getrlimit");
  const rlimit* const in = t.In(now);
  rlimit* const before = t.Out<rlimit>();
  rlimit* const after = t.Out<rlimit>();
  t.Ready();
  t.Returned(syscall(SYS_prlimit64, 0, RLIMIT_CORE, in, before));
  t.Ready();
  t.Returned(syscall(SYS_getrlimit, RLIMIT_CORE, after));
}

void Affinity(Trial& t) {
  std::byte* const mask = t.Out(128);
  t.Ready();
  const long size = t.Returned(syscall(SYS_sched_getaffinity, 0, 128, mask));
  if (size <= 0) return;
  t.Ready();
  t.Returned(syscall(SYS_sched_setaffinity, 0, size, mask));
}

void Scheduling(Trial& t) {
  int* const priority = t.Out<int>();
  std::byte* const attributes = t.Out(48);
  timespec* const slice = t.Ignored(t.Out<timespec>());
  t.Ready();
  t.Returned(syscall(SYS_sched_getparam, 0, priority));
  t.Ready();
  t.Returned(syscall(SYS_sched_getattr, 0, attributes, 48, 0));
  t.Ready();
  t.Returned(syscall(SYS_sched_rr_get_interval, 0, slice));
}

void ThreadName(Trial& t) {
  const char* const in = t.Text("name-of-thread");
  std::byte* const out = t.Out(16);
  t.Ready();
  t.Returned(prctl(PR_SET_NAME, in));
  t.Ready();
  t.Returned(prctl(PR_GET_NAME, out));
  prctl(PR_SET_NAME, "system_calls");
}

void Identities(Trial& t) {
  std::array<unsigned*, 6> ids;
  for (unsigned*& id : ids) id = t.Out<unsigned>();
  std::byte* const groups = t.Out(512);
  t.Ready();
  t.Returned(syscall(SYS_getresuid, ids[0], ids[1], ids[2]));
  t.Ready();
  t.Returned(syscall(SYS_getresgid, ids[3], ids[4], ids[5]));
  t.Ready();
  t.Returned(syscall(SYS_getgroups, 128, groups));
}

void Capabilities(Trial& t) {
  __user_cap_header_struct header{};
  header.version = _LINUX_CAPABILITY_VERSION_3;
  auto* const head = t.In(header);
  std::byte* const data = t.Out(24);
  t.Ready();
  t.Returned(syscall(SYS_capget, head, data));
}

void Cpu(Trial& t) {
  unsigned* const cpu = t.Ignored(t.Out<unsigned>());
  unsigned* const node = t.Ignored(t.Out<unsigned>());
  t.Ready();
  t.Returned(syscall(SYS_getcpu, cpu, node, nullptr));
  if (t.usable()) t.See(t.Get(cpu) < 4096);
}

void RobustList(Trial& t) {
  uintptr_t* const head = t.Ignored(t.Out<uintptr_t>());
  size_t* const size = t.Out<size_t>();
  t.Ready();
  t.Returned(syscall(SYS_get_robust_list, 0, head, size));
}

void Random(Trial& t) {
  std::byte* const to = t.Ignored(t.Out(200), 200);
  t.Ready();
  const long size = t.Returned(syscall(SYS_getrandom, to, 200, 0));
  size_t changed = 0;
  for (size_t i = 0; i < 200; ++i) changed += to[i] != std::byte{0xEE};
  // A random byte is what was there once in 256.
  t.See(size > 0 ? changed + 50 > static_cast<size_t>(size) : changed == 0);
}

constexpr Row kRows[] = {
    {"vfork, execve", ExecuteAfterVfork, true},
    {"fork, execve", ExecuteAfterFork, true},
    {"vfork, execveat", ExecuteByFile, true},
    {"posix_spawn", Spawn, true},
    {"wait4", Wait, true},
    {"waitid", WaitForInformation, true},
    {"clone3", CloneByStructure, true},
    {"getrusage", Usage},
    {"prlimit64, getrlimit", Limits},
    {"sched_getaffinity, sched_setaffinity", Affinity},
    {"sched_getparam, sched_getattr", Scheduling},
    {"prctl PR_SET_NAME, PR_GET_NAME", ThreadName},
    {"getresuid, getresgid, getgroups", Identities},
    {"capget", Capabilities},
    {"getcpu", Cpu},
    {"get_robust_list", RobustList},
    {"getrandom", Random},
};

}  // namespace

std::span<const Row> ProcessRows() { return kRows; }

}  // namespace system_calls
