// SPDX-License-Identifier: Apache-2.0
// fork(2): everything comes to rest, the kernel copies memory and books alike, and both
// processes go on.
//
//   parent   pins end -> handlers pause -> evictors are idle -> every zone is owned
//              -> regions and pool may be copied -> fork
//              -> zones are left -> handlers go on
//   child    new userfaultfd, new handlers -> guards off -> evictors -> zones are left
//
// A page of the child is where it was in the parent: mapped, as the kernel's copy on write,
// or in the pool, of which the child has a copy too, or which it shares: then neither writes
// to what was there, see space_generations.cc. What the kernel does not copy are
// threads, write-protection, locks on memory, and whatever a descriptor stands for.
#include <sys/mman.h>

#include <cerrno>
#include <memory>

#include "libos/base/check.h"
#include "libos/base/log.h"
#include "libos/space_impl.h"

namespace spiritos {

void Space::Impl::AwaitFork(std::optional<Epoch::Guard>& guard) noexcept {
  while (true) {
    guard.emplace(regions_.epoch());
    // Counted, then looked; BeforeFork() sets it, then waits for who is counted.
    if (!forking_.load(std::memory_order_seq_cst)) return;
    guard.reset();
    parker_.Wait(&forking_, [this] { return !forking_.load(std::memory_order_acquire); });
  }
}

bool Space::Impl::BeforeFork() {
  mutex_.lock();
  forked_ = ForkedSlots::kNone;
  if (!fault_->caps().forks || !MayBeginGenerations()) return false;
  forking_.store(true, std::memory_order_seq_cst);
  regions_.epoch().Synchronize();
  fault_->Pause();
  evictors_->AwaitIdle();
  ForEachOwnedZone([this](Zone& zone) { pager_.EnterExclusive(zone, 0, kZonePages); });
  forked_ = remote_->BeforeFork();
  if (forked_ == ForkedSlots::kNone) {
    GoOn();
    return false;
  }
  if (forked_ == ForkedSlots::kShared) BeginGenerations();
  regions_.ForEach([](AddressRange range) {
    SPIRITOS_CHECK(madvise(range.begin, range.size.raw(), MADV_DOFORK) == 0,
                   "madvise(MADV_DOFORK) on a region: errno {}", errno);
  });
  return true;
}

void Space::Impl::GoOn() {
  ForEachOwnedZone([this](Zone& zone) { pager_.LeaveExclusive(zone); });
  fault_->Resume();
  forking_.store(false, std::memory_order_release);
  parker_.Unpark(&forking_);
}

void Space::Impl::AfterForkInParent() {
  if (forked_ != ForkedSlots::kNone) {
    regions_.ForEach([](AddressRange range) {
      if (absl::Status status = AdviseRegion(range); !status.ok()) LogWarning(status.ToString());
    });
    remote_->AfterFork(/*child=*/false);
    GoOn();
    if (forked_ == ForkedSlots::kShared) StartMerging();
  }
  mutex_.unlock();
}

void Space::Impl::AfterForkInChild() {
  if (forked_ != ForkedSlots::kNone) {
    arena_.LockAgain();
    remote_->AfterFork(/*child=*/true);
    absl::Status status = fault_->Restart();
    regions_.ForEach([&](AddressRange range) {
      if (status.ok()) status = AdviseRegion(range);
      if (status.ok()) status = fault_->Cover(range);
    });
    SPIRITOS_CHECK(status.ok(), "after fork(2), in the child: {}", status.ToString());
    ForEachOwnedZone([this](Zone& zone) {
      for (AtomicPageWord& page : zone.pages) {
        const PageWord word = page.Load();
        // Nobody else is here: the zone is owned, and has no pinner.
        if (word.state() == PageState::kResident && word.guarded()) page.Publish(word.Unguarded());
      }
      pager_.LeaveExclusive(zone);
    });
    evictors_->Restart();
    forking_.store(false, std::memory_order_release);
    std::construct_at(&merger_);  // A thread that is not there: nobody to join.
    if (forked_ == ForkedSlots::kShared) StartMerging();
    if (live_stats_ != nullptr) {
      if (status = live_stats_->Restart(); !status.ok()) LogWarning(status.ToString());
    }
  }
  mutex_.unlock();
}

}  // namespace spiritos
