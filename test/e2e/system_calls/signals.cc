// SPDX-License-Identifier: Apache-2.0
// Signals: their handlers, masks and stacks by structures in memory of any kind.
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>

#include "test/e2e/system_calls/trial.h"

namespace system_calls {
namespace {

using Mask = uint64_t;  // The kernel's sigset_t.
constexpr Mask MaskOf(int signal) { return Mask{1} << (signal - 1); }
constexpr int kSignal = kBlockedSignal;
constexpr Mask kMask = MaskOf(kSignal);

// The kernel's struct sigaction.
struct Action {
  uintptr_t handler;
  unsigned long flags;
  uintptr_t restorer;
  Mask mask;
};

long SetAction(int signal, const Action* action, Action* before) {
  return syscall(SYS_rt_sigaction, signal, action, before, sizeof(Mask));
}
long SetMask(int how, const Mask* mask, Mask* before) {
  return syscall(SYS_rt_sigprocmask, how, mask, before, sizeof(Mask));
}

// One signal is pending, with the number that its sender gave.
struct Pending {
  explicit Pending(int number) {
    siginfo_t info{};
    info.si_code = SI_QUEUE;
    info.si_pid = getpid();
    info.si_value.sival_int = number;
    Require(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), kSignal, &info) == 0,
            "rt_tgsigqueueinfo");
  }
  ~Pending() {
    const timespec now{};
    while (syscall(SYS_rt_sigtimedwait, &kMask, nullptr, &now, sizeof(kMask)) == kSignal) {
    }
  }
};

void Actions(Trial& t) {
  const Action* const in =
      t.In(Action{reinterpret_cast<uintptr_t>(SIG_IGN), SA_RESTART, 0, MaskOf(SIGHUP)});
  Action* const before = t.Out<Action>();
  Action* const after = t.Out<Action>();
  t.Ready();
  t.Returned(SetAction(kSignal, in, before));
  t.Ready();
  t.Returned(SetAction(kSignal, nullptr, after));
  const Action usual{};
  SetAction(kSignal, &usual, nullptr);
}

void Masks(Trial& t) {
  const Mask* const in = t.In(MaskOf(SIGWINCH));
  Mask* const before = t.Out<Mask>();
  Mask* const after = t.Out<Mask>();
  t.Ready();
  t.Returned(SetMask(SIG_BLOCK, in, before));
  t.Ready();
  t.Returned(SetMask(SIG_BLOCK, nullptr, after));
  const Mask ours = MaskOf(SIGWINCH);
  SetMask(SIG_UNBLOCK, &ours, nullptr);
}

void PendingOnes(Trial& t) {
  const Pending pending(1);
  Mask* const set = t.Out<Mask>();
  t.Ready();
  t.Returned(syscall(SYS_rt_sigpending, set, sizeof(*set)));
}

void AwaitOne(Trial& t) {
  const Pending pending(42);
  const Mask* const set = t.In(kMask);
  siginfo_t* const info = t.Ignored(t.Out<siginfo_t>());
  const timespec* const timeout = t.In(timespec{1000, 0});
  t.Ready();
  t.Returned(syscall(SYS_rt_sigtimedwait, set, info, timeout, sizeof(*set)));
  if (t.usable()) t.See(t.Get(info).si_value.sival_int);
}

void Queue(Trial& t) {
  siginfo_t sent{};
  sent.si_signo = kSignal;
  sent.si_code = SI_QUEUE;
  sent.si_value.sival_int = 77;
  const siginfo_t* const info = t.In(sent);
  t.Ready();
  t.Returned(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), kSignal, info));
  siginfo_t got{};
  const timespec now{};
  t.See(syscall(SYS_rt_sigtimedwait, &kMask, &got, &now, sizeof(kMask)));
  t.See(got.si_value.sival_int);
}

void Stacks(Trial& t) {
  static std::array<std::byte, 64 * 1024> memory;
  stack_t before{};
  Require(sigaltstack(nullptr, &before) == 0, "sigaltstack");
  const stack_t* const in = t.Kept(t.In(stack_t{memory.data(), 0, memory.size()}));
  stack_t* const old = t.Ignored(t.Out<stack_t>());
  stack_t* const out = t.Ignored(t.Out<stack_t>());
  t.Ready();
  t.Returned(sigaltstack(in, old));
  t.Ready();
  t.Returned(sigaltstack(nullptr, out));
  if (t.usable()) t.See(t.Get(out).ss_sp == memory.data());
  Require(sigaltstack(&before, nullptr) == 0, "sigaltstack");
}

void ReadSignals(Trial& t) {
  const Pending pending(5);
  const Mask* const set = t.In(kMask);
  signalfd_siginfo* const info = t.Ignored(t.Out<signalfd_siginfo>());
  t.Ready();
  const int fd = t.ReturnedFd(syscall(SYS_signalfd4, -1, set, sizeof(*set), SFD_NONBLOCK));
  if (fd < 0) return;
  t.Ready();
  t.Returned(read(fd, info, sizeof(*info)));
  if (t.usable()) t.See(t.Get(info).ssi_int);
  // An error takes the signal with it.
  Mask left = 0;
  syscall(SYS_rt_sigpending, &left, sizeof(left));
  t.See(left == kMask);
}

void SendByFile(Trial& t) {
  const File process(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  siginfo_t sent{};
  sent.si_signo = kSignal;
  sent.si_code = SI_QUEUE;
  sent.si_value.sival_int = 78;
  const siginfo_t* const info = t.In(sent);
  t.Ready();
  t.Returned(syscall(SYS_pidfd_send_signal, static_cast<int>(process), kSignal, info, 0));
  siginfo_t got{};
  const timespec now{};
  t.See(syscall(SYS_rt_sigtimedwait, &kMask, &got, &now, sizeof(kMask)));
  t.See(got.si_value.sival_int);
}

constexpr Row kRows[] = {
    {"rt_sigaction", Actions},        {"rt_sigprocmask", Masks},
    {"rt_sigpending", PendingOnes},   {"rt_sigtimedwait", AwaitOne},
    {"rt_tgsigqueueinfo", Queue},     {"sigaltstack", Stacks},
    {"signalfd4, read", ReadSignals}, {"pidfd_send_signal", SendByFile},
};

}  // namespace

std::span<const Row> SignalRows() { return kRows; }

}  // namespace system_calls
