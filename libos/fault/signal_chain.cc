// SPDX-License-Identifier: Apache-2.0
// The SIGBUS handler and what it chains to.
#include "libos/fault/signal_chain.h"

#include <signal.h>

#include <atomic>
#include <cerrno>
#include <mutex>

#include "libos/base/status.h"

namespace spiritos {
namespace {

// Written under install_mutex before the handler is in place.
struct sigaction previous_action;
// The previous handler was for one signal (SA_RESETHAND) and has had it.
std::atomic<bool> previous_spent{false};
std::mutex install_mutex;
int install_count = 0;

// Runs what was there before us. For the default action the handler is reset:
// the access faults again and ends the process as if we had never been.
void Chain(int signal, siginfo_t* info, void* context) {
  // Nothing faults again after what kill(2) and the like sent, nor after a memory
  // error that was reported ahead of its use.
  const bool asynchronous = info->si_code <= 0 || info->si_code == BUS_MCEERR_AO;
  if (previous_action.sa_handler == SIG_IGN && asynchronous) return;
  const bool one_shot = (previous_action.sa_flags & static_cast<int>(SA_RESETHAND)) != 0;
  if (previous_action.sa_handler == SIG_DFL || previous_action.sa_handler == SIG_IGN ||
      (one_shot && previous_spent.exchange(true))) {
    struct sigaction fallback {};
    fallback.sa_handler = SIG_DFL;
    sigaction(signal, &fallback, nullptr);
    if (asynchronous) raise(signal);
    return;
  }
  // The mask that the previous handler asked for, on top of the interrupted one.
  sigset_t mask = static_cast<ucontext_t*>(context)->uc_sigmask;
  sigorset(&mask, &mask, &previous_action.sa_mask);
  if ((previous_action.sa_flags & SA_NODEFER) == 0) sigaddset(&mask, signal);
  sigset_t ours;
  pthread_sigmask(SIG_SETMASK, &mask, &ours);
  if ((previous_action.sa_flags & SA_SIGINFO) != 0) {
    previous_action.sa_sigaction(signal, info, context);
  } else {
    previous_action.sa_handler(signal);
  }
  pthread_sigmask(SIG_SETMASK, &ours, nullptr);
}

// What the CPU said about the access: bits of the page-fault error code, which the
// kernel puts into the signal frame (Intel SDM, volume 3, section 4.7).
FaultKind KindOf(void* context) {
#ifdef __x86_64__
  constexpr greg_t kPresent = 1;
  constexpr greg_t kWrite = 2;
  const greg_t error = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR];
  if ((error & kPresent) != 0) return FaultKind::kWriteProtect;
  return (error & kWrite) != 0 ? FaultKind::kMissingWrite : FaultKind::kMissing;
#else
  static_cast<void>(context);
  return FaultKind::kUnknown;
#endif
}

void OnSigbus(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  if (info->si_code == BUS_ADRERR) {
    FaultOutcome outcome = FaultOutcome::kNotOurs;
    {
      RangeMap<FaultSink>& ranges = covered_ranges();
      Epoch::Guard guard(ranges.epoch());
      if (FaultSink* sink = ranges.Find(info->si_addr, guard)) {
        outcome = sink->OnFault(Vpn::Of(info->si_addr), KindOf(context));
      }
    }
    if (outcome == FaultOutcome::kMapped || outcome == FaultOutcome::kRetry) {
      errno = saved_errno;
      return;
    }
  }
  Chain(signal, info, context);
  errno = saved_errno;
}

}  // namespace

RangeMap<FaultSink>& covered_ranges() {
  // Never destroyed: a thread may fault while static destructors run.
  static auto* const ranges = new RangeMap<FaultSink>(LockRank::kRegionTable);
  return *ranges;
}

absl::Status SignalChain::Install() {
  std::lock_guard lock(install_mutex);
  if (install_count == 0) {
    covered_ranges();  // Constructed outside the handler.
    struct sigaction action {};
    action.sa_sigaction = OnSigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigfillset(&action.sa_mask);
    for (const int synchronous : {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGABRT}) {
      sigdelset(&action.sa_mask, synchronous);
    }
    previous_spent = false;
    if (sigaction(SIGBUS, nullptr, &previous_action) != 0 ||
        sigaction(SIGBUS, &action, nullptr) != 0) {
      return ErrnoStatus(errno, "sigaction(SIGBUS)");
    }
  }
  ++install_count;
  return absl::OkStatus();
}

void SignalChain::Uninstall() {
  std::lock_guard lock(install_mutex);
  if (--install_count != 0) return;
  struct sigaction current;
  if (sigaction(SIGBUS, nullptr, &current) != 0) return;
  if (current.sa_sigaction == OnSigbus) sigaction(SIGBUS, &previous_action, nullptr);
}

}  // namespace spiritos
