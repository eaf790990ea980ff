// SPDX-License-Identifier: Apache-2.0
// The handlers' loop.
#include "libos/fault/uffd_thread.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>

#include "libos/base/check.h"
#include "libos/base/log.h"
#include "libos/base/parker.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

absl::StatusOr<UniqueFd> MakeBell() {
  UniqueFd bell(eventfd(0, EFD_CLOEXEC));
  if (!bell.valid()) return ErrnoStatus(errno, "eventfd");
  return bell;
}

}  // namespace

UffdThread::UffdThread(Uffd uffd, UniqueFd bell, uint32_t threads, const KernelCalls& calls,
                       FaultSink& sink, Metrics& metrics)
    : PageMover(std::move(uffd), calls, metrics, /*wake=*/true),
      sink_(sink),
      thread_count_(threads),
      bell_(std::move(bell)) {
  caps_.in_thread = false;
  caps_.kernel_faults = true;
  caps_.forks = true;
}

absl::StatusOr<std::unique_ptr<UffdThread>> UffdThread::Create(const KernelCalls& calls,
                                                               uint32_t threads, FaultSink& sink,
                                                               Metrics& metrics) {
  SPIRITOS_ASSIGN_OR_RETURN(Uffd uffd, Uffd::Open(Uffd::Mode::kEvents));
  SPIRITOS_ASSIGN_OR_RETURN(UniqueFd bell, MakeBell());
  std::unique_ptr<UffdThread> backend(
      new UffdThread(std::move(uffd), std::move(bell), threads, calls, sink, metrics));
  backend->StartThreads();
  return backend;
}

UffdThread::~UffdThread() {
  stopping_.store(true, std::memory_order_release);
  Ring();
  for (std::thread& thread : threads_) thread.join();
}

void UffdThread::StartThreads() {
  // Signals of the application are not for these threads.
  sigset_t all;
  sigset_t old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  for (uint32_t i = 0; i < thread_count_; ++i) threads_.emplace_back([this] { Serve(); });
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
}

void UffdThread::Ring() {
  const uint64_t one = 1;
  SPIRITOS_CHECK(write(bell_.get(), &one, sizeof(one)) == sizeof(one), "eventfd write: errno {}",
                 errno);
}

void UffdThread::Pause() {
  pauses_.fetch_add(1, std::memory_order_seq_cst);
  Ring();
  while (true) {
    const uint32_t paused = paused_.load(std::memory_order_acquire);
    if (paused == thread_count_) return;
    FutexWait(paused_, paused);
  }
}

void UffdThread::Resume() {
  uint64_t rings;
  SPIRITOS_CHECK(read(bell_.get(), &rings, sizeof(rings)) == sizeof(rings),
                 "eventfd read: errno {}", errno);
  paused_.store(0, std::memory_order_relaxed);
  pauses_.fetch_add(1, std::memory_order_release);
  FutexWake(pauses_, INT32_MAX);
}

absl::Status UffdThread::Restart() {
  // Of threads that are not there: nobody to join.
  for (std::thread& thread : threads_) std::construct_at(&thread);
  threads_.clear();
  SPIRITOS_RETURN_IF_ERROR(Reopen(Uffd::Mode::kEvents));
  SPIRITOS_ASSIGN_OR_RETURN(bell_, MakeBell());  // The other one is the parent's too.
  paused_.store(0, std::memory_order_relaxed);
  pauses_.fetch_add(1, std::memory_order_relaxed);
  StartThreads();
  return absl::OkStatus();
}

bool UffdThread::MayServe() noexcept {
  while (true) {
    if (stopping_.load(std::memory_order_acquire)) return false;
    const uint32_t pauses = pauses_.load(std::memory_order_acquire);
    if (pauses % 2 == 0) return true;
    paused_.fetch_add(1, std::memory_order_release);
    FutexWake(paused_, 1);
    while (pauses_.load(std::memory_order_acquire) == pauses) FutexWait(pauses_, pauses);
  }
}

absl::Status UffdThread::Cover(AddressRange range) { return uffd_.Register(range); }

void UffdThread::Uncover(AddressRange range) {
  if (absl::Status status = uffd_.Unregister(range); !status.ok()) LogWarning(status.ToString());
}

void UffdThread::Serve() {
  pthread_setname_np(pthread_self(), "spiritos-fault");
  std::array<pollfd, 2> waits = {{{.fd = uffd_.fd(), .events = POLLIN, .revents = 0},
                                  {.fd = bell_.get(), .events = POLLIN, .revents = 0}}};
  while (MayServe()) {
    // One event at a time: a second in this thread's hands would wait for the
    // first while another handler is free.
    std::array<Uffd::Event, 1> events;
    const int n = uffd_.ReadEvents(events);
    if (n > 0) {
      const Uffd::Event& event = events[0];
      const FaultKind kind = event.write_protect ? FaultKind::kWriteProtect
                             : event.write       ? FaultKind::kMissingWrite
                                                 : FaultKind::kMissing;
      // Whoever resolved it has woken the page's waiters, unless it was resolved
      // before this waiter came.
      const FaultOutcome outcome = sink_.OnFault(event.vpn, kind);
      SPIRITOS_CHECK(outcome != FaultOutcome::kLost,
                     "page {:#x} is lost, and from here the access to it cannot be failed alone "
                     "(SPIRITOS_FAULT_MODE=sigbus can)",
                     event.vpn.raw() << kPageShift);
      if (outcome != FaultOutcome::kMapped) Wake(event.vpn);
      continue;
    }
    if (n == 0 || n == -EINTR) continue;
    SPIRITOS_CHECK(n == -EAGAIN, "reading userfaultfd events failed with errno {}{}", -n,
                   n == -EBADF ? ": the program has closed the runtime's descriptor" : "");
    if (poll(waits.data(), waits.size(), -1) < 0) {
      SPIRITOS_CHECK(errno == EINTR, "poll on userfaultfd failed with errno {}", errno);
    }
  }
}

}  // namespace spiritos
