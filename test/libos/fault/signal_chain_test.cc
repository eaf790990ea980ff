// SPDX-License-Identifier: Apache-2.0
// SignalChain: which SIGBUS goes where, with which mask, on which stack, and that
// whatever is not ours ends as if we had never been.
#include "libos/fault/signal_chain.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstring>
#include <vector>

#include "libos/base/fd.h"
#include "test/support/child.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

// Pages of a file that can be cut off, so that touching them is a SIGBUS, and put
// back, so that the touch succeeds when it is tried again.
class FilePages {
 public:
  static constexpr size_t kPages = 4;
  FilePages() : file_(memfd_create("signal_chain_test", 0)) {
    Restore();
    begin_ = static_cast<std::byte*>(
        mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0));
  }
  ~FilePages() { munmap(begin_, kPages * kPageSize); }
  void Cut() { Resize(0); }
  void Restore() { Resize(kPages * kPageSize); }
  volatile char* page(size_t i) const {
    return reinterpret_cast<volatile char*>(begin_ + i * kPageSize);
  }
  AddressRange range() const { return {begin_, Bytes(kPages * kPageSize)}; }

 private:
  void Resize(size_t size) {
    if (ftruncate(file_.get(), static_cast<off_t>(size)) != 0) abort();
  }
  UniqueFd file_;
  std::byte* begin_ = nullptr;
};

// Reads a byte, and lets the compiler believe that handlers may have run.
char Touch(volatile char* byte) {
  const char value = *byte;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  return value;
}

// What handlers and sinks of one test saw; they have no other way to tell.
struct Seen {
  FilePages* pages = nullptr;
  std::atomic<int> app_calls{0};
  std::atomic<int> sink_calls{0};
  void* address = nullptr;
  int code = 0;
  int signal = 0;
  bool had_context = false;
  sigset_t mask;
  char* frame = nullptr;
  std::atomic<int> usr1_calls{0};
  int usr1_calls_in_sink = -1;
  sigjmp_buf back;
};
Seen* seen = nullptr;

void NoteApp(int signal) {
  ++seen->app_calls;
  seen->signal = signal;
  pthread_sigmask(SIG_BLOCK, nullptr, &seen->mask);
  seen->pages->Restore();
  errno = 4711;
}
void AppPlain(int signal) { NoteApp(signal); }
void AppInfo(int signal, siginfo_t* info, void* context) {
  seen->address = info->si_addr;
  seen->code = info->si_code;
  seen->had_context = context != nullptr;
  NoteApp(signal);
}

class Sink final : public FaultSink {
 public:
  FaultOutcome OnFault(Vpn vpn, FaultKind) noexcept override {
    ++seen->sink_calls;
    seen->address = vpn.address();
    seen->frame = static_cast<char*>(__builtin_frame_address(0));
    pthread_sigmask(SIG_BLOCK, nullptr, &seen->mask);
    if (raise_usr1) pthread_kill(pthread_self(), SIGUSR1);
    seen->usr1_calls_in_sink = seen->usr1_calls;
    errno = 4712;
    if (outcome != FaultOutcome::kNotOurs) seen->pages->Restore();
    return outcome;
  }
  FaultOutcome outcome = FaultOutcome::kMapped;
  bool raise_usr1 = false;
};

// A fresh record, and every signal's action put back at the end.
class Stage {
 public:
  Stage() {
    seen_.pages = &pages_;
    seen = &seen_;
    for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], nullptr, &before_[i]);
  }
  ~Stage() {
    for (size_t i = 0; i < kSignals.size(); ++i) sigaction(kSignals[i], &before_[i], nullptr);
    seen = nullptr;
  }
  FilePages& pages() { return pages_; }

 private:
  static constexpr std::array<int, 3> kSignals = {SIGBUS, SIGSEGV, SIGUSR1};
  std::array<struct sigaction, 3> before_;
  FilePages pages_;
  Seen seen_;
};

// The chain installed and, perhaps, a range covered, for a scope.
class Installed {
 public:
  Installed() { REQUIRE(SignalChain::Install().ok()); }
  ~Installed() {
    if (covered_.size.raw() != 0) covered_ranges().Erase(covered_);
    SignalChain::Uninstall();
  }
  void Cover(AddressRange range, FaultSink& sink) {
    covered_ranges().Insert(range, &sink);
    covered_ = range;
  }

 private:
  AddressRange covered_;
};

void SetApp(void (*plain)(int), int flags = 0, std::initializer_list<int> masked = {}) {
  struct sigaction action {};
  action.sa_handler = plain;
  action.sa_flags = flags;
  for (const int signal : masked) sigaddset(&action.sa_mask, signal);
  REQUIRE(sigaction(SIGBUS, &action, nullptr) == 0);
}
void SetApp(void (*info)(int, siginfo_t*, void*), int flags = 0,
            std::initializer_list<int> masked = {}) {
  struct sigaction action {};
  action.sa_sigaction = info;
  action.sa_flags = flags | SA_SIGINFO;
  for (const int signal : masked) sigaddset(&action.sa_mask, signal);
  REQUIRE(sigaction(SIGBUS, &action, nullptr) == 0);
}

// Sends this thread a SIGBUS that says it came from the kernel.
void SendSigbus(int code, volatile void* address) {
  siginfo_t info{};
  info.si_signo = SIGBUS;
  info.si_code = code;
  info.si_addr = const_cast<void*>(address);
  syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), SIGBUS, &info);
}

TEST_CASE("a fault in a covered range goes to its sink and to nobody else", "[fault]") {
  Stage stage;
  SetApp(AppInfo);
  Installed chain;
  Sink sink;
  chain.Cover(stage.pages().range(), sink);
  stage.pages().Cut();
  *stage.pages().page(2) = 7;
  CHECK(Touch(stage.pages().page(2)) == 7);
  CHECK(seen->sink_calls == 1);
  CHECK(seen->address == stage.pages().page(2));
  CHECK(seen->app_calls == 0);
}

TEST_CASE("a foreign fault reaches the application's handler with its address", "[fault]") {
  Stage stage;
  SetApp(AppInfo);
  Installed chain;
  stage.pages().Cut();
  CHECK(Touch(stage.pages().page(1) + 123) == 0);
  CHECK(seen->app_calls == 1);
  CHECK(seen->signal == SIGBUS);
  CHECK(seen->address == stage.pages().page(1) + 123);
  CHECK(seen->code == BUS_ADRERR);
  CHECK(seen->had_context);
}

TEST_CASE("a foreign fault reaches a handler that takes the number alone", "[fault]") {
  Stage stage;
  SetApp(AppPlain);
  Installed chain;
  stage.pages().Cut();
  CHECK(Touch(stage.pages().page(0)) == 0);
  CHECK(seen->app_calls == 1);
  CHECK(seen->signal == SIGBUS);
}

TEST_CASE("what the sink does not own goes on to the application", "[fault]") {
  Stage stage;
  SetApp(AppInfo);
  Installed chain;
  Sink sink;
  sink.outcome = FaultOutcome::kNotOurs;
  chain.Cover(stage.pages().range(), sink);
  stage.pages().Cut();
  CHECK(Touch(stage.pages().page(3)) == 0);
  CHECK(seen->sink_calls == 1);
  CHECK(seen->app_calls == 1);
}

TEST_CASE("a SIGBUS that is no missing page is the application's, covered or not", "[fault]") {
  Stage stage;
  SetApp(AppInfo);
  Installed chain;
  Sink sink;
  chain.Cover(stage.pages().range(), sink);
  SendSigbus(BUS_OBJERR, stage.pages().page(1));
  CHECK(seen->sink_calls == 0);
  CHECK(seen->app_calls == 1);
  CHECK(seen->code == BUS_OBJERR);
  raise(SIGBUS);
  CHECK(seen->sink_calls == 0);
  CHECK(seen->app_calls == 2);
}

TEST_CASE("without a handler of its own the application dies by SIGBUS", "[fault]") {
  for (const bool sent : {false, true}) {
    CAPTURE(sent);
    const ChildEnd end = RunInChild([sent] {
      Stage stage;
      signal(SIGBUS, SIG_DFL);
      if (!SignalChain::Install().ok()) return 1;
      stage.pages().Cut();
      if (sent) {
        kill(getpid(), SIGBUS);
      } else {
        *stage.pages().page(0) = 1;
      }
      return 0;
    });
    INFO(end.text);
    CHECK(end.signal == SIGBUS);
  }
}

TEST_CASE("a fault in a hole of covered memory kills like any other", "[fault]") {
  const ChildEnd end = RunInChild([] {
    Stage stage;
    signal(SIGBUS, SIG_DFL);
    if (!SignalChain::Install().ok()) return 1;
    Sink sink;
    sink.outcome = FaultOutcome::kNotOurs;
    covered_ranges().Insert(stage.pages().range(), &sink);
    stage.pages().Cut();
    *stage.pages().page(0) = 1;
    return 0;
  });
  CHECK(end.signal == SIGBUS);
}

TEST_CASE("an ignored SIGBUS is survived when sent and fatal when a fault", "[fault]") {
  for (const bool sent : {false, true}) {
    CAPTURE(sent);
    const ChildEnd end = RunInChild([sent] {
      Stage stage;
      signal(SIGBUS, SIG_IGN);
      if (!SignalChain::Install().ok()) return 1;
      stage.pages().Cut();
      if (sent) {
        kill(getpid(), SIGBUS);
        kill(getpid(), SIGBUS);
        return 42;
      }
      *stage.pages().page(0) = 1;
      return 0;
    });
    INFO(end.text);
    CHECK(end.signal == (sent ? 0 : SIGBUS));
    if (sent) CHECK(end.status == 42);
  }
}

TEST_CASE("a memory error reported ahead of its use kills where nobody handles it", "[fault]") {
  // Nothing faults again afterwards, so that only a second signal can kill.
  const ChildEnd end = RunInChild([] {
    Stage stage;
    signal(SIGBUS, SIG_DFL);
    if (!SignalChain::Install().ok()) return 1;
    SendSigbus(BUS_MCEERR_AO, stage.pages().page(0));
    return 0;
  });
  INFO(end.text);
  CHECK(end.signal == SIGBUS);
}

TEST_CASE("a handler meant for one signal is not called for a second", "[fault]") {
  // As crash reporters have it: report, return, and die of the same fault.
  const ChildEnd end = RunInChild([] {
    Stage stage;
    struct sigaction action {};
    action.sa_handler = [](int) {
      if (++seen->app_calls > 10) _exit(9);
      [[maybe_unused]] const ssize_t ignored = write(STDOUT_FILENO, "reported\n", 9);
    };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(SIGBUS, &action, nullptr);
    if (!SignalChain::Install().ok()) return 1;
    stage.pages().Cut();
    *stage.pages().page(0) = 1;
    return 0;
  });
  CHECK(end.signal == SIGBUS);
  CHECK(end.text == "reported\n");
}

TEST_CASE("the application's handler runs with the mask that it asked for", "[fault]") {
  const bool nodefer = GENERATE(false, true);
  CAPTURE(nodefer);
  Stage stage;
  SetApp(AppInfo, nodefer ? SA_NODEFER : 0, {SIGHUP});
  Installed chain;
  sigset_t usr2;
  sigset_t before;
  sigemptyset(&usr2);
  sigaddset(&usr2, SIGUSR2);
  REQUIRE(pthread_sigmask(SIG_BLOCK, &usr2, &before) == 0);
  stage.pages().Cut();
  CHECK(Touch(stage.pages().page(0)) == 0);
  CHECK(sigismember(&seen->mask, SIGHUP) == 1);   // Its own.
  CHECK(sigismember(&seen->mask, SIGUSR2) == 1);  // The interrupted thread's.
  CHECK(sigismember(&seen->mask, SIGUSR1) == 0);  // Ours, which is not its business.
  CHECK(sigismember(&seen->mask, SIGTERM) == 0);
  CHECK(sigismember(&seen->mask, SIGBUS) == (nodefer ? 0 : 1));
  sigset_t after;
  REQUIRE(pthread_sigmask(SIG_SETMASK, &before, &after) == 0);
  CHECK(sigismember(&after, SIGUSR2) == 1);
  CHECK(sigismember(&after, SIGHUP) == 0);
  CHECK(sigismember(&after, SIGBUS) == 0);
}

TEST_CASE("asynchronous signals wait until the fault is served", "[fault]") {
  Stage stage;
  struct sigaction action {};
  action.sa_handler = [](int) { ++seen->usr1_calls; };
  REQUIRE(sigaction(SIGUSR1, &action, nullptr) == 0);
  Installed chain;
  Sink sink;
  sink.raise_usr1 = true;
  chain.Cover(stage.pages().range(), sink);
  stage.pages().Cut();
  CHECK(Touch(stage.pages().page(0)) == 0);
  CHECK(seen->sink_calls == 1);
  CHECK(seen->usr1_calls_in_sink == 0);
  CHECK(seen->usr1_calls == 1);
  for (const int signal : {SIGHUP, SIGINT, SIGALRM, SIGTERM, SIGUSR1, SIGCHLD, SIGPROF, SIGRTMIN}) {
    CHECK(sigismember(&seen->mask, signal) == 1);
  }
  // ThreadSanitizer wraps handlers in one of its own that blocks everything.
  if (!kUnderTsan) {
    for (const int signal : {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGABRT}) {
      CHECK(sigismember(&seen->mask, signal) == 0);
    }
  }
  sigset_t after;
  REQUIRE(pthread_sigmask(SIG_BLOCK, nullptr, &after) == 0);
  CHECK(sigismember(&after, SIGUSR1) == 0);
  CHECK(sigismember(&after, SIGTERM) == 0);
}

TEST_CASE("the program's errno survives faults, ours and foreign", "[fault]") {
  Stage stage;
  SetApp(AppPlain);
  Installed chain;
  Sink sink;
  chain.Cover({stage.pages().range().begin, Bytes(kPageSize)}, sink);
  for (const size_t page : {0u, 1u}) {
    stage.pages().Cut();
    errno = 77;
    const char byte = Touch(stage.pages().page(page));
    const int after = errno;
    CHECK(byte == 0);
    CHECK(after == 77);
  }
  CHECK(seen->sink_calls == 1);
  CHECK(seen->app_calls == 1);
}

TEST_CASE("faults are served on the thread's alternate stack if it has one", "[fault]") {
  const bool alternate = GENERATE(false, true);
  CAPTURE(alternate);
  Stage stage;
  Installed chain;
  Sink sink;
  chain.Cover(stage.pages().range(), sink);
  std::vector<char> memory(1 << 18);
  bool on_it = !alternate;
  bool on_own = alternate;
  RunTogether(1, [&](uint32_t) {
    stack_t stack{};
    stack_t before{};
    stack.ss_sp = memory.data();
    stack.ss_size = memory.size();
    if (!alternate) stack.ss_flags = SS_DISABLE;  // Sanitizers give threads one.
    sigaltstack(&stack, &before);
    stage.pages().Cut();
    Touch(stage.pages().page(0));
    const char* const here = static_cast<char*>(__builtin_frame_address(0));
    on_it = seen->frame >= memory.data() && seen->frame < memory.data() + memory.size();
    on_own = seen->frame < here && here - seen->frame < (1 << 17);
    sigaltstack(&before, nullptr);
  });
  CHECK(seen->sink_calls == 1);
  CHECK(on_it == alternate);
  CHECK(on_own == !alternate);
}

class NestedSink final : public FaultSink {
 public:
  FaultOutcome OnFault(Vpn vpn, FaultKind) noexcept override {
    const int depth = ++seen->sink_calls;
    if (depth == 1) {
      // As a sweep on this thread that reads a page discarded behind its back.
      value = Touch(seen->pages->page(2));
      ++completed;
    } else {
      nested_vpn = vpn;
      seen->pages->Restore();
    }
    return FaultOutcome::kMapped;
  }
  int completed = 0;
  int value = -1;
  Vpn nested_vpn;
};

TEST_CASE("a sink may fault itself and is served", "[fault]") {
  if (kUnderTsan) {
    WARN("skipped: ThreadSanitizer blocks SIGBUS in handlers, so that a fault there kills");
    return;
  }
  Stage stage;
  Installed chain;
  NestedSink sink;
  chain.Cover(stage.pages().range(), sink);
  stage.pages().Cut();
  CHECK(Touch(stage.pages().page(1)) == 0);
  CHECK(sink.completed == 1);
  CHECK(sink.value == 0);
  CHECK(sink.nested_vpn == Vpn::Of(const_cast<char*>(stage.pages().page(2))));
  CHECK(seen->sink_calls == 2);
}

TEST_CASE("SIGSEGV stays with the application", "[fault]") {
  Stage stage;
  struct sigaction action {};
  action.sa_sigaction = [](int, siginfo_t* info, void*) {
    ++seen->app_calls;
    mprotect(info->si_addr, kPageSize, PROT_READ | PROT_WRITE);
  };
  action.sa_flags = SA_SIGINFO;
  REQUIRE(sigaction(SIGSEGV, &action, nullptr) == 0);
  Installed chain;
  Sink sink;
  chain.Cover(stage.pages().range(), sink);
  struct sigaction now;
  REQUIRE(sigaction(SIGSEGV, nullptr, &now) == 0);
  CHECK(now.sa_sigaction == action.sa_sigaction);
  REQUIRE(mprotect(const_cast<char*>(stage.pages().page(1)), kPageSize, PROT_NONE) == 0);
  *stage.pages().page(1) = 1;
  CHECK(Touch(stage.pages().page(1)) == 1);
  CHECK(seen->app_calls == 1);
  CHECK(seen->sink_calls == 0);
}

TEST_CASE("the last Uninstall puts back what was there before", "[fault]") {
  Stage stage;
  SetApp(AppInfo, SA_NODEFER, {SIGHUP});
  const auto current = [] {
    struct sigaction action;
    sigaction(SIGBUS, nullptr, &action);
    return action;
  };
  REQUIRE(SignalChain::Install().ok());
  CHECK(current().sa_sigaction != AppInfo);
  REQUIRE(SignalChain::Install().ok());
  SignalChain::Uninstall();
  CHECK(current().sa_sigaction != AppInfo);
  SignalChain::Uninstall();
  CHECK(current().sa_sigaction == AppInfo);
  CHECK((current().sa_flags & (SA_SIGINFO | SA_NODEFER)) == (SA_SIGINFO | SA_NODEFER));
  const sigset_t mask = current().sa_mask;
  CHECK(sigismember(&mask, SIGHUP) == 1);
  CHECK(sigismember(&mask, SIGTERM) == 0);
  // It can be done again, over another handler.
  SetApp(AppPlain);
  REQUIRE(SignalChain::Install().ok());
  stage.pages().Cut();
  CHECK(Touch(stage.pages().page(0)) == 0);
  CHECK(seen->app_calls == 1);
  SignalChain::Uninstall();
  CHECK(current().sa_handler == AppPlain);
}

TEST_CASE("Uninstall leaves a handler that came after ours", "[fault]") {
  Stage stage;
  REQUIRE(SignalChain::Install().ok());
  SetApp(AppPlain);
  SignalChain::Uninstall();
  struct sigaction action;
  REQUIRE(sigaction(SIGBUS, nullptr, &action) == 0);
  CHECK(action.sa_handler == AppPlain);
}

TEST_CASE("an application may jump out of its handler, and faults go on", "[fault]") {
  Stage stage;
  SetApp([](int) {
    ++seen->app_calls;
    siglongjmp(seen->back, 1);
  });
  Installed chain;
  Sink sink;
  const AddressRange covered{stage.pages().range().begin, Bytes(kPageSize)};
  chain.Cover(covered, sink);
  stage.pages().Cut();
  while (seen->app_calls < 100) {
    if (sigsetjmp(seen->back, 1) == 0) {
      Touch(stage.pages().page(2));
      FAIL("the fault was not seen");
    }
  }
  CHECK(seen->app_calls == 100);
  CHECK(Touch(stage.pages().page(0)) == 0);
  CHECK(seen->sink_calls == 1);
  sigset_t mask;
  REQUIRE(pthread_sigmask(SIG_BLOCK, nullptr, &mask) == 0);
  CHECK(sigismember(&mask, SIGTERM) == 0);
  // The end of `chain` waits for readers: none may have been left behind.
}

class CountingSink final : public FaultSink {
 public:
  FaultOutcome OnFault(Vpn, FaultKind) noexcept override {
    ++calls;
    seen->pages->Restore();
    return FaultOutcome::kMapped;
  }
  std::atomic<uint64_t> calls{0};
};

TEST_CASE("many threads fault at once, on ours and on foreign pages", "[fault]") {
  constexpr uint32_t kThreads = 4;
  Stage stage;
  SetApp([](int) {
    ++seen->app_calls;
    seen->pages->Restore();
  });
  Installed chain;
  CountingSink sink;
  chain.Cover({stage.pages().range().begin, Bytes(2 * kPageSize)}, sink);
  std::atomic<uint32_t> wrong{0};
  RunTogether(kThreads, [&](uint32_t thread) {
    for (uint32_t i = 0; i < Rounds(5'000); ++i) {
      if (i % 4 == 0) stage.pages().Cut();
      if (*stage.pages().page((i + thread) % FilePages::kPages) != 0) ++wrong;
    }
  });
  CHECK(wrong == 0);
  CHECK(sink.calls > 0);
  CHECK(seen->app_calls > 0);
}

}  // namespace
}  // namespace spiritos
