// SPDX-License-Identifier: Apache-2.0
// SlabStore: the memory of a memory server, slab by slab, each a file of its own.
//
//   new file --Refill--> ready --Take--> rented --Give back--> closed, and a new file
//
// Memory is taken when the server starts, not when a tenant writes: a ready slab has
// all its pages. A file is rented once: what comes back is closed and another file
// takes its place, cleared by the kernel, so that no tenant sees another's bytes
// whatever the server forgets. Files are sealed: neither side can take pages from
// under the other by truncating. With a state folder they are files there, not sealed
// and never passed on, and what is rented is found again after a restart.
//
// The limit says how many there are to be, ready or rented. When it sinks, what is ready
// beyond it is closed; what is rented beyond it is the excess, which tenants are asked for.
//
// A slab's file holds its pages, then a trailer for each page (libos/remote/wire.h).
//
// Threads: Refill() from one that may block; Restore() before it begins; the others
// from any.
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
#include "libos/remote/server/state_folder.h"
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
  // File `number` of a state folder, new or from before.
  static absl::StatusOr<SlabMemory> MakeIn(StateFolder& state, uint32_t number);
  static absl::StatusOr<SlabMemory> FindIn(StateFolder& state, uint32_t number);

  bool valid() const { return file_.valid(); }
  int file() const { return file_.get(); }
  uint32_t number() const { return number_; }
  std::byte* page(uint32_t index) const { return map_.data() + (size_t{index} << kPageShift); }
  PageTrailer* trailer(uint32_t index) const {
    return reinterpret_cast<PageTrailer*>(map_.data() + kSlabSize) + index;
  }
  // Locks the pages in memory; false where that is not allowed.
  bool Lock() noexcept;

 private:
  static absl::StatusOr<SlabMemory> Map(UniqueFd file, uint32_t number);

  UniqueFd file_;
  uint32_t number_ = 0;  // In a state folder.
  Mapping map_;
};

class SlabStore {
 public:
  struct Options {
    uint64_t slabs = 0;            // The limit to begin with.
    bool lock = true;              // Where allowed.
    StateFolder* state = nullptr;  // Borrowed; null: slabs end with this process.
  };

  explicit SlabStore(const Options& options);

  // Makes slabs ready until the limit of them is ready or rented, or closes what is ready
  // beyond it; an error leaves those made so far. May block for long: a slab's pages are
  // cleared.
  absl::Status Refill();
  // How many slabs there are to be. Refill() is due.
  void SetLimit(uint64_t slabs) { limit_.store(slabs, std::memory_order_relaxed); }
  uint64_t limit() const { return limit_.load(std::memory_order_relaxed); }
  // What the limit may be at most.
  uint64_t max_limit() const;

  // A slab that is ready; invalid when none is, or none is to be had.
  SlabMemory Take();
  // The slab that was rented under that number when the server before this one ended.
  absl::StatusOr<SlabMemory> Restore(uint32_t number);
  // Counts a slab that was rented before this store was made.
  void CountRented() { rented_.fetch_add(1, std::memory_order_relaxed); }
  // Closes a slab that was rented: Refill() may make another.
  void Return(SlabMemory slab);

  uint64_t ready() const { return ready_count_.load(std::memory_order_relaxed); }
  uint64_t rented() const { return rented_.load(std::memory_order_relaxed); }
  // What a tenant may hope for: ready, or soon to be.
  uint64_t free() const {
    const uint64_t used = rented();
    const uint64_t most = limit();
    return used < most ? most - used : 0;
  }
  // Rented, and more than there are to be.
  uint64_t excess() const {
    const uint64_t used = rented();
    const uint64_t most = limit();
    return used > most ? used - most : 0;
  }
  bool locked() const { return locked_.load(std::memory_order_relaxed); }
  StateFolder* state() const { return options_.state; }

 private:
  absl::StatusOr<SlabMemory> Make();
  SlabMemory PopReady() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Close(SlabMemory slab);
  void Lock(SlabMemory& slab);

  const Options options_;
  RankedMutex mutex_{LockRank::kSlabStore};
  std::vector<SlabMemory> ready_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> used_ ABSL_GUARDED_BY(mutex_);  // Numbers of the state folder.
  std::atomic<uint64_t> limit_;
  std::atomic<uint64_t> ready_count_{0};
  std::atomic<uint64_t> rented_{0};
  std::atomic<bool> locked_;
};

}  // namespace spiritos
