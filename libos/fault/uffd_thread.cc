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

#include "libos/base/check.h"
#include "libos/base/log.h"
#include "libos/base/status.h"

namespace spiritos {

UffdThread::UffdThread(Uffd uffd, UniqueFd stop, const KernelCalls& calls, FaultSink& sink,
                       Metrics& metrics)
    : PageMover(std::move(uffd), calls, metrics, /*wake=*/true),
      sink_(sink),
      stop_(std::move(stop)) {
  caps_.in_thread = false;
  caps_.kernel_faults = true;
}

absl::StatusOr<std::unique_ptr<UffdThread>> UffdThread::Create(const KernelCalls& calls,
                                                               uint32_t threads, FaultSink& sink,
                                                               Metrics& metrics) {
  SPIRITOS_ASSIGN_OR_RETURN(Uffd uffd, Uffd::Open(Uffd::Mode::kEvents));
  UniqueFd stop(eventfd(0, EFD_CLOEXEC));
  if (!stop.valid()) return ErrnoStatus(errno, "eventfd");
  std::unique_ptr<UffdThread> backend(
      new UffdThread(std::move(uffd), std::move(stop), calls, sink, metrics));
  // Signals of the application are not for these threads.
  sigset_t all;
  sigset_t old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  for (uint32_t i = 0; i < threads; ++i) {
    backend->threads_.emplace_back([b = backend.get()] { b->Serve(); });
  }
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  return backend;
}

UffdThread::~UffdThread() {
  const uint64_t one = 1;
  SPIRITOS_CHECK(write(stop_.get(), &one, sizeof(one)) == sizeof(one), "eventfd write: errno {}",
                 errno);
  for (std::thread& thread : threads_) thread.join();
}

absl::Status UffdThread::Cover(AddressRange range) { return uffd_.Register(range); }

void UffdThread::Uncover(AddressRange range) {
  if (absl::Status status = uffd_.Unregister(range); !status.ok()) LogWarning(status.ToString());
}

void UffdThread::Serve() {
  pthread_setname_np(pthread_self(), "spiritos-fault");
  std::array<pollfd, 2> waits = {{{.fd = uffd_.fd(), .events = POLLIN, .revents = 0},
                                  {.fd = stop_.get(), .events = POLLIN, .revents = 0}}};
  while (true) {
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
    SPIRITOS_CHECK(n == -EAGAIN, "reading userfaultfd events failed with errno {}", -n);
    if (poll(waits.data(), waits.size(), -1) < 0) {
      SPIRITOS_CHECK(errno == EINTR, "poll on userfaultfd failed with errno {}", errno);
    }
    if (waits[1].revents != 0) return;
  }
}

}  // namespace spiritos
