// SPDX-License-Identifier: Apache-2.0
// The program's own faults: its handlers get them, as they would without far memory, and the
// memory goes on.
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "test/e2e/process_matrix/field.h"

namespace process_matrix {
namespace {

constexpr size_t kSize = size_t{2} << 20;

// What a handler has been told. It jumps out where `leaves`.
struct Told {
  volatile int times;
  volatile int signal;
  volatile int code;
  void* volatile address;
  sigjmp_buf back;
};
Told told;

void Note(int signal, const siginfo_t* info) {
  told.times = told.times + 1;
  told.signal = signal;
  if (info == nullptr) return;
  told.code = info->si_code;
  told.address = info->si_addr;
}
void OnFault(int signal, siginfo_t* info, void*) {
  Note(signal, info);
  siglongjmp(told.back, 1);
}
void OnFaultPlainly(int signal) {
  Note(signal, nullptr);
  siglongjmp(told.back, 1);
}

class Handler {
 public:
  Handler(int signal, void (*body)(int, siginfo_t*, void*), int flags = 0) : signal_(signal) {
    struct sigaction action {};
    action.sa_sigaction = body;
    action.sa_flags = SA_SIGINFO | flags;
    Require(sigaction(signal, &action, &before_) == 0, "sigaction");
  }
  ~Handler() { sigaction(signal_, &before_, nullptr); }
  Handler(const Handler&) = delete;
  Handler& operator=(const Handler&) = delete;

 private:
  const int signal_;
  struct sigaction before_;
};

// Whether the access faults; `told` says how.
template <typename Access>
bool Faults(Access&& access) {
  told.signal = 0;
  told.code = 0;
  told.address = nullptr;
  if (sigsetjmp(told.back, 1) != 0) return true;
  access();
  return false;
}
bool LoadFaults(const std::byte* at) {
  return Faults([at] { static_cast<void>(*static_cast<const volatile std::byte*>(at)); });
}
bool StoreFaults(std::byte* at) {
  return Faults([at] { *static_cast<volatile std::byte*>(at) = std::byte{1}; });
}
bool Was(int signal, int code, const void* at) {
  return told.signal == signal && told.code == code && told.address == at;
}

// A mapping of a file whose second page is past the file's end.
class PastTheEnd {
 public:
  PastTheEnd() {
    const int fd = memfd_create("short", MFD_CLOEXEC);
    Require(fd >= 0 && ftruncate(fd, kPage) == 0, "memfd_create");
    void* const at = mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    Require(at != MAP_FAILED, "mmap");
    close(fd);
    bytes_ = static_cast<std::byte*>(at);
  }
  ~PastTheEnd() { munmap(bytes_, 2 * kPage); }
  PastTheEnd(const PastTheEnd&) = delete;
  PastTheEnd& operator=(const PastTheEnd&) = delete;
  std::byte* within() const { return bytes_ + 5; }
  std::byte* beyond() const { return bytes_ + kPage + 5; }

 private:
  std::byte* bytes_;
};

void SendAllAway(const Field& field) { SendAway(field.at(0), Field::kPages * kPage); }

void ExpectBusFaults(Field& field, Findings& findings, bool with_address = true) {
  const PastTheEnd file;
  findings.Expect(!StoreFaults(file.within()), "within the file there is no fault");
  for (int round = 0; round < 2; ++round) {
    SendAllAway(field);
    findings.Expect(LoadFaults(file.beyond()), "a load past the end faults");
    findings.Expect(with_address ? Was(SIGBUS, BUS_ADRERR, file.beyond()) : told.signal == SIGBUS,
                    "what the handler is told");
    field.StoreAll(300 + static_cast<uint32_t>(round), 0, 2);
    findings.Expect(StoreFaults(file.beyond()) && told.signal == SIGBUS,
                    "a store past the end faults");
    findings.Expect(field.IsWhole(), "memory between faults");
  }
}

// It was installed before there was much memory.
void EarlyHandler(Field& field, Findings& findings) { ExpectBusFaults(field, findings); }

void LateHandler(Field& field, Findings& findings) {
  const Handler handler(SIGBUS, OnFault);
  ExpectBusFaults(field, findings);
}

void HandlerBySignal(Field& field, Findings& findings) {
  const auto before = signal(SIGBUS, OnFaultPlainly);
  ExpectBusFaults(field, findings, false);
  signal(SIGBUS, before);
}

void BusFromKill(Field& field, Findings& findings) {
  const Handler handler(SIGBUS, OnFault);
  SendAllAway(field);
  findings.Expect(Faults([] { raise(SIGBUS); }) && told.code == SI_TKILL, "raise(3)");
  field.StoreAll(310, 0, 2);
}

// Nobody handles it: the child ends by it, though its memory is far.
void DefaultActions(Field& field, Findings& findings) {
  for (const int number : {SIGBUS, SIGSEGV}) {
    const PastTheEnd file;
    const pid_t child = fork();
    Require(child >= 0, "fork");
    if (child == 0) {
      signal(number, SIG_DFL);
      if (!field.IsWhole()) _exit(1);
      if (number == SIGSEGV) mprotect(field.at(0), kPage, PROT_NONE);
      *static_cast<volatile std::byte*>(number == SIGBUS ? file.beyond() : field.at(0)) =
          std::byte{1};
      _exit(2);
    }
    findings.ExpectEnd(child, number == SIGBUS ? "SIGBUS" : "SIGSEGV");
  }
}

void Blocked(Field& field, Findings& findings) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  Require(pthread_sigmask(SIG_SETMASK, &all, &before) == 0, "pthread_sigmask");
  SendAllAway(field);
  field.StoreAll(320, 0, 2);
  findings.Expect(field.IsWhole(), "memory while all signals are blocked");
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Ignored(Field& field, Findings& findings) {
  const auto bus = signal(SIGBUS, SIG_IGN);
  const auto segment = signal(SIGSEGV, SIG_IGN);
  SendAllAway(field);
  field.StoreAll(321, 1, 2);
  findings.Expect(field.IsWhole(), "memory while its signals are ignored");
  signal(SIGBUS, bus);
  signal(SIGSEGV, segment);
}

void OwnSegmentFaults(Field& field, Findings& findings) {
  const Handler handler(SIGSEGV, OnFault);
  std::byte* const bytes = MapBytes(kSize);
  std::memset(bytes, 3, kSize);
  SendAway(bytes, kSize);
  std::byte* const at = bytes + 7 * kPage + 123;
  Require(mprotect(bytes, kSize / 2, PROT_NONE) == 0, "mprotect");
  findings.Expect(LoadFaults(at) && Was(SIGSEGV, SEGV_ACCERR, at), "a load of PROT_NONE");
  Require(mprotect(bytes, kSize / 2, PROT_READ) == 0, "mprotect");
  findings.Expect(!LoadFaults(at) && *at == std::byte{3}, "a load of PROT_READ");
  findings.Expect(StoreFaults(at) && Was(SIGSEGV, SEGV_ACCERR, at), "a store to PROT_READ");
  SendAllAway(field);
  findings.Expect(StoreFaults(at) && Was(SIGSEGV, SEGV_ACCERR, at), "another store");
  Require(mprotect(bytes, kSize / 2, PROT_READ | PROT_WRITE) == 0, "mprotect");
  findings.Expect(!StoreFaults(at) && *at == std::byte{1}, "a store to what may be written");
  munmap(bytes, kSize);
  findings.Expect(LoadFaults(at) && Was(SIGSEGV, SEGV_MAPERR, at), "a load of nothing");
}

std::byte* guarded;
void OnGuard(int signal, siginfo_t* info, void*) {
  const int saved_errno = errno;
  Note(signal, info);
  const auto offset = static_cast<size_t>(static_cast<std::byte*>(info->si_addr) - guarded);
  if (offset >= kSize) _exit(99);
  mprotect(guarded + offset / kPage * kPage, kPage, PROT_READ | PROT_WRITE);
  errno = saved_errno;
}

// As collectors of garbage do: the handler makes usable what the program stumbles over.
void GuardedPages(Field& field, Findings& findings) {
  const Handler handler(SIGSEGV, OnGuard);
  guarded = MapBytes(kSize);
  std::memset(guarded, 4, kSize);
  told.times = 0;
  int expected = 0;
  for (const int protection : {PROT_NONE, PROT_READ}) {
    Require(mprotect(guarded, kSize, protection) == 0, "mprotect");
    for (size_t page = 0; page < kSize / kPage; page += 7) {
      volatile std::byte* const byte = guarded + page * kPage;
      *byte = static_cast<std::byte>(page);
      ++expected;
      findings.Expect(
          *byte == static_cast<std::byte>(page) && guarded[page * kPage + 1] == std::byte{4},
          "a page that was guarded");
    }
    field.StoreAll(330, 0, 4);
  }
  findings.Expect(told.times == expected, "one fault for each page");
  munmap(guarded, kSize);
}

void LeavesHandlers(Field& field, Findings& findings) {
  const Handler handler(SIGSEGV, OnFault);
  std::byte* const forbidden = MapBytes(kSize);
  Require(mprotect(forbidden, kSize, PROT_NONE) == 0, "mprotect");
  told.times = 0;
  for (size_t i = 0; i < 500; ++i) {
    field.Store(i * 11 % Field::kPages, 340);
    findings.Expect(StoreFaults(forbidden + i * kPage % kSize), "a fault");
    findings.Expect(field.IsWhole(i * 11 % Field::kPages), "memory after a jump");
  }
  sigset_t mask;
  sigprocmask(SIG_BLOCK, nullptr, &mask);
  findings.Expect(told.times == 500, "a call of the handler for each fault");
  findings.Expect(sigismember(&mask, SIGSEGV) == 0, "the mask is what it was");
  munmap(forbidden, kSize);
}

Field* field_of_handler;
volatile bool on_stack;
std::byte* stack_begin;
void OnOwnStack(int signal, siginfo_t* info, void*) {
  constexpr size_t kDeep = 16 * 1024;
  std::byte bytes[kDeep];
  volatile std::byte* const deep = bytes;
  deep[0] = std::byte{9};
  deep[kDeep - 1] = std::byte{9};
  on_stack = bytes >= stack_begin && bytes < stack_begin + kSize;
  for (size_t page = 0; page < Field::kPages; page += 50) field_of_handler->Store(page, 350);
  Note(signal, info);
  if (deep[0] != std::byte{9} || deep[kDeep - 1] != std::byte{9}) _exit(98);
  if (signal == SIGSEGV) siglongjmp(told.back, 1);
}

void OnStack(Field& field, Findings& findings, std::byte* stack) {
  stack_t before{};
  const stack_t ours{stack, 0, kSize};
  Require(sigaltstack(&ours, &before) == 0, "sigaltstack");
  field_of_handler = &field;
  stack_begin = stack;
  {
    const Handler segment(SIGSEGV, OnOwnStack, SA_ONSTACK);
    const Handler user(SIGUSR1, OnOwnStack, SA_ONSTACK);
    std::byte* const forbidden = MapBytes(kSize);
    Require(mprotect(forbidden, kSize, PROT_NONE) == 0, "mprotect");
    for (int round = 0; round < 5; ++round) {
      SendAllAway(field);
      SendAway(stack, kSize);
      on_stack = false;
      findings.Expect(StoreFaults(forbidden) && Was(SIGSEGV, SEGV_ACCERR, forbidden), "a fault");
      findings.Expect(on_stack, "the handler is on its stack");
      SendAway(stack, kSize);
      on_stack = false;
      findings.Expect(!Faults([] { raise(SIGUSR1); }) && told.signal == SIGUSR1, "a signal");
      findings.Expect(on_stack, "the handler is on its stack again");
    }
    munmap(forbidden, kSize);
  }
  Require(sigaltstack(&before, nullptr) == 0, "sigaltstack");
}

void OnNearStack(Field& field, Findings& findings) {
  alignas(kPage) static std::array<std::byte, kSize> stack;
  OnStack(field, findings, stack.data());
}

void OnMappedStack(Field& field, Findings& findings) {
  std::byte* const stack = MapBytes(kSize);
  OnStack(field, findings, stack);
  munmap(stack, kSize);
}

void OnAllocatedStack(Field& field, Findings& findings) {
  auto* const stack = static_cast<std::byte*>(std::aligned_alloc(kPage, kSize));
  OnStack(field, findings, stack);
  std::free(stack);
}

// To a place that was noted in memory which has left since.
void JumpsByFarBuffer(Field& field, Findings& findings) {
  std::byte* const bytes = MapBytes(kSize);
  auto* const back = reinterpret_cast<jmp_buf*>(bytes + kPage - 64);
  static int round;  // Not in a register that the jump brings back.
  for (round = 0; round < 20; ++round) {
    const int jumped = setjmp(*back);
    if (jumped == 0) {
      SendAway(bytes, kSize);
      field.StoreAll(360, 0, 29);
      longjmp(*back, 5);
    }
    findings.Expect(jumped == 5, "what the jump brings");
  }
  munmap(bytes, kSize);
}

constexpr Row kRows[] = {
    {"SIGBUS of its own, a handler from the beginning", EarlyHandler},
    {"SIGBUS of its own, sigaction", LateHandler},
    {"SIGBUS of its own, signal", HandlerBySignal},
    {"SIGBUS by raise", BusFromKill},
    {"SIGBUS and SIGSEGV that nobody handles", DefaultActions},
    {"all signals are blocked", Blocked},
    {"SIGBUS and SIGSEGV are ignored", Ignored},
    {"SIGSEGV of its own", OwnSegmentFaults},
    {"SIGSEGV whose handler allows the access", GuardedPages},
    {"siglongjmp out of SIGSEGV", LeavesHandlers},
    {"handlers on a near stack", OnNearStack},
    {"handlers on a stack by mmap", OnMappedStack},
    {"handlers on a stack by malloc", OnAllocatedStack},
    {"longjmp by far memory", JumpsByFarBuffer},
};

}  // namespace

std::span<const Row> FaultRows() { return kRows; }

void InstallEarly() {
  struct sigaction action {};
  action.sa_sigaction = OnFault;
  action.sa_flags = SA_SIGINFO;
  Require(sigaction(SIGBUS, &action, nullptr) == 0, "sigaction");
}

}  // namespace process_matrix
