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

 private:
  UffdThread(Uffd uffd, UniqueFd stop, const KernelCalls& calls, FaultSink& sink, Metrics& metrics);
  void Serve();

  FaultSink& sink_;
  UniqueFd stop_;  // An eventfd: readable once handlers must end.
  std::vector<std::thread> threads_;
};

}  // namespace spiritos
