// SPDX-License-Identifier: Apache-2.0
// Pager: the fault path; the only file that sees every mechanism.
//
//   find region and zone -> take a free frame -> claim the page (Loading) -> look
//   at the zone's gate -> fetch and verify (or zeroes) -> Fill -> publish Resident
//
// The frame comes before the claim, so that nobody who waits for a frame holds a
// page that a range call waits for. One thread fetches a page; others that fault
// on it meanwhile wait for its word to change.
//
// Stores into frozen pages end here too: the page is taken back (rescue) by
// claiming Thawing, un-protecting it, and only then publishing Resident.
//
// Context: signal, all of it but Pin()/Unpin() (any).
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "libos/base/histogram.h"
#include "libos/base/metrics.h"
#include "libos/base/parker.h"
#include "libos/base/pinned_arena.h"
#include "libos/base/range_map.h"
#include "libos/evict/evictor_group.h"
#include "libos/fault/fault_backend.h"
#include "libos/fetcher.h"
#include "libos/mem/free_frame_cache.h"
#include "libos/mem/page_hash.h"
#include "libos/mem/region.h"
#include "libos/mem/zone.h"
#include "libos/mem/zone_lists.h"
#include "libos/prefetch/ahead_streams.h"
#include "libos/prefetch/prefetcher.h"
#include "libos/remote/remote_backend.h"

namespace spiritos {

// What the pager works with: all borrowed from the space, but for the fault
// backend, which reports to the pager and so is made after it.
struct PagerParts {
  RangeMap<Region>& regions;
  PinnedArena& arena;
  ZonePool& zone_pool;
  RemoteBackend& remote;
  FreeFramePool& frames;
  FreeFrameCache& cache;
  ZoneLists& zones;
  Parker& parker;
  const PageHasher& hasher;
  Metrics& metrics;
};

class Pager final : public FaultSink, public SpareWork {
 public:
  Pager(const PagerParts& parts, const PrefetchOptions& options);

  // Before the first region. `fault` and `evictors` outlive the last fault.
  absl::Status Attach(FaultBackend& fault, EvictorGroup& evictors);

  FaultOutcome OnFault(Vpn vpn, FaultKind kind) noexcept override;

  // Brings the page in, as a load would.
  void Touch(Zone& zone, uint32_t index) noexcept { Serve(zone, index, FaultKind::kMissing); }
  // A page that has memory already. REQUIRES: its zone is owned.
  void AdoptPage(Zone& zone, uint32_t index) noexcept;
  // Brings `count` pages from `index` in while frames are plentiful; stops at the
  // first that would have to wait. The pages it brought.
  uint32_t BringIn(Zone& zone, uint32_t index, uint32_t count) noexcept;

  // Makes pages [begin, end) of the zone resident and writable and keeps them so.
  // False, with nothing pinned, when one of them is out of reach (PROT_NONE).
  [[nodiscard]] bool PinPages(Zone& zone, uint32_t begin, uint32_t end) noexcept;
  void UnpinPages(Zone& zone, uint32_t begin, uint32_t end) noexcept;

  // Range calls: owns the zone, with nothing in motion on pages [begin, end).
  void EnterExclusive(Zone& zone, uint32_t begin, uint32_t end) noexcept;
  // The page's word becomes `to` of it. REQUIRES: its zone is owned, and it is not claimed by
  // the owner.
  template <typename To>
  void ChangeWord(Zone& zone, uint32_t index, To to) noexcept;
  void LeaveExclusive(Zone& zone) noexcept;
  // Enters, and claims the resident pages (Zapping), so that nobody pins one or
  // un-protects it on the way: how many. False, and nothing is changed, when one is
  // pinned.
  [[nodiscard]] bool ClaimToDrop(Zone& zone, uint32_t begin, uint32_t end,
                                 uint32_t* claimed) noexcept;
  // Sets the words of pages that are claimed or absent to what `to` says of them. A
  // fault may claim an absent page at any time, and gives it back as the gate is
  // closed: this waits for it.
  void SetWords(Zone& zone, uint32_t begin, uint32_t end, PageWord (*to)(PageWord)) noexcept;
  // The pages that were claimed stay. Leaves.
  void GiveUpDrop(Zone& zone, uint32_t begin, uint32_t end) noexcept;

  // Work for evictors that have time: filling ahead.
  bool pending() const noexcept override { return ahead_.pending(); }
  void DoOne() noexcept override;

  void AddFaultTimes(Histogram& total) const;
  // Bytes of the arena that are frames of the budget: buffers of reads.
  Bytes buffer_bytes() const { return fetcher_.buffer_bytes(); }

 private:
  FaultOutcome Serve(Zone& zone, uint32_t index, FaultKind kind) noexcept;
  // Loads an absent page. kRetry when the claim was lost or the gate closed, and the
  // word must be looked at again; kLost leaves the page as it was.
  FaultOutcome Load(Zone& zone, uint32_t index, PageWord word, FaultKind kind) noexcept;
  void LoadZeroes(Zone& zone, uint32_t index, PageWord word) noexcept;
  // From a pool that is memory of this process: the page and the run that the
  // prefetcher names in one Fill, straight from the slots. False when the page is lost.
  bool LoadInPlace(Zone& zone, uint32_t index, FaultKind kind) noexcept;
  // From any other pool: reads ahead while the demanded page is on its way. False when
  // it is lost.
  bool LoadByReading(Zone& zone, uint32_t index, FaultKind kind) noexcept;
  // Has the page's copies written anew when it leaves.
  void Rewrite(Zone& zone, uint32_t index) noexcept;
  // From a window that stands by: all of it in one Fill. False when it was gone.
  bool LoadStandby(Zone& zone, uint32_t index, PageWord word, FaultKind kind) noexcept;

  struct alignas(kCacheLine) CorePrefetcher {
    std::atomic<bool> busy{false};
    Prefetcher prefetcher;
  };
  // The plan of this core's prefetcher; none while another fault is at it.
  PrefetchPlan Plan(Vpn vpn, uint32_t max_window, CorePrefetcher** owner) noexcept;
  void Planned(CorePrefetcher* owner, const PrefetchPlan& plan, uint32_t brought) noexcept;
  // Fills a run of claimed pages whose bytes are memory of this process: as many as
  // verify, from `index` on in `direction`; how many. The others go back.
  uint32_t FillFromSlots(Zone& zone, uint32_t index, uint32_t count, int direction,
                         FaultKind kind) noexcept;
  // Claims and fills up to `most` absent pages from `vpn` on, of one zone, while
  // frames are plentiful; how many.
  uint32_t BringRun(Vpn vpn, uint32_t most, int32_t direction) noexcept;
  // Fills what can be of a run that was taken; how many pages.
  uint32_t FillTaken(const AheadStreams::Run& run) noexcept;
  // Somebody is filling the page at `vpn`: fills what its stream needs next.
  bool FillBeyond(Vpn vpn) noexcept;
  // Brings single pages at the plan's distance.
  uint32_t BringStrided(const PrefetchPlan& plan) noexcept;
  void ReadAhead(Zone& zone, uint32_t index) noexcept;

  // Claims pages after `index` that are like it, for one Fill; the run's length,
  // the first included. Frames for all but the first are taken here.
  uint32_t ExtendRun(Zone& zone, uint32_t index, PageState state, uint32_t most,
                     int direction) noexcept;
  // Fills a run of claimed pages and ends the claims as the kernel's answer says.
  // `kind` is why the run is brought.
  void FillRun(Zone& zone, uint32_t index, uint32_t count, const std::byte* bytes,
               FaultKind kind) noexcept;
  // Whether a run of claimed pages is filled guarded: if that seems to pay for all of
  // them and no sweep is on that may un-protect them. If so, their words say guarded;
  // if not, none does.
  bool DecideGuard(Zone& zone, uint32_t index, uint32_t count, FaultKind kind) noexcept;
  void PublishRun(Zone& zone, uint32_t index, uint32_t count, const MapOutcome& outcome,
                  bool guarded) noexcept;
  PageWord ResidentWord(PageWord loading) const noexcept;
  void Unclaim(Zone& zone, uint32_t index, PageWord before) noexcept;
  bool Verify(const Zone& zone, uint32_t index, const std::byte* bytes) noexcept;

  // Leaving or frozen Resident -> Thawing -> un-protected -> Resident.
  bool Thaw(Zone& zone, uint32_t index, PageWord word) noexcept;
  // A fault on a resident page that nothing explains: un-protects it, and where
  // it comes again finds out whether the page was discarded by somebody else.
  FaultOutcome ResolveResident(Zone& zone, uint32_t index, PageWord word, FaultKind kind) noexcept;
  static void UnpinWords(Zone& zone, uint32_t begin, uint32_t end) noexcept;
  void AwaitLoaded(Zone& zone, uint32_t index) noexcept;
  template <typename Done>
  void WaitForPage(Zone& zone, uint32_t index, Done&& done) noexcept;
  void WaitForGate(Zone& zone) noexcept;

  const PagerParts parts_;
  const PrefetchOptions options_;
  FaultBackend* fault_ = nullptr;
  EvictorGroup* evictors_ = nullptr;
  const std::byte* zeroes_ = nullptr;       // options_.fault_around pages.
  bool in_place_ = true;                    // The pool is memory of this process.
  AtomicHistogram* fault_times_ = nullptr;  // One per core.
  CorePrefetcher* prefetchers_ = nullptr;   // One per core.
  Fetcher fetcher_;
  AheadStreams ahead_;
  uint32_t ahead_window_ = 0;
  double ns_per_tick_ = 1;
};

template <typename To>
void Pager::ChangeWord(Zone& zone, uint32_t index, To to) noexcept {
  AtomicPageWord& page = zone.pages[index];
  PageWord word = page.Load();
  while (true) {
    if (word.state() == PageState::kLoading) {  // It goes back: the gate is closed.
      AwaitLoaded(zone, index);
      word = page.Load();
    } else if (page.Take(word, to(word))) {
      return;
    }
  }
}

}  // namespace spiritos
