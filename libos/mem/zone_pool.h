// SPDX-License-Identifier: Apache-2.0
// ZonePool: where zones' books come from and go back to when their region ends.
//
// Memory of a zone is only ever a zone: a stale pointer to one that was recycled
// finds words, though of other pages. Context: signal.
#pragma once

#include "libos/base/intrusive_list.h"
#include "libos/base/lock.h"
#include "libos/base/pinned_arena.h"
#include "libos/mem/zone.h"

namespace spiritos {

class ZonePool {
 public:
  explicit ZonePool(PinnedArena& arena) : arena_(arena) {}

  // A zone whose pages are Empty; null when near memory is short.
  Zone* Take() noexcept {
    Zone* zone = nullptr;
    {
      LockGuard guard(lock_);
      zone = spare_.PopFront();
    }
    if (zone == nullptr) return arena_.New<Zone>();
    return ::new (static_cast<void*>(zone)) Zone();
  }
  // REQUIRES: on no list, and nobody looks at it any more.
  void Give(Zone* zone) noexcept {
    LockGuard guard(lock_);
    spare_.PushFront(*zone);
  }

 private:
  PinnedArena& arena_;
  SpinLock lock_{LockRank::kZonePool};
  IntrusiveList<Zone> spare_ ABSL_GUARDED_BY(lock_);
};

}  // namespace spiritos
