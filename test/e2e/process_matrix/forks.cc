// SPDX-License-Identifier: Apache-2.0
// Children: they have the memory as of the fork, and both sides their own from then on.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "test/e2e/process_matrix/field.h"

namespace process_matrix {
namespace {

// A child's exit statuses.
constexpr int kGood = 0;
constexpr int kWrongBefore = 1;  // Than as of the fork.
constexpr int kWrongAfter = 2;   // Than what it stored itself.

pid_t Fork() {
  const pid_t child = fork();
  Require(child >= 0, "fork");
  return child;
}

int CheckAndStore(Field& field, uint32_t version) {
  if (!field.IsWhole()) return kWrongBefore;
  field.StoreAll(version, version % 2, 2);
  return field.IsWhole() ? kGood : kWrongAfter;
}

struct Pipe {
  Pipe() { Require(pipe(ends) == 0, "pipe"); }
  ~Pipe() {
    StopSaying();
    close(ends[0]);
  }
  void StopSaying() {
    if (ends[1] >= 0) close(std::exchange(ends[1], -1));
  }
  void Say(char word) const { Require(write(ends[1], &word, 1) == 1, "write"); }
  // 0 when nobody is left who could say something.
  char Hear() const {
    char word = 0;
    while (read(ends[0], &word, 1) < 0) Require(errno == EINTR, "read");
    return word;
  }
  int ends[2];
};

void PlainFork(Field& field, Findings& findings) {
  const pid_t child = Fork();
  if (child == 0) _exit(CheckAndStore(field, 11));
  field.StoreAll(10, 0, 3);
  findings.Expect(field.IsWhole(), "the parent's memory");
  findings.ExpectEnd(child, "exit 0");
}

void ManyChildren(Field& field, Findings& findings) {
  std::array<pid_t, 4> children;
  uint32_t version = 20;
  for (pid_t& child : children) {
    ++version;
    field.StoreAll(version, version % 5, 5);
    child = Fork();
    if (child == 0) _exit(CheckAndStore(field, version));
  }
  field.StoreAll(version, 0, 2);
  for (const pid_t child : children) findings.ExpectEnd(child, "exit 0");
}

int ForkDeeper(Field& field, uint32_t depth) {
  if (depth == 0) return CheckAndStore(field, 30);
  field.StoreAll(30 + depth, depth, 4);
  const pid_t child = Fork();
  if (child == 0) _exit(ForkDeeper(field, depth - 1));
  field.StoreAll(40 + depth, 0, 7);
  const bool good = AwaitEnd(child) == "exit 0";
  return good && field.IsWhole() ? kGood : kWrongAfter;
}

void NestedForks(Field& field, Findings& findings) {
  findings.Expect(ForkDeeper(field, 3) == kGood, "a child's memory");
}

void OutlivesParent(Field& field, Findings& findings) {
  Pipe parent_lives;
  const Pipe report;
  const pid_t parent = Fork();
  if (parent == 0) {
    const pid_t child = Fork();
    if (child != 0) _exit(field.IsWhole() ? kGood : kWrongBefore);
    parent_lives.StopSaying();
    // Its parent and that one's hold the other end until they are gone, or let go of it.
    parent_lives.Hear();
    report.Say(CheckAndStore(field, 51) == kGood ? 'y' : 'n');
    _exit(0);
  }
  parent_lives.StopSaying();
  field.StoreAll(50, 0, 2);
  findings.ExpectEnd(parent, "exit 0");
  findings.Expect(report.Hear() == 'y', "the grandchild's memory");
}

// As daemon(3) does by hand: two forks, a session, no descriptor that it does not know.
void Daemon(Field& field, Findings& findings) {
  const Pipe report;
  const pid_t first = Fork();
  if (first == 0) {
    setsid();
    if (Fork() != 0) _exit(kGood);
    Require(chdir("/") == 0, "chdir");
    const int null = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3; ++fd) dup2(null, fd);
    for (int fd = 3; fd < 1024; ++fd) {
      if (fd != report.ends[1]) close(fd);
    }
    report.Say(CheckAndStore(field, 61) == kGood ? 'y' : 'n');
    _exit(0);
  }
  field.StoreAll(60, 1, 2);
  findings.ExpectEnd(first, "exit 0");
  findings.Expect(report.Hear() == 'y', "the daemon's memory");
}

// A thread stores through memory of its own in order: a child sees the stores up to one.
void AmidStores(Field& field, Findings& findings) {
  constexpr size_t kPages = 3072;
  std::byte* const bytes = MapBytes(kPages * kPage);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> passes{0};
  const auto word = [bytes](size_t page) -> volatile uint64_t& {
    return *reinterpret_cast<volatile uint64_t*>(bytes + page * kPage);
  };
  std::thread storer([&] {
    for (uint64_t pass = 1; !stop; ++pass, ++passes) {
      for (size_t page = 0; page < kPages; ++page) word(page) = pass;
    }
  });
  for (int round = 0; round < 3; ++round) {
    for (const uint64_t before = passes; passes == before;) std::this_thread::yield();
    field.StoreAll(70 + static_cast<uint32_t>(round), 0, 3);
    const pid_t child = Fork();
    if (child == 0) {
      size_t last = 0;
      while (last + 1 < kPages && word(last + 1) == word(0)) ++last;
      for (size_t page = last + 1; page < kPages; ++page) {
        if (word(page) != word(0) - 1) _exit(kWrongBefore + 10);
      }
      _exit(CheckAndStore(field, 80));
    }
    findings.ExpectEnd(child, "exit 0");
  }
  stop = true;
  storer.join();
  munmap(bytes, kPages * kPage);
}

// Threads allocate, and send memory away, while others fork.
void AmidAllocation(Field& field, Findings& findings) {
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> passes{0};
  std::thread allocator([&] {
    for (uint64_t pass = 0; !stop; ++pass, ++passes) {
      std::vector<std::vector<uint64_t>> held;
      for (size_t i = 0; i < 200; ++i) held.emplace_back(700, pass + i);
      for (size_t i = 0; i < 200; ++i) Require(held[i][699] == pass + i, "what was allocated");
    }
  });
  std::thread sweeper([&] {
    for (size_t page = 0; !stop; page = (page + 512) % Field::kPages) {
      SendAway(field.at(page), 512 * kPage);
    }
  });
  for (int round = 0; round < 2; ++round) {
    for (const uint64_t before = passes; passes == before;) std::this_thread::yield();
    const pid_t child = Fork();
    if (child == 0) {
      std::vector<std::vector<uint64_t>> held;
      for (size_t i = 0; i < 500; ++i) held.emplace_back(900, i);
      for (size_t i = 0; i < 500; ++i) {
        if (held[i][899] != i) _exit(kWrongAfter + 10);
      }
      _exit(CheckAndStore(field, 90));
    }
    findings.ExpectEnd(child, "exit 0");
  }
  stop = true;
  allocator.join();
  sweeper.join();
}

void ThreadsOfAChild(Field& field, Findings& findings) {
  const pid_t child = Fork();
  if (child == 0) {
    std::array<std::thread, 3> threads;
    for (size_t i = 0; i < threads.size(); ++i) {
      threads[i] = std::thread([&field, i] { field.StoreAll(100, i, 3); });
    }
    for (std::thread& thread : threads) thread.join();
    _exit(field.IsWhole() ? kGood : kWrongAfter);
  }
  findings.ExpectEnd(child, "exit 0");
}

void AThreadForks(Field& field, Findings& findings) {
  std::string how;
  std::thread([&] {
    const pid_t child = Fork();
    if (child == 0) _exit(CheckAndStore(field, 110));
    how = AwaitEnd(child);
  }).join();
  findings.Expect(how == "exit 0", how);
}

void KilledAmidStores(Field& field, Findings& findings) {
  const Pipe storing;
  const pid_t child = Fork();
  if (child == 0) {
    for (uint32_t version = 120;; ++version) {
      field.StoreAll(version);
      if (version == 120) storing.Say('s');
    }
  }
  findings.Expect(storing.Hear() == 's', "the child begins");
  field.StoreAll(121, 0, 2);
  kill(child, SIGKILL);
  findings.ExpectEnd(child, "SIGKILL");
}

// What may be done with memory is the child's as well.
void Protection(Field& field, Findings& findings) {
  constexpr size_t kSize = size_t{2} << 20;
  std::byte* const bytes = MapBytes(kSize);
  bytes[0] = bytes[kSize - 1] = std::byte{7};
  Require(mprotect(bytes, kSize / 2, PROT_READ) == 0, "mprotect");
  const pid_t reads = Fork();
  if (reads == 0) _exit(bytes[0] == std::byte{7} && field.IsWhole() ? kGood : kWrongBefore);
  findings.ExpectEnd(reads, "exit 0");
  const pid_t writes = Fork();
  if (writes == 0) {
    bytes[0] = std::byte{8};
    _exit(kWrongAfter);
  }
  findings.ExpectEnd(writes, "SIGSEGV");
  const pid_t allows = Fork();
  if (allows == 0) {
    Require(mprotect(bytes, kSize, PROT_READ | PROT_WRITE) == 0, "mprotect");
    bytes[0] = std::byte{9};
    _exit(bytes[0] == std::byte{9} && bytes[kSize - 1] == std::byte{7} ? kGood : kWrongAfter);
  }
  findings.ExpectEnd(allows, "exit 0");
  findings.Expect(bytes[0] == std::byte{7}, "the parent's byte");
  munmap(bytes, kSize);
}

void WipedOnFork(Field&, Findings& findings) {
  constexpr size_t kSize = size_t{2} << 20;
  std::byte* const bytes = MapBytes(kSize);
  std::memset(bytes, 1, kSize);
  SendAway(bytes, kSize);
  if (madvise(bytes, kSize, MADV_WIPEONFORK) != 0) {
    findings.Refuse(strerrorname_np(errno));
  } else {
    const pid_t child = Fork();
    if (child == 0) {
      for (size_t at = 0; at < kSize; at += kPage) {
        if (bytes[at] != std::byte{0}) _exit(kWrongBefore);
      }
      _exit(kGood);
    }
    findings.ExpectEnd(child, "exit 0");
  }
  munmap(bytes, kSize);
}

void Statuses(Field& field, Findings& findings) {
  const pid_t leaves = Fork();
  if (leaves == 0) _exit(field.IsWhole() ? 77 : kWrongBefore);
  findings.ExpectEnd(leaves, "exit 77");
  const pid_t aborts = Fork();
  if (aborts == 0) std::abort();
  findings.ExpectEnd(aborts, "SIGABRT");
  const pid_t stops = Fork();
  if (stops == 0) {
    raise(SIGSTOP);
    _exit(CheckAndStore(field, 130));
  }
  int status = 0;
  findings.Expect(waitpid(stops, &status, WUNTRACED) == stops && WIFSTOPPED(status) &&
                      WSTOPSIG(status) == SIGSTOP,
                  "it stops");
  kill(stops, SIGCONT);
  findings.Expect(waitpid(stops, &status, WCONTINUED) == stops && WIFCONTINUED(status),
                  "it continues");
  findings.ExpectEnd(stops, "exit 0");
  findings.Expect(waitpid(-1, nullptr, WNOHANG) == -1 && errno == ECHILD, "there are no others");
}

volatile int ended_children;
std::byte* noted;
void OnChild(int) {
  const int saved_errno = errno;
  while (waitpid(-1, nullptr, WNOHANG) > 0) {
    ended_children = ended_children + 1;
    noted[static_cast<size_t>(ended_children) * kPage] = std::byte{1};
  }
  errno = saved_errno;
}

// Who reaps its children in a handler, which notes them in memory that may be away.
void ReapedInAHandler(Field& field, Findings& findings) {
  constexpr int kChildren = 6;
  noted = MapBytes(size_t{1} << 20);
  SendAway(noted, size_t{1} << 20);
  struct sigaction action {};
  action.sa_handler = OnChild;
  action.sa_flags = SA_RESTART;
  struct sigaction before {};
  sigset_t child_ends;
  sigset_t mask;
  sigemptyset(&child_ends);
  sigaddset(&child_ends, SIGCHLD);
  ended_children = 0;
  sigaction(SIGCHLD, &action, &before);
  for (int i = 0; i < kChildren; ++i) {
    if (Fork() == 0) _exit(kGood);
    field.StoreAll(140 + static_cast<uint32_t>(i), static_cast<size_t>(i), 20);
  }
  sigprocmask(SIG_BLOCK, &child_ends, &mask);
  while (ended_children < kChildren) sigsuspend(&mask);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  sigaction(SIGCHLD, &before, nullptr);
  for (size_t i = 1; i <= kChildren; ++i) {
    findings.Expect(noted[i * kPage] == std::byte{1}, "a child's note");
  }
  munmap(noted, size_t{1} << 20);
}

// Past the C library: nobody hears of it who could bring a child its memory.
void CloneByNumber(Field& field, Findings& findings) {
  const long child = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
  if (child == 0) {
    const bool good = field.IsWhole();
    syscall(SYS_exit_group, good ? kGood : kWrongBefore);
  }
  Require(child > 0, "clone");
  const std::string end = AwaitEnd(static_cast<pid_t>(child));
  if (end == "SIGSEGV") return findings.Refuse("a child by clone(2) has no far memory: SIGSEGV");
  findings.Expect(end == "exit 0", "a child ended by " + end);
}

void ForkWithoutHandlers(Field& field, Findings& findings) {
  const pid_t child = _Fork();
  if (child == 0) _exit(field.IsWhole() ? kGood : kWrongBefore);
  Require(child > 0, "_Fork");
  const std::string end = AwaitEnd(child);
  if (end == "SIGSEGV") return findings.Refuse("a child by _Fork(3) has no far memory: SIGSEGV");
  findings.Expect(end == "exit 0", "a child ended by " + end);
}

constexpr Row kRows[] = {
    {"fork", PlainFork},
    {"four children at a time", ManyChildren},
    {"nested forks", NestedForks},
    {"a child outlives its parent", OutlivesParent},
    {"a daemon", Daemon},
    {"fork amid stores", AmidStores},
    {"fork amid allocation and sweeps", AmidAllocation},
    {"threads of a child", ThreadsOfAChild},
    {"a thread forks", AThreadForks},
    {"a child killed amid stores", KilledAmidStores},
    {"a child's protection", Protection},
    {"MADV_WIPEONFORK", WipedOnFork},
    {"statuses of children", Statuses},
    {"children reaped in a handler", ReapedInAHandler},
    {"clone by number", CloneByNumber},
    {"_Fork", ForkWithoutHandlers},
};

}  // namespace

std::span<const Row> ForkRows() { return kRows; }

}  // namespace process_matrix
