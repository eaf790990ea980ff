// SPDX-License-Identifier: Apache-2.0
// ZoneLists: which zone is swept next: one list per evictor, oldest first.
//
// A zone enters at the tail when its first page appears and again after each
// sweep that left something in it, so the head is the zone that has gone longest
// without one. Only first pages take the lock; later faults into a listed zone
// do not. Whoever pops a zone owns its place: it returns it or unlists it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "libos/base/intrusive_list.h"
#include "libos/base/lock.h"
#include "libos/mem/zone.h"

namespace spiritos {

// Lists, and so evictors, of a space.
inline constexpr uint32_t kZoneListCount = 4;

class ZoneLists {
 public:
  // Called by every fill after its claim: lists the zone unless it is listed.
  void NoteFill(Zone& zone) noexcept {
    if (!zone.word.Load().listed() && zone.word.TryList()) PushBack(zone);
  }

  // The oldest zone on the lists l with l % sharers == share (an evictor's part
  // of the work), or when those are empty on any list; null if there is none.
  Zone* Pop(uint32_t share, uint32_t sharers) noexcept {
    Zone* zone = PopOldest([=](uint32_t l) { return l % sharers == share; });
    return zone != nullptr ? zone : PopOldest([](uint32_t) { return true; });
  }
  void PushBack(Zone& zone) noexcept {
    List& list = lists_[zone.list];
    LockGuard guard(list.lock);
    zone.listed_at = clock_.fetch_add(1, std::memory_order_relaxed);
    list.zones.PushBack(zone);
    list.Changed(+1);
  }
  // For a zone of which only a part was swept: it is still the oldest.
  void PushFront(Zone& zone) noexcept {
    List& list = lists_[zone.list];
    LockGuard guard(list.lock);
    list.zones.PushFront(zone);
    list.Changed(+1);
  }
  // Takes a zone off its list if it is on one (and not in somebody's hands).
  bool TryRemove(Zone& zone) noexcept {
    List& list = lists_[zone.list];
    LockGuard guard(list.lock);
    if (!zone.linked()) return false;
    IntrusiveList<Zone>::Remove(zone);
    list.Changed(-1);
    return true;
  }
  uint64_t size() const noexcept {
    uint64_t sum = 0;
    for (const List& list : lists_) sum += list.size.load(std::memory_order_relaxed);
    return sum;
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};

  struct alignas(kCacheLine) List {
    SpinLock lock{LockRank::kZoneList};
    IntrusiveList<Zone> zones ABSL_GUARDED_BY(lock);
    // Hints for choosing a list without its lock.
    std::atomic<uint64_t> size{0};
    std::atomic<uint64_t> oldest{kEmpty};

    void Changed(int64_t delta) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock) {
      size.fetch_add(static_cast<uint64_t>(delta), std::memory_order_relaxed);
      const Zone* front = zones.front();
      oldest.store(front == nullptr ? kEmpty : front->listed_at, std::memory_order_relaxed);
    }
  };

  template <typename Mine>
  Zone* PopOldest(Mine&& mine) noexcept {
    while (true) {
      List* best = nullptr;
      uint64_t age = kEmpty;
      for (uint32_t l = 0; l < kZoneListCount; ++l) {
        const uint64_t oldest = lists_[l].oldest.load(std::memory_order_relaxed);
        if (!mine(l) || oldest >= age) continue;
        best = &lists_[l];
        age = oldest;
      }
      if (best == nullptr) return nullptr;
      LockGuard guard(best->lock);
      if (Zone* zone = best->zones.PopFront()) {
        best->Changed(-1);
        return zone;
      }
    }
  }

  std::array<List, kZoneListCount> lists_;
  std::atomic<uint64_t> clock_{0};
};

}  // namespace spiritos
