// SPDX-License-Identifier: Apache-2.0
// AddressPool: which pages of a far heap's range are handed out as extents.
//
//   zone   |head free ..... longest free run ..... tail free|   x range / 4 MiB
//   bit     0000111111100000000000001111111111111110000000     one per page
//
// Extents are found first-fit from the lowest address, which keeps a heap dense
// and its far end untouched. A search starts where runs of its length may begin
// (a hint per length) and steps over a zone by its summary. All books are mapped
// at creation: taking and giving back allocate nothing and cannot fail for want
// of memory. They cost 0.004% of the range.
//
// Threads: any. Context: nofault.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "libos/base/lock.h"
#include "libos/base/mapping.h"
#include "libos/base/units.h"

namespace spiritos {

class AddressPool {
 public:
  // Near memory for the books of a range of `size` bytes.
  static absl::StatusOr<Mapping> MapBooks(Bytes size);

  // REQUIRES: `range` begins and ends on a page; `books` are for its size.
  AddressPool(AddressRange range, Mapping books);
  AddressPool(const AddressPool&) = delete;
  AddressPool& operator=(const AddressPool&) = delete;

  // The lowest free run of `size` bytes at a multiple of `alignment`; null when
  // there is none.
  //
  // REQUIRES: both are multiples of a page, `alignment` a power of two.
  std::byte* Take(Bytes size, size_t alignment) noexcept;

  // Takes exactly these pages, or none: false when one is taken or elsewhere.
  bool TakeAt(AddressRange range) noexcept;

  // REQUIRES: every page of `range` is taken.
  void Give(AddressRange range) noexcept;

  AddressRange range() const { return range_; }
  Bytes taken() const;

  // Around fork(2), in both processes afterwards: no other thread is inside.
  void BeforeFork() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex_.lock(); }
  void AfterFork() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex_.unlock(); }

 private:
  static constexpr uint32_t kWordBits = 64;
  static constexpr uint32_t kZoneWords = kZonePages / kWordBits;
  static constexpr size_t kHints = 64;

  // Free pages of one zone; each at most kZonePages.
  struct ZoneSummary {
    uint16_t head;     // Before its first taken page.
    uint16_t longest;  // In its longest run.
    uint16_t tail;     // After its last taken page.
  };

  struct Fit;
  uint64_t PageOf(const std::byte* address) const;
  uint64_t AlignUp(uint64_t page, size_t alignment) const;
  bool FitLocked(Fit& fit) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool FitInZoneLocked(uint64_t zone, Fit& fit) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t RunBeginLocked(uint64_t page) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t RunEndLocked(uint64_t page, uint64_t limit) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MarkLocked(uint64_t first, uint64_t count, bool taken) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SummariseLocked(uint64_t zone) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const AddressRange range_;
  const uint64_t pages_;
  const uint64_t zones_;
  const Mapping books_;

  mutable RankedMutex mutex_{LockRank::kHeapAddresses};
  // Bit set: the page is taken, or lies beyond the range in its last zone.
  uint64_t* const bits_ ABSL_PT_GUARDED_BY(mutex_);
  ZoneSummary* const summaries_ ABSL_PT_GUARDED_BY(mutex_);
  // Free runs of at least HintPages(i) pages all begin in zone hints_[i] or above.
  // Never falls with i.
  std::array<uint64_t, kHints> hints_ ABSL_GUARDED_BY(mutex_){};
  uint64_t taken_pages_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace spiritos
