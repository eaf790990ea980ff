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

  // The oldest zone of `list`, or of the lists after it; null if all are empty.
  Zone* Pop(uint32_t list) noexcept {
    for (uint32_t i = 0; i < kZoneListCount; ++i) {
      List& candidate = lists_[(list + i) % kZoneListCount];
      if (candidate.size.load(std::memory_order_relaxed) == 0) continue;
      LockGuard guard(candidate.lock);
      if (Zone* zone = candidate.zones.PopFront()) {
        candidate.size.fetch_sub(1, std::memory_order_relaxed);
        return zone;
      }
    }
    return nullptr;
  }
  void PushBack(Zone& zone) noexcept {
    List& list = lists_[zone.list];
    LockGuard guard(list.lock);
    list.zones.PushBack(zone);
    list.size.fetch_add(1, std::memory_order_relaxed);
  }
  // For a zone of which only a part was swept: it is still the oldest.
  void PushFront(Zone& zone) noexcept {
    List& list = lists_[zone.list];
    LockGuard guard(list.lock);
    list.zones.PushFront(zone);
    list.size.fetch_add(1, std::memory_order_relaxed);
  }
  // Takes a zone off its list if it is on one (and not in somebody's hands).
  bool TryRemove(Zone& zone) noexcept {
    List& list = lists_[zone.list];
    LockGuard guard(list.lock);
    if (!zone.linked()) return false;
    IntrusiveList<Zone>::Remove(zone);
    list.size.fetch_sub(1, std::memory_order_relaxed);
    return true;
  }
  uint64_t size() const noexcept {
    uint64_t sum = 0;
    for (const List& list : lists_) sum += list.size.load(std::memory_order_relaxed);
    return sum;
  }

 private:
  struct alignas(kCacheLine) List {
    SpinLock lock{LockRank::kZoneList};
    IntrusiveList<Zone> zones ABSL_GUARDED_BY(lock);
    std::atomic<uint64_t> size{0};
  };
  std::array<List, kZoneListCount> lists_;
};

}  // namespace spiritos
