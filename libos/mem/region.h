// SPDX-License-Identifier: Apache-2.0
// Region: a registered range of far memory: its zones and its slots.
//
// The page table is two-level: the region's array of zones, then the zone's
// pages; zones are made on first touch and stay until the region ends. Slots are
// direct-mapped: page i of the region is page (first_page + i) of its slab list,
// so nothing on the fault or eviction path allocates slots. Slabs are placed when
// first written, and are shared by count so that a moved range keeps its bytes
// where they are.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "libos/base/units.h"
#include "libos/mem/zone.h"
#include "libos/mem/zone_pool.h"

namespace spiritos {

// A slab's place, shared by the regions whose pages lie in it.
class Slab {
 public:
  bool placed() const { return place_.load(std::memory_order_acquire) != 0; }
  // REQUIRES: placed().
  SlotId first() const { return SlotId(place_.load(std::memory_order_acquire) - 1); }
  // Records a placement; false if another thread was first (its place stands).
  bool TryPlace(SlotId first) {
    uint64_t unplaced = 0;
    return place_.compare_exchange_strong(unplaced, first.raw() + 1, std::memory_order_acq_rel);
  }

 private:
  std::atomic<uint64_t> place_{0};  // First slot + 1; 0 = not placed.
};

class Region {
 public:
  // Pages beyond `pages` in the last zone do not exist. REQUIRES: range.begin is
  // a multiple of kZoneSize. `slabs` cover page `first_page` to the last one.
  Region(AddressRange range, std::vector<std::shared_ptr<Slab>> slabs, uint32_t first_page,
         uint32_t list_count);
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  AddressRange range() const { return range_; }
  Vpn first() const { return Vpn::Of(range_.begin); }
  PageCount pages() const { return PagesFor(range_.size); }

  // The zone of `vpn`, or null when nothing in it was ever touched.
  Zone* FindZone(Vpn vpn) const noexcept {
    return zones_[ZoneIndex(vpn)].load(std::memory_order_acquire);
  }
  // The same, made now if need be; null when near memory is short.
  Zone* FindOrMakeZone(Vpn vpn, ZonePool& pool) noexcept {
    Zone* zone = FindZone(vpn);
    return zone != nullptr ? zone : MakeZone(vpn, pool);
  }

  // The slab that holds the page, and the page's index in it.
  Slab& SlabOf(Vpn vpn) const { return *slabs_[SlabPage(vpn) / kSlabPages]; }
  uint32_t IndexInSlab(Vpn vpn) const { return static_cast<uint32_t>(SlabPage(vpn) % kSlabPages); }
  // REQUIRES: the page's slab is placed.
  SlotId SlotOf(Vpn vpn) const {
    return SlabOf(vpn).first() + PageCount(static_cast<int64_t>(IndexInSlab(vpn)));
  }

  const std::vector<std::shared_ptr<Slab>>& slabs() const { return slabs_; }
  uint32_t first_page() const { return first_page_; }
  // Pages not unmapped yet. Guarded by the space's mutex.
  int64_t mapped_pages = 0;

  size_t zone_count() const { return zone_count_; }
  Zone* zone(size_t index) const { return zones_[index].load(std::memory_order_acquire); }

 private:
  size_t ZoneIndex(Vpn vpn) const {
    return static_cast<size_t>((vpn - first()).raw()) / kZonePages;
  }
  uint64_t SlabPage(Vpn vpn) const {
    return static_cast<uint64_t>((vpn - first()).raw()) + first_page_;
  }
  Zone* MakeZone(Vpn vpn, ZonePool& pool) noexcept;

  const AddressRange range_;
  const std::vector<std::shared_ptr<Slab>> slabs_;
  const uint32_t first_page_;
  const uint32_t list_count_;
  const size_t zone_count_;
  const std::unique_ptr<std::atomic<Zone*>[]> zones_;
};

}  // namespace spiritos
