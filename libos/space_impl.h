// SPDX-License-Identifier: Apache-2.0
// Space::Impl: the parts of a space in the order they depend on each other.
//
// Range calls and budget changes hold `mutex_`, one at a time; faults, sweeps,
// pins and statistics never do.
#pragma once

#include <atomic>
#include <bitset>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "libos/base/lock.h"
#include "libos/base/metrics.h"
#include "libos/base/parker.h"
#include "libos/base/pinned_arena.h"
#include "libos/base/range_map.h"
#include "libos/evict/evictor_group.h"
#include "libos/fault/probe.h"
#include "libos/fault/uffd_sigbus.h"
#include "libos/fault/uffd_thread.h"
#include "libos/live_stats.h"
#include "libos/mem/free_frame_cache.h"
#include "libos/mem/free_frame_pool.h"
#include "libos/mem/page_hash.h"
#include "libos/mem/region.h"
#include "libos/mem/zone_lists.h"
#include "libos/mem/zone_pool.h"
#include "libos/pager.h"
#include "libos/remote/pool_factory.h"
#include "libos/space.h"

namespace spiritos {

class Space::Impl {
 public:
  Impl(const Options& options, std::unique_ptr<RemoteBackend> remote);
  ~Impl();

  absl::Status Start();

  absl::StatusOr<AddressRange> CreateRegion(Bytes size);
  absl::Status Adopt(AddressRange range);
  absl::Status Unmap(AddressRange range);
  absl::Status Discard(AddressRange range);
  absl::Status Protect(AddressRange range, int protection);
  absl::StatusOr<AddressRange> Move(AddressRange from, Bytes new_size);
  absl::Status Prefetch(AddressRange range);
  absl::Status Evict(AddressRange range);
  absl::Status Pin(AddressRange range);
  void Unpin(AddressRange range);
  absl::Status AllowUnseenPins();
  absl::Status SetBudget(Bytes budget);
  void Drain();
  bool BeforeFork() ABSL_NO_THREAD_SAFETY_ANALYSIS;
  void AfterForkInParent() ABSL_NO_THREAD_SAFETY_ANALYSIS;
  void AfterForkInChild() ABSL_NO_THREAD_SAFETY_ANALYSIS;
  Stats GetStats() const;
  PageCount budget() const { return frames_.budget(); }
  const std::string& description() const { return description_; }

 private:
  friend class SpaceTestPeer;

  static absl::Status CheckPages(AddressRange range);
  // Calls visit(region, first page, first and last+1 page index in its zone) for
  // each zone's part of `range`; stops at the first error.
  template <typename Visit>
  absl::Status ForEachZone(AddressRange range, Visit&& visit);

  absl::StatusOr<AddressRange> CreateRegionLocked(Bytes size,
                                                  std::vector<std::shared_ptr<Slab>> slabs,
                                                  uint32_t first_page)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Adds what a region of `size` needs to `slabs`: how many. To be reserved by Own().
  absl::StatusOr<uint64_t> AddSlabs(Bytes size, uint32_t first_page,
                                    std::vector<std::shared_ptr<Slab>>& slabs)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The same for memory that is there already: small ranges share a slab. It says where in
  // the first one they begin.
  absl::StatusOr<uint64_t> ShareSlabs(AddressRange range, uint32_t* first_page,
                                      std::vector<std::shared_ptr<Slab>>& slabs)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // From now on small ranges go into `slab`, from its zone `zone` on.
  void OpenSlab(std::shared_ptr<Slab> slab, uint32_t zone) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GiveUpSlab(const std::shared_ptr<Slab>& slab) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Faults in it are ours from here on.
  absl::Status Cover(Region& region);
  // Filled page by page; and in a child of fork(2) a touch is a SIGSEGV, not zeroes.
  static absl::Status AdviseRegion(AddressRange range);
  // A guard of the regions, not between BeforeFork() and what comes after it.
  void GoOn() ABSL_NO_THREAD_SAFETY_ANALYSIS;
  void AwaitFork(std::optional<Epoch::Guard>& guard) noexcept;
  template <typename Visit>
  void ForEachOwnedZone(Visit&& visit) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // Slabs that are shared with other processes (libos/space_generations.cc).
  template <typename Visit>
  void ForEachSlab(Visit&& visit) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether every slab has a generation left.
  bool MayBeginGenerations() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What is in the pool is shared from now on, and writes go elsewhere.
  // REQUIRES: every zone is owned, or nothing runs.
  void BeginGenerations() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // By slab: generations in which pages have bytes that cannot be elsewhere.
  using UsedPlaces = std::unordered_map<const Slab*, std::bitset<Slab::kGenerations>>;
  // Whether anything is left to be merged, now or once it is shared no more.
  bool MergeGenerations();
  UsedPlaces BeginMerge() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MergeZone(Zone& zone, UsedPlaces& used) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool CopyToWritePlace(Zone& zone, uint32_t begin, uint32_t end)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  IoStatus DoRequest(IoRequest& request);
  bool EndMerge(const UsedPlaces& used, uint64_t moves) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StartMerging();
  void StopMerging();
  void Own(std::unique_ptr<Region> region, uint64_t new_slabs)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status UnmapLocked(AddressRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckUnpinned(AddressRange range);
  // Takes the bytes out of pages [begin, end) and sets their words to `to(word)`.
  absl::Status EmptyPages(Zone& zone, uint32_t begin, uint32_t end, PageWord (*to)(PageWord));
  absl::Status HidePages(Zone& zone, uint32_t begin, uint32_t end);
  // Evicts until no frame is owed; false when what is left cannot leave.
  bool PayDebt() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GiveZones(Region& region);
  // Gives back zones and slabs of a region that has no pages left.
  void Retire(Region& region) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  Metrics metrics_;
  AtomicHistogram stalls_;
  PinnedArena arena_;
  Parker parker_;
  PageHasher hasher_;
  std::unique_ptr<RemoteBackend> remote_;
  std::atomic<bool> unseen_pins_{false};
  FreeFramePool frames_;
  FreeFrameCache cache_;
  ZoneLists zones_;
  ZonePool zone_pool_;
  RangeMap<Region> regions_{LockRank::kRegionTable};
  Pager pager_;
  std::unique_ptr<FaultBackend> fault_;
  std::unique_ptr<EvictorGroup> evictors_;
  std::string description_;

  RankedMutex mutex_{LockRank::kSpace};
  std::vector<std::unique_ptr<Region>> owned_ ABSL_GUARDED_BY(mutex_);
  uint64_t reserved_slabs_ ABSL_GUARDED_BY(mutex_) = 0;
  // What the next small range shares, and from which zone on. A zone of a slab is used once:
  // the versions of its slots' bytes must go on rising.
  std::shared_ptr<Slab> open_slab_ ABSL_GUARDED_BY(mutex_);
  uint32_t open_zone_ ABSL_GUARDED_BY(mutex_) = 0;
  // Pages change their region, or slabs their write generation: counted, so that who walks
  // over all regions sees that he has missed something.
  uint64_t moves_ ABSL_GUARDED_BY(mutex_) = 0;
  std::byte* merge_buffer_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::thread merger_;  // Runs since the first fork of a space whose pool is shared.
  std::atomic<uint32_t> merge_calls_{0};
  std::atomic<bool> merger_stops_{false};
  std::atomic<bool> forking_{false};
  ForkedSlots forked_ = ForkedSlots::kNone;  // Of the fork that is on.
  std::atomic<int64_t> far_pages_{0};
  std::atomic<int64_t> pinned_{0};
  std::unique_ptr<LiveStats> live_stats_;
};

template <typename Visit>
void Space::Impl::ForEachOwnedZone(Visit&& visit) {
  for (const auto& region : owned_) {
    for (size_t z = 0; z < region->zone_count(); ++z) {
      if (Zone* const zone = region->zone(z); zone != nullptr) visit(*zone);
    }
  }
}

}  // namespace spiritos
