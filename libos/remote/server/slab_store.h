// SPDX-License-Identifier: Apache-2.0
// SlabStore: the memory of a memory server, slab by slab, each a file of its own.
//
//   new file --Refill--> ready --Take--> rented --Give back--> closed, and a new file
//
// Memory is taken when the server starts, not when a tenant writes: a ready slab has
// all its pages. A file is rented once: what comes back is closed and another file
// takes its place, cleared by the kernel, so that no tenant sees another's bytes
// whatever the server forgets. Files are sealed: neither side can take pages from
// under the other by truncating.
//
// A slab's file holds its pages, then a trailer for each page (libos/remote/wire.h).
//
// Threads: Take() and Count*() from any; Refill() from one that may block.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libos/base/fd.h"
#include "libos/base/lock.h"
#include "libos/base/mapping.h"
#include "libos/base/units.h"
#include "libos/remote/wire.h"

namespace spiritos {

// A slab's file, mapped.
class SlabMemory {
 public:
  static constexpr Bytes kFileSize{kSlabSize + kSlabPages * sizeof(PageTrailer)};

  SlabMemory() = default;
  // A new, sealed file with all its pages. kResourceExhausted without memory.
  static absl::StatusOr<SlabMemory> Make();
  // Maps a file that another process made, a server before this one or a tenant
  // that kept it. Refuses what is no sealed file of a slab's size.
  static absl::StatusOr<SlabMemory> Adopt(UniqueFd file);

  bool valid() const { return file_.valid(); }
  int file() const { return file_.get(); }
  std::byte* page(uint32_t index) const { return map_.data() + (size_t{index} << kPageShift); }
  PageTrailer* trailer(uint32_t index) const {
    return reinterpret_cast<PageTrailer*>(map_.data() + kSlabSize) + index;
  }
  // Locks the pages in memory; false where that is not allowed.
  bool Lock() noexcept;

 private:
  UniqueFd file_;
  Mapping map_;
};

class SlabStore {
 public:
  struct Options {
    uint64_t slabs = 0;
    bool lock = true;  // Where allowed.
  };

  explicit SlabStore(const Options& options) : options_(options), locked_(options.lock) {}

  // Makes slabs ready until `options.slabs` are ready or rented; an error leaves those
  // made so far. May block for long: a slab's pages are cleared.
  absl::Status Refill();

  // A slab that is ready; invalid when none is.
  SlabMemory Take();
  // Counts a slab that was rented before this store was made.
  void CountRented() { rented_.fetch_add(1, std::memory_order_relaxed); }
  // A rented slab's memory has been closed: Refill() may make another.
  void CountReturned() { rented_.fetch_sub(1, std::memory_order_relaxed); }

  uint64_t ready() const { return ready_count_.load(std::memory_order_relaxed); }
  uint64_t rented() const { return rented_.load(std::memory_order_relaxed); }
  // What a tenant may hope for: ready, or soon to be.
  uint64_t free() const {
    const uint64_t rented = rented_.load(std::memory_order_relaxed);
    return rented < options_.slabs ? options_.slabs - rented : 0;
  }
  bool locked() const { return locked_.load(std::memory_order_relaxed); }

 private:
  const Options options_;
  RankedMutex mutex_{LockRank::kSlabStore};
  std::vector<SlabMemory> ready_ ABSL_GUARDED_BY(mutex_);
  std::atomic<uint64_t> ready_count_{0};
  std::atomic<uint64_t> rented_{0};
  std::atomic<bool> locked_;
};

}  // namespace spiritos
