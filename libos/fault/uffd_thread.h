// SPDX-License-Identifier: Apache-2.0
// UffdThread: userfaultfd read by handler threads; serves kernel-mode faults too.
//
// The faulting thread sleeps in the kernel, a handler thread reads the event and
// serves it: a system call on an absent or frozen page simply waits. The price is
// two wake-ups on the fault path.
//
// A handler never waits for another event, only for evictors, other loaders'
// reads and its own, so two handlers cannot wait for each other; every Fill and
// Thaw wakes the page's waiters in the kernel, and a fault that needed nothing is
// woken explicitly.
//
// A child of fork(2) has neither the handlers nor, without a privilege that few have, a
// userfaultfd for its memory: Restart() makes both anew.
#pragma once

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "libos/base/fd.h"
#include "libos/fault/page_mover.h"

namespace spiritos {

class UffdThread final : public PageMover {
 public:
  // Borrows both; starts `threads` handlers.
  static absl::StatusOr<std::unique_ptr<UffdThread>> Create(const KernelCalls& calls,
                                                            uint32_t threads, FaultSink& sink,
                                                            Metrics& metrics);
  // REQUIRES: nothing is covered any more.
  ~UffdThread() override;

  absl::Status Cover(AddressRange range) override;
  void Uncover(AddressRange range) override;

  void Pause() override;
  void Resume() override;
  absl::Status Restart() override;

 private:
  UffdThread(Uffd uffd, UniqueFd bell, uint32_t threads, const KernelCalls& calls, FaultSink& sink,
             Metrics& metrics);
  void StartThreads();
  void Ring();
  // False: the handler is to end.
  bool MayServe() noexcept;
  void Serve();

  FaultSink& sink_;
  const uint32_t thread_count_;
  UniqueFd bell_;  // An eventfd: readable while handlers are to look at the rest of this.
  std::atomic<bool> stopping_{false};
  std::atomic<uint32_t> pauses_{0};  // Begun and ended: odd during one. A futex word.
  std::atomic<uint32_t> paused_{0};  // Handlers that wait for its end. A futex word.
  std::vector<std::thread> threads_;
};

}  // namespace spiritos
