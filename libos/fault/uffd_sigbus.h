// SPDX-License-Identifier: Apache-2.0
// UffdSigbus: userfaultfd in SIGBUS mode; the faulting thread serves itself.
//
// The cheapest fault, and open to every user. Its price: the kernel's own
// accesses fail with EFAULT where a load would fault, some after consuming data,
// so buffers of system calls must be pinned before the call.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "libos/fault/page_mover.h"

namespace spiritos {

class UffdSigbus final : public PageMover {
 public:
  // Borrows both; `sink` hears of every fault in covered ranges.
  static absl::StatusOr<std::unique_ptr<UffdSigbus>> Create(const KernelCalls& calls,
                                                            FaultSink& sink, Metrics& metrics);
  ~UffdSigbus() override;

  absl::Status Cover(AddressRange range) override;
  void Uncover(AddressRange range) override;

 private:
  UffdSigbus(Uffd uffd, const KernelCalls& calls, FaultSink& sink, Metrics& metrics);
  FaultSink& sink_;
};

}  // namespace spiritos
