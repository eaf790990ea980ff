// SPDX-License-Identifier: Apache-2.0
// Registers ranges and routes their signals.
#include "libos/fault/uffd_sigbus.h"

#include "libos/base/log.h"
#include "libos/base/status.h"
#include "libos/fault/signal_chain.h"

namespace spiritos {

UffdSigbus::UffdSigbus(Uffd uffd, const KernelCalls& calls, FaultSink& sink, Metrics& metrics)
    : PageMover(std::move(uffd), calls, metrics, /*wake=*/false), sink_(sink) {
  caps_.in_thread = true;
  caps_.kernel_faults = false;
}

absl::StatusOr<std::unique_ptr<UffdSigbus>> UffdSigbus::Create(const KernelCalls& calls,
                                                               FaultSink& sink, Metrics& metrics) {
  SPIRITOS_ASSIGN_OR_RETURN(Uffd uffd, Uffd::Open(Uffd::Mode::kSigbus));
  SPIRITOS_RETURN_IF_ERROR(SignalChain::Install());
  return std::unique_ptr<UffdSigbus>(new UffdSigbus(std::move(uffd), calls, sink, metrics));
}

UffdSigbus::~UffdSigbus() { SignalChain::Uninstall(); }

absl::Status UffdSigbus::Cover(AddressRange range) {
  // Routed before registered: the first fault must find its sink.
  covered_ranges().Insert(range, &sink_);
  if (absl::Status status = uffd_.Register(range); !status.ok()) {
    covered_ranges().Erase(range);
    return status;
  }
  return absl::OkStatus();
}

void UffdSigbus::Uncover(AddressRange range) {
  if (absl::Status status = uffd_.Unregister(range); !status.ok()) LogWarning(status.ToString());
  covered_ranges().Erase(range);
}

}  // namespace spiritos
