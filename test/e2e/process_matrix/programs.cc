// SPDX-License-Identifier: Apache-2.0
// Programs that this one starts or becomes, and children and threads that share its memory.
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>

#include "test/e2e/process_matrix/field.h"

namespace process_matrix {
namespace {

constexpr int kNotBegun = 100;
constexpr size_t kSize = size_t{2} << 20;

// Words for a new program in memory of their own, which goes away before they are used.
class FarWords {
 public:
  FarWords() : bytes_(MapBytes(kSize)) {}
  ~FarWords() { munmap(bytes_, kSize); }
  FarWords(const FarWords&) = delete;
  FarWords& operator=(const FarWords&) = delete;

  // Half of the word lies in the one page, half in the next.
  char* Word(std::string_view text) {
    std::byte* const border = bytes_ + (next_ + 1) * kPage;
    next_ += 2 + text.size() / kPage;
    Require(next_ * kPage < kSize, "room for words");
    auto* const at = reinterpret_cast<char*>(border - std::min(text.size() / 2, kPage));
    std::memcpy(at, text.data(), text.size());
    at[text.size()] = 0;
    return at;
  }
  template <size_t count>
  char** List(const std::array<char*, count>& words) {
    std::byte* const at = bytes_ + (next_ + 1) * kPage - 2 * sizeof(char*);
    next_ += 2;
    return static_cast<char**>(std::memcpy(at, words.data(), sizeof(words)));
  }
  template <typename T>
  T* Room() {
    std::byte* const at = bytes_ + next_ * kPage;
    next_ += 1 + sizeof(T) / kPage;
    return new (at) T{};
  }
  void Leave() const { SendAway(bytes_, kSize); }

 private:
  std::byte* const bytes_;
  size_t next_ = 0;
};

struct Shell {
  Shell(FarWords& words, std::string_view script)
      : name(words.Word("/bin/sh")),
        arguments(words.List(std::array<char*, 6>{words.Word("shell"), words.Word("-c"),
                                                  words.Word(script), words.Word("zero"),
                                                  words.Word("a first argument"), nullptr})),
        environment(words.List(std::array<char*, 2>{words.Word("WORD=of twelve"), nullptr})) {}
  char* name;
  char** arguments;
  char** environment;
};
constexpr std::string_view kScript =
    "test \"$1\" = 'a first argument' && test \"$WORD\" = 'of twelve' && exit 5";

void ExecuteAfterVfork(Field& field, Findings& findings) {
  FarWords words;
  const Shell shell(words, kScript);
  words.Leave();
  const pid_t child = vfork();
  if (child == 0) {
    execve(shell.name, shell.arguments, shell.environment);
    _exit(kNotBegun);
  }
  field.StoreAll(200, 0, 3);
  findings.ExpectEnd(child, "exit 5");
}

void ExecuteAfterFork(Field& field, Findings& findings) {
  FarWords words;
  const Shell shell(words, kScript);
  words.Leave();
  const pid_t child = fork();
  if (child == 0) {
    execve(shell.name, shell.arguments, shell.environment);
    _exit(kNotBegun);
  }
  field.StoreAll(201, 1, 3);
  findings.ExpectEnd(child, "exit 5");
}

void ManyArguments(Field&, Findings& findings) {
  FarWords words;
  constexpr size_t kLong = 60'000;
  char** const arguments = words.List(std::array<char*, 7>{
      words.Word("shell"), words.Word("-c"),
      words.Word("test ${#1} = 60000 && test ${#2} = 60000 && test \"$1\" != \"$2\" && exit 6"),
      words.Word("zero"), words.Word(std::string(kLong, 'a')), words.Word(std::string(kLong, 'b')),
      nullptr});
  char* const name = words.Word("/bin/sh");
  words.Leave();
  const pid_t child = vfork();
  if (child == 0) {
    execv(name, arguments);
    _exit(kNotBegun);
  }
  findings.ExpectEnd(child, "exit 6");
}

std::string ReadAll(int fd) {
  std::string text;
  std::array<char, 256> part;
  for (ssize_t size; (size = read(fd, part.data(), part.size())) != 0;) {
    if (size < 0 && errno == EINTR) continue;
    Require(size > 0, "read");
    text.append(part.data(), static_cast<size_t>(size));
  }
  return text;
}

void Spawn(Field& field, Findings& findings) {
  std::array<int, 2> ends;
  Require(pipe2(ends.data(), O_CLOEXEC) == 0, "pipe");
  FarWords words;
  char* const name = words.Word("/bin/grep");
  char** const arguments = words.List(std::array<char*, 6>{
      words.Word("grep"), words.Word("-aohE"), words.Word("WORD=of twelve|SigBlk.*"),
      words.Word("/proc/self/environ"), words.Word("/proc/self/status"), nullptr});
  char** const environment =
      words.List(std::array<char*, 2>{words.Word("WORD=of twelve"), nullptr});
  auto* const actions = words.Room<posix_spawn_file_actions_t>();
  auto* const attributes = words.Room<posix_spawnattr_t>();
  auto* const mask = words.Room<sigset_t>();
  auto* const child = words.Room<pid_t>();
  char* const null = words.Word("/dev/null");
  posix_spawn_file_actions_init(actions);
  posix_spawn_file_actions_addopen(actions, 0, null, O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(actions, ends[1], 1);
  posix_spawn_file_actions_addclose(actions, ends[0]);
  posix_spawnattr_init(attributes);
  sigemptyset(mask);
  sigaddset(mask, SIGUSR1);
  posix_spawnattr_setsigmask(attributes, mask);
  posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
  words.Leave();
  const int error = posix_spawn(child, name, actions, attributes, arguments, environment);
  findings.Expect(error == 0, std::strerror(error));
  close(ends[1]);
  field.StoreAll(202, 0, 2);
  if (error == 0) {
    const std::string said = ReadAll(ends[0]);
    findings.Expect(said == "WORD=of twelve\nSigBlk:\t0000000000000200\n", said);
    findings.Expect(getpgid(*child) == *child, "the child's process group");
    findings.ExpectEnd(*child, "exit 0");
  }
  close(ends[0]);
  posix_spawn_file_actions_destroy(actions);
  posix_spawnattr_destroy(attributes);
}

void SpawnNothing(Field&, Findings& findings) {
  FarWords words;
  char* const name = words.Word("/no/such/program");
  char** const arguments = words.List(std::array<char*, 2>{name, nullptr});
  words.Leave();
  pid_t child = -1;
  findings.Expect(posix_spawn(&child, name, nullptr, nullptr, arguments, arguments) == ENOENT,
                  "it says that there is no such program");
}

void CommandOfTheLibrary(Field&, Findings& findings) {
  FarWords words;
  const char* const command = words.Word("test -d / && exit 3");
  const char* const other = words.Word("echo what is said");
  words.Leave();
  const int status = std::system(command);  // NOLINT(bugprone-command-processor)
  findings.Expect(WIFEXITED(status) && WEXITSTATUS(status) == 3, "system(3)");
  FILE* const stream = popen(other, "r");
  Require(stream != nullptr, "popen");
  std::array<char, 64> line{};
  findings.Expect(std::fgets(line.data(), line.size(), stream) != nullptr &&
                      std::string_view(line.data()) == "what is said\n",
                  "popen(3)");
  findings.Expect(pclose(stream) == 0, "pclose(3)");
}

// It shares memory until it ends: the parent has what it stored.
void StoresAfterVfork(Field& field, Findings& findings) {
  SendAway(field.at(0), Field::kPages * kPage);
  const pid_t child = vfork();
  if (child == 0) {
    field.StoreAll(203, 5, 11);
    _exit(field.IsWhole() ? 0 : 1);
  }
  findings.ExpectEnd(child, "exit 0");
}

int StoreAndCheck(void* field) {
  static_cast<Field*>(field)->StoreAll(204, 3, 13);
  return static_cast<Field*>(field)->IsWhole() ? 0 : 1;
}

void SharesMemory(Field& field, Findings& findings, std::byte* stack) {
  SendAway(field.at(0), Field::kPages * kPage);
  SendAway(stack, kSize);
  const pid_t child = clone(StoreAndCheck, stack + kSize, CLONE_VM | CLONE_VFORK | SIGCHLD, &field);
  findings.ExpectEnd(child, "exit 0");
}

void CloneOnNearStack(Field& field, Findings& findings) {
  alignas(kPage) static std::array<std::byte, kSize> stack;
  SharesMemory(field, findings, stack.data());
}

void CloneOnFarStack(Field& field, Findings& findings) {
  std::byte* const stack = MapBytes(kSize);
  SharesMemory(field, findings, stack);
  munmap(stack, kSize);
}

// Whether a thread ends, and this one learns of it, while its stack is sent away.
bool EndsMeanwhile(pthread_t thread, const std::byte* at, size_t size) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (pthread_tryjoin_np(thread, nullptr) == EBUSY) {
    SendAway(at, size);
    if (std::chrono::steady_clock::now() > deadline) return false;
  }
  return true;
}

// Its stack and thread-local memory come and go.
void ThreadOnFarStack(Field& field, Findings& findings) {
  std::byte* const stack = MapBytes(kSize);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  Require(pthread_attr_setstack(&attributes, stack, kSize) == 0, "pthread_attr_setstack");
  struct Work {
    Field& field;
    std::atomic<bool> good{false};
  } work{field};
  for (int round = 0; round < 3; ++round) {
    work.good = false;
    pthread_t thread;
    const auto body = [](void* argument) -> void* {
      auto* const work = static_cast<Work*>(argument);
      constexpr size_t kDeep = 100'000;
      char bytes[kDeep];
      volatile char* const deep = bytes;
      for (size_t i = 0; i < kDeep; i += 1000) deep[i] = static_cast<char>(i);
      work->field.StoreAll(205, 1, 17);
      bool good = work->field.IsWhole();
      for (size_t i = 0; i < kDeep; i += 1000) good = good && deep[i] == static_cast<char>(i);
      work->good = good;
      return nullptr;
    };
    Require(pthread_create(&thread, &attributes, body, &work) == 0, "pthread_create");
    if (!EndsMeanwhile(thread, stack, kSize)) {
      return findings.Expect(false, "a thread ends, and nobody learns of it");
    }
    findings.Expect(work.good, "memory of a thread");
  }
  pthread_attr_destroy(&attributes);
  munmap(stack, kSize);
}

// The kernel says that a thread has ended in its control block, at the end of its stack.
void ThreadsEndOnFarStacks(Field&, Findings& findings) {
  constexpr size_t kControl = 2 * kPage;
  std::byte* const stack = MapBytes(kSize);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  Require(pthread_attr_setstack(&attributes, stack, kSize) == 0, "pthread_attr_setstack");
  for (int round = 0; round < 400; ++round) {
    pthread_t thread;
    const auto body = [](void* argument) { return argument; };
    Require(pthread_create(&thread, &attributes, body, nullptr) == 0, "pthread_create");
    if (!EndsMeanwhile(thread, stack + kSize - kControl, kControl)) {
      return findings.Expect(false, "a thread ends, and nobody learns of it");
    }
  }
  pthread_attr_destroy(&attributes);
  munmap(stack, kSize);
}

// Of itself, with memory as large; in the place of a child with threads.
void BecomesItself(Field&, Findings& findings) {
  FarWords words;
  char* const name = words.Word("/proc/self/exe");
  char** const arguments =
      words.List(std::array<char*, 3>{words.Word("process_matrix"), words.Word("again"), nullptr});
  words.Leave();
  const pid_t child = fork();
  if (child == 0) {
    std::byte* const other = MapBytes(kSize);
    std::atomic<int> passes{0};
    for (int i = 0; i < 2; ++i) {
      std::thread([other, &passes] {
        for (;; ++passes) {
          for (size_t at = 0; at < kSize; at += kPage) other[at] ^= std::byte{1};
        }
      }).detach();
    }
    while (passes == 0) std::this_thread::yield();
    execv(name, arguments);
    _exit(kNotBegun);
  }
  findings.ExpectEnd(child, "exit 8");
}

constexpr Row kRows[] = {
    {"vfork, execve", ExecuteAfterVfork},
    {"fork, execve", ExecuteAfterFork},
    {"execve with long arguments", ManyArguments},
    {"posix_spawn", Spawn},
    {"posix_spawn of nothing", SpawnNothing},
    {"system, popen", CommandOfTheLibrary},
    {"vfork, the child stores", StoresAfterVfork},
    {"clone with CLONE_VM on a near stack", CloneOnNearStack},
    {"clone with CLONE_VM on a far stack", CloneOnFarStack},
    {"a thread on a far stack", ThreadOnFarStack},
    {"threads end on far stacks", ThreadsEndOnFarStacks},
    {"execve of itself amid threads", BecomesItself},
};

}  // namespace

std::span<const Row> ProgramRows() { return kRows; }

int RunAgain() {
  Field field;
  const pid_t child = fork();
  if (child == 0) _exit(field.IsWhole() ? 0 : 1);
  return AwaitEnd(child) == "exit 0" && field.IsWhole() ? 8 : 1;
}

}  // namespace process_matrix
