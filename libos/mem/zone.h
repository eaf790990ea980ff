// SPDX-License-Identifier: Apache-2.0
// Zone: the books of 4 MiB of address space, 1024 pages: a leaf of the page table.
//
// 28 bytes a page (word, hash, version) and a head of a few cache lines, carved
// from the pinned arena on the zone's first touch. Words are dense, because
// sweeps walk them.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>

#include "libos/base/check.h"
#include "libos/base/intrusive_list.h"
#include "libos/base/units.h"
#include "libos/mem/page_hash.h"
#include "libos/mem/page_word.h"
#include "libos/mem/zone_word.h"

namespace spiritos {

class Region;

struct Zone : ListLink {
  // Constant between Init() and the region's end.
  Region* region = nullptr;
  Vpn first;          // Aligned to kZonePages.
  uint32_t list = 0;  // Which evictor's list it belongs on.

  AtomicZoneWord word;

  // Where the next sweep of a zone that was swept in part begins. Owned by whoever
  // took the zone off its list.
  uint32_t cursor = 0;

  // Whether filling pages guarded pays in this zone: rises with each page that leaves
  // clean, falls with each that leaves dirty and with each store into a guarded page.
  // While it is not negative, pages that left clean come back guarded; while it is at
  // its best, so do all that a load brings.
  static constexpr int32_t kBestGuardScore = 64;
  std::atomic<int32_t> guard_score{0};
  void NoteStays(int32_t clean, int32_t dirty, int32_t broken) noexcept {
    // A store into a guarded page costs some ten times what a guarded departure saves.
    const int32_t score = guard_score.load(std::memory_order_relaxed);
    const int32_t next = score + clean - 4 * dirty - 8 * broken;
    guard_score.store(std::clamp(next, -kBestGuardScore, kBestGuardScore),
                      std::memory_order_relaxed);
  }

  // When it was put on its list, in ZoneLists' count. Guarded by the list's lock.
  uint64_t listed_at = 0;

  // Owned by whoever the page's word says: the claimer of Loading, or the sweep
  // while Leaving or Zapping.
  std::array<PageHash, kZonePages> hashes;
  // Rises at every posted write of the page's slot and when the slot's bytes are given
  // up, and is never reused: a server refuses a write that a newer one has overtaken.
  // Odd while the slot holds bytes.
  std::array<uint32_t, kZonePages> versions;
  static constexpr uint32_t Written(uint32_t version) { return (version + 1) | 1; }
  static constexpr uint32_t GivenUp(uint32_t version) { return version + (version & 1); }
  static constexpr bool HasBytes(uint32_t version) { return (version & 1) != 0; }

  alignas(kCacheLine) std::array<AtomicPageWord, kZonePages> pages;

  Vpn vpn(uint32_t index) const { return first + PageCount(index); }
  static uint32_t IndexOf(Vpn vpn) { return static_cast<uint32_t>(vpn.raw()) & (kZonePages - 1); }
};

}  // namespace spiritos
