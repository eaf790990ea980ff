// SPDX-License-Identifier: Apache-2.0
// Generations: slabs that are shared with other processes since a fork(2), and how they
// become one's own again.
//
//   fork    every place of a slab is shared; pages are written to a new one from then on
//   later   the other process ends or gives its slabs back: places are shared no more
//           -> the first of those is written to again, and pages in the others are brought
//              there -> the others are given back
//
// While a child lives, its parent needs a place more for each slab that it writes to, and
// so does the child: the far memory of both at most twice, and once more for each further
// child. A pool that is full keeps what does not fit in local memory.
//
// A merge walks over all zones, each of which it owns for a moment, in a thread of its own.
// A page that is resident is only marked: it leaves for its new place. One in the pool is
// copied. Places without pages are given back, shared or not.
#include <algorithm>
#include <thread>
#include <unordered_set>

#include "libos/base/service_thread.h"
#include "libos/space_impl.h"

namespace spiritos {
namespace {

constexpr uint64_t kMergeEveryNs = 250'000'000;
constexpr uint32_t kMergePages = 64;

}  // namespace

template <typename Visit>
void Space::Impl::ForEachSlab(Visit&& visit) {
  std::unordered_set<const Slab*> seen;
  for (const auto& region : owned_) {
    for (const std::shared_ptr<Slab>& slab : region->slabs()) {
      if (seen.insert(slab.get()).second) visit(*slab);
    }
  }
  if (open_slab_ != nullptr && !seen.contains(open_slab_.get())) visit(*open_slab_);
}

bool Space::Impl::MayBeginGenerations() {
  bool may = true;
  ForEachSlab([&](const Slab& slab) {
    size_t places = 0;
    slab.ForEachPlace([&](uint8_t, SlotId) { ++places; });
    may = may && places < Slab::kGenerations;
  });
  return may;
}

void Space::Impl::BeginGenerations() {
  ++moves_;  // A walk that is under way has taken the places of before for its goal.
  ForEachSlab([](Slab& slab) {
    slab.ForEachPlace([&](uint8_t generation, SlotId) { slab.shared.set(generation); });
    uint8_t next = 0;
    while (slab.placed(next)) ++next;
    slab.set_write_generation(next);
  });
}

Space::Impl::UsedPlaces Space::Impl::BeginMerge() {
  UsedPlaces used;
  ForEachSlab([&](Slab& slab) {
    size_t places = 0;
    int own = -1;  // The first place that nobody else has.
    slab.ForEachPlace([&](uint8_t generation, SlotId first) {
      ++places;
      if (slab.shared[generation] && !remote_->shared(first)) slab.shared.reset(generation);
      if (own < 0 && !slab.shared[generation]) own = generation;
    });
    if (places < 2 && slab.shared.none() && own == slab.write_generation()) return;
    if (places == 0) return;
    if (own >= 0) slab.set_write_generation(static_cast<uint8_t>(own));
    used.try_emplace(&slab);
  });
  return used;
}

IoStatus Space::Impl::DoRequest(IoRequest& request) {
  request.status.store(IoStatus::kPending, std::memory_order_relaxed);
  IoResult begun;
  while ((begun = remote_->Submit(request)) == IoResult::kBusy) {
    if (!remote_->Poll(request.lane)) std::this_thread::yield();
  }
  if (begun != IoResult::kOk) return IoStatus::kFailed;
  remote_->Wait(request);
  return request.status.load(std::memory_order_acquire);
}

// Pages [begin, end) have their bytes in one place, in a row, and are absent.
bool Space::Impl::CopyToWritePlace(Zone& zone, uint32_t begin, uint32_t end) {
  const Vpn vpn = zone.vpn(begin);
  const uint8_t to = zone.region->SlabOf(vpn).write_generation();
  IoRequest read;
  read.op = IoOp::kRead;
  read.lane = Lane::kPrefetch;
  read.first = zone.region->SlotOf(vpn, zone.pages[begin].Load().generation());
  read.pages = end - begin;
  read.memory = merge_buffer_;
  if (DoRequest(read) != IoStatus::kDone) return false;
  for (uint32_t i = begin; i < end; ++i) {
    const std::byte* const bytes = merge_buffer_ + (size_t{i - begin} << kPageShift);
    if (hasher_.Hash(bytes) != zone.hashes[i]) return false;  // Whoever needs it will be told.
  }
  for (uint32_t i = begin; i < end; ++i) zone.versions[i] = Zone::Written(zone.versions[i]);
  IoRequest write;
  write.op = IoOp::kWrite;
  write.lane = Lane::kWriteBack;
  write.first = zone.region->SlotOf(vpn, to);
  write.pages = end - begin;
  write.memory = merge_buffer_;
  write.versions = &zone.versions[begin];
  if (DoRequest(write) != IoStatus::kDone) return false;
  for (uint32_t i = begin; i < end; ++i) {
    // Faults claim it, see the gate, and put back what they found.
    pager_.ChangeWord(zone, i, [to](PageWord word) {
      // What was read ahead of it is as good, but its window is of another place.
      return (word.state() == PageState::kStandby ? word.StandbyToRemote() : word)
          .WithGeneration(to);
    });
    parker_.Unpark(&zone.pages[i]);
  }
  metrics_.Add(Metric::kMergedPages, end - begin);
  return true;
}

void Space::Impl::MergeZone(Zone& zone, UsedPlaces& used) {
  pager_.EnterExclusive(zone, 0, kZonePages);
  uint32_t run_begin = 0;
  uint32_t run_end = 0;
  const auto copy_run = [&] {
    if (run_begin == run_end) return;
    const Slab& slab = zone.region->SlabOf(zone.vpn(run_begin));
    const uint8_t generation = zone.pages[run_begin].Load().generation();
    if (!CopyToWritePlace(zone, run_begin, run_end)) used[&slab].set(generation);
    run_begin = run_end = 0;
  };
  for (uint32_t i = 0; i < kZonePages; ++i) {
    const PageWord word = zone.pages[i].Load();
    if (!word.slot_valid() || !Zone::HasBytes(zone.versions[i])) continue;
    const Vpn vpn = zone.vpn(i);
    const Slab& slab = zone.region->SlabOf(vpn);
    const auto place = used.find(&slab);
    const uint8_t generation = word.generation();
    if (place == used.end() || generation == slab.write_generation()) continue;
    if (slab.shared[generation]) {
      place->second.set(generation);
    } else if (word.state() == PageState::kResident || word.state() == PageState::kThawing) {
      pager_.ChangeWord(zone, i, [](PageWord now) { return now.WithSlotValid(false); });
    } else {
      const bool follows = run_end == i && run_end - run_begin < kMergePages &&
                           zone.pages[run_begin].Load().generation() == generation &&
                           zone.region->IndexInSlab(vpn) != 0;
      if (!follows) {
        copy_run();
        run_begin = i;
      }
      run_end = i + 1;
    }
  }
  copy_run();
  pager_.LeaveExclusive(zone);
}

bool Space::Impl::EndMerge(const UsedPlaces& used, uint64_t moves) {
  if (moves != moves_) return true;  // Pages may have gone to where the walk had been.
  bool left = false;
  ForEachSlab([&](Slab& slab) {
    const auto at = used.find(&slab);
    if (at == used.end()) return;
    slab.ForEachPlace([&](uint8_t generation, SlotId first) {
      if (generation == slab.write_generation()) return;
      if (at->second[generation]) {
        left = true;
        return;
      }
      slab.Unplace(generation);
      slab.shared.reset(generation);
      remote_->ReleaseSlab(first);
    });
  });
  return left;
}

bool Space::Impl::MergeGenerations() {
  UsedPlaces used;
  std::vector<const Region*> regions;
  uint64_t moves;
  {
    LockGuard guard(mutex_);
    if (merge_buffer_ == nullptr) {
      merge_buffer_ =
          static_cast<std::byte*>(arena_.Allocate(size_t{kMergePages} << kPageShift, kPageSize));
      if (merge_buffer_ == nullptr) return true;
    }
    used = BeginMerge();
    if (used.empty()) return false;
    for (const auto& region : owned_) regions.push_back(region.get());
    moves = moves_;
  }
  for (const Region* const region : regions) {
    for (size_t z = 0;; ++z) {
      // Taken anew for each zone: range calls must not wait for all of it.
      LockGuard guard(mutex_);
      if (merger_stops_.load(std::memory_order_relaxed)) return true;
      const bool owned = std::any_of(owned_.begin(), owned_.end(),
                                     [&](const auto& other) { return other.get() == region; });
      if (!owned || z == region->zone_count()) break;
      if (Zone* const zone = region->zone(z); zone != nullptr) MergeZone(*zone, used);
    }
  }
  LockGuard guard(mutex_);
  return EndMerge(used, moves);
}

void Space::Impl::StartMerging() {
  if (!merger_.joinable()) {
    merger_ = StartServiceThread("spiritos-merge", [this] {
      while (!merger_stops_.load()) {
        const uint32_t calls = merge_calls_.load();
        const bool left = MergeGenerations();
        if (left) {
          FutexWait(merge_calls_, calls, kMergeEveryNs);
        } else {
          FutexWait(merge_calls_, calls);
        }
      }
    });
  }
  merge_calls_.fetch_add(1);
  FutexWake(merge_calls_, 1);
}

void Space::Impl::StopMerging() {
  if (!merger_.joinable()) return;
  merger_stops_.store(true);
  merge_calls_.fetch_add(1);
  FutexWake(merge_calls_, 1);
  merger_.join();
}

}  // namespace spiritos
