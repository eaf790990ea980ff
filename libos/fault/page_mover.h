// SPDX-License-Identifier: Apache-2.0
// PageMover: Fill, Freeze, Drop and Thaw by the calls that this kernel has.
//
//   Fill    UFFDIO_COPY            no shootdown: the page was absent
//   Freeze  UFFDIO_WRITEPROTECT    one shootdown
//   Drop    process_madvise(MADV_DONTNEED) on many runs (Linux >= 6.13; one
//           shootdown >= 6.16), else madvise(2) run by run, one each; where devices may
//           write unseen: see UnpinnedDropper
//   Thaw    UFFDIO_WRITEPROTECT    no shootdown: rights only grow
//
// Resumes after short counts, repeats what the kernel asks to repeat, and turns
// every other errno into a MapResult. Both userfaultfd backends derive from it.
#pragma once

#include <memory>

#include "libos/base/metrics.h"
#include "libos/fault/fault_backend.h"
#include "libos/fault/probe.h"
#include "libos/fault/uffd.h"
#include "libos/fault/unpinned_dropper.h"

namespace spiritos {

class PageMover : public FaultBackend {
 public:
  MapOutcome Fill(Vpn first, uint32_t count, const std::byte* bytes, FillMode mode) noexcept final;
  MapOutcome Freeze(PageRun run) noexcept final;
  MapOutcome Thaw(PageRun run) noexcept final;
  MapOutcome Drop(std::span<const PageRun> runs) noexcept final;
  MapOutcome DropUnpinned(std::span<const PageRun> runs,
                          absl::FunctionRef<bool(Vpn, const std::byte*)> unchanged) noexcept final;
  absl::Status AllowPins() final;
  bool Present(Vpn vpn) noexcept final;
  void Wake(Vpn vpn) noexcept final;
  const FaultCaps& caps() const final { return caps_; }

  // What AllowPins() says of kernels that are too old.
  static absl::Status CannotMove();

 protected:
  // `wake`: threads wait in the kernel for what these calls do.
  PageMover(Uffd uffd, const KernelCalls& calls, Metrics& metrics, bool wake);

  // In a child of fork(2): what the parent's descriptors are of is the parent's memory.
  absl::Status Reopen(Uffd::Mode mode);

  Uffd uffd_;
  FaultCaps caps_;

 private:
  void OpenSelf();
  // One page where a run was refused because it spans mappings.
  MapOutcome FillSingly(Vpn first, uint32_t count, const std::byte* bytes, FillMode mode) noexcept;
  MapOutcome ProtectRun(PageRun run, bool protect) noexcept;
  MapOutcome DropSingly(std::span<const PageRun> runs, uint32_t done) noexcept;
  MapOutcome DropBatch(std::span<const PageRun> runs) noexcept;

  Metrics& metrics_;
  std::unique_ptr<UnpinnedDropper> unpinned_;  // Once AllowPins() was called.
  UniqueFd self_;                              // pidfd of this process, for process_madvise.
  const bool wake_;
};

}  // namespace spiritos
