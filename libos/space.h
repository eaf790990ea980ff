// SPDX-License-Identifier: Apache-2.0
// Space: all far memory of this process under one budget.
//
//   auto space = Space::Create({.budget = 256_MiB});
//   AddressRange data = *(*space)->CreateRegion(1_GiB);
//   data.begin[0] = std::byte{1};   // A fault, served in user space.
//
// A space owns regions (ranges of addresses), keeps at most `budget` bytes of
// their pages in local frames and the rest in a pool. Ordinary loads and stores
// work on a region. What does not, depends on the fault mode (Options::fault):
// with kSigbus a system call that touches an absent page fails with EFAULT, so
// Pin() what is handed to the kernel; with kThread system calls wait like loads.
// Memory that a device or the kernel keeps using after a call returns, or that a device
// writes to during one (O_DIRECT, io_uring, registered memory) must be pinned in either
// mode, or AllowUnseenPins() be called before.
//
// fork(2): regions are absent in the child; touching them there is a SIGSEGV. With
// kThread and an embedded pool BeforeFork() and its companions make the child go on with
// memory of its own, as of the fork: whoever owns the space registers them with
// pthread_atfork(3).
//
// Threads: every member may be called from any thread; calls on overlapping
// ranges wait for each other. Not from signal handlers. Destroying a space while
// other threads still touch its regions is an error of the caller's.
// Errors: kInvalidArgument names the argument or knob; kResourceExhausted says
// which limit was met; nothing is changed by a call that fails unless said so.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libos/base/export.h"
#include "libos/base/options.h"
#include "libos/base/units.h"
#include "libos/stats.h"

namespace spiritos {

class SPIRITOS_PUBLIC Space {
 public:
  static absl::StatusOr<std::unique_ptr<Space>> Create(const Options& options);
  ~Space();
  Space(const Space&) = delete;
  Space& operator=(const Space&) = delete;

  // Reserves `size` bytes (rounded up to 4 MiB) of zeroes that are far memory.
  // kResourceExhausted when the pool cannot hold them.
  absl::StatusOr<AddressRange> CreateRegion(Bytes size);

  // Makes a region of private anonymous memory that is there already, in place: its pages
  // keep their bytes, and those that have memory count in the budget from now on. What
  // does not fit is evicted before the call returns. Threads may use the range meanwhile.
  // REQUIRES: `range` is readable and writable, and shared with no child of fork(2).
  absl::Status Adopt(AddressRange range);

  // Gives a region back, or any part of one that begins and ends on a page:
  // munmap(2). Its pages' slots and frames are free afterwards.
  absl::Status Unmap(AddressRange range);

  // The pages read as zeroes afterwards; frames and slots are free:
  // madvise(MADV_DONTNEED). kFailedPrecondition when some are pinned; where another
  // thread pins them meanwhile, others of the range may be gone. Unmap() likewise.
  absl::Status Discard(AddressRange range);

  // Sets PROT_NONE, PROT_READ or PROT_READ | PROT_WRITE: mprotect(2).
  absl::Status Protect(AddressRange range, int protection);

  // Moves whole pages to a new address, in the manner of mremap(2) with
  // MREMAP_MAYMOVE: contents and slots go along, `from` is unmapped. The result
  // is `new_size` long; what lies beyond the old size is zero.
  absl::StatusOr<AddressRange> Move(AddressRange from, Bytes new_size);

  // Starts bringing the range in. A hint: stops where frames would run short.
  absl::Status Prefetch(AddressRange range);

  // Sends the range's pages to the pool now. Pinned pages stay.
  absl::Status Evict(AddressRange range);

  // Makes the range resident, writable, and keeps it so until Unpin(). Pins
  // nest. kResourceExhausted, with nothing pinned, when pins would leave fewer
  // frames than faults need.
  absl::Status Pin(AddressRange range);
  void Unpin(AddressRange range);

  // From now on what is in these regions may be pinned by the kernel without Pin(): by
  // io_uring, AIO, ibv_reg_mr(3), in this process. Such pages stay while they are pinned.
  // Evicting costs more from then on, a shootdown for each run of pages and a second hash of
  // each; pages that are mapped read-only stay as well. kUnimplemented where the kernel has no
  // UFFDIO_MOVE (Linux 6.8).
  absl::Status AllowUnseenPins();
  // Whether that of a space with these options would succeed.
  static absl::Status CheckUnseenPins(const Options& options);

  // Changes the budget while running. Growing is immediate; shrinking returns
  // when the space is inside the new budget, or kResourceExhausted, with the
  // old budget restored, when pins do not let it get there.
  absl::Status SetBudget(Bytes budget);
  Bytes budget() const;

  // A snapshot of counters and histograms; see libos/stats.h.
  Stats GetStats() const;

  // Waits until no page is on its way in or out and no write is in flight,
  // provided that nobody faults meanwhile. For tests and orderly shutdowns.
  void Drain();

  // Around fork(2): the first in the thread that is about to call it, one of the others
  // afterwards. In between no call and no access by that thread; those of others wait.
  // False: the child will not have the regions, nor may it use the space.
  bool BeforeFork();
  void AfterForkInParent();
  // The space as it was, under the same budget. What no kernel gives (threads, a
  // userfaultfd) ends the child with a message.
  void AfterForkInChild();

  // What this kernel and user allow, and what the space uses: a few lines.
  const std::string& description() const;

 private:
  friend class SpaceTestPeer;
  class SPIRITOS_HIDDEN Impl;
  explicit Space(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace spiritos
