// SPDX-License-Identifier: Apache-2.0
// UnpinnedDropper: gives up pages that a device may be writing to.
//
// The kernel lets a device write to memory by pinning its frame (O_DIRECT, io_uring's
// registered buffers, ibv_reg_mr). MADV_DONTNEED takes such a page from the program all the
// same, and what the device writes from then on is lost; write-protection does not stop it
// either. So each page is
//
//   moved     UFFDIO_MOVE to a place of ours, which refuses pinned pages: one that was
//             moved has no writer left
//   compared  with what its slot holds: a device may have been at it since it was written
//   dropped   or, where it differs, moved back
//
// A page that the kernel still shares since a fork(2) is refused like a pinned one; it gets
// a frame of its own and is tried again. The cost over a zap's: a shootdown for each run of
// pages, and a hash of each page. A page that is mapped read-only stays.
//
// Threads: any. Context: signal.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "libos/base/mapping.h"
#include "libos/fault/fault_backend.h"
#include "libos/fault/uffd.h"

namespace spiritos {

class UnpinnedDropper {
 public:
  using Unchanged = absl::FunctionRef<bool(Vpn, const std::byte*)>;

  // REQUIRES: the kernel moves pages.
  static absl::StatusOr<std::unique_ptr<UnpinnedDropper>> Create(Uffd& uffd);

  // See FaultBackend::DropUnpinned. `uffd` is the one of Create(), or of Reopen().
  MapOutcome Drop(Uffd& uffd, std::span<const PageRun> runs, Unchanged unchanged) noexcept;
  // In a child of fork(2).
  absl::Status Reopen(Uffd& uffd) { return uffd.Register(places_.range()); }

 private:
  // Pages to one call of the kernel, and calls at a time: the sweeps of a space.
  static constexpr uint32_t kPages = 128;
  static constexpr uint32_t kPlaces = 16;
  using Moved = std::array<bool, kPages>;

  explicit UnpinnedDropper(Mapping places) : places_(std::move(places)) {}
  uint32_t TakePlace() noexcept;
  // Whether the whole of `run`, at most kPages, is gone.
  bool DropRun(Uffd& uffd, PageRun run, Vpn place, Unchanged unchanged) noexcept;
  static void MoveOut(Uffd& uffd, PageRun run, Vpn place, Moved& moved) noexcept;
  static void MoveBack(Uffd& uffd, Vpn vpn, Vpn from) noexcept;

  Mapping places_;
  std::atomic<uint32_t> taken_{0};  // A bit to each place.
};

}  // namespace spiritos
