// SPDX-License-Identifier: Apache-2.0
// Region: a registered range of far memory: its zones and its slots.
//
// The page table is two-level: the region's array of zones, then the zone's
// pages; zones are made on first touch and stay until the region ends. Slots are
// direct-mapped: page i of the region is page (first_page + i) of its slab list,
// so nothing on the fault or eviction path allocates slots. Slabs are placed when
// first written, and are shared by count so that a moved range keeps its bytes
// where they are.
//
//   page --slab list--> Slab --generation--> its place in the pool
//
// A slab has a place for each generation in which a page of it was written. Pages are
// read from the place of the generation in their word, and written to that of the slab's
// write generation, which no other process shares: so whoever shares the others, a parent
// or a child of fork(2), goes on seeing what was there.
#pragma once

#include <array>
#include <atomic>
#include <bitset>
#include <cstdint>
#include <memory>
#include <vector>

#include "libos/base/units.h"
#include "libos/mem/zone.h"
#include "libos/mem/zone_pool.h"

namespace spiritos {

// A slab's places, shared by the regions whose pages lie in it: 2 KiB to 64 MiB.
class Slab {
 public:
  static constexpr size_t kGenerations = 256;

  bool placed(uint8_t generation) const { return Load(generation) != 0; }
  // REQUIRES: placed(generation).
  SlotId first(uint8_t generation) const { return SlotId(Load(generation) - 1); }
  // Records a placement; false if another thread was first (its place stands).
  bool TryPlace(uint8_t generation, SlotId first) {
    uint64_t unplaced = 0;
    return places_[generation].compare_exchange_strong(unplaced, first.raw() + 1,
                                                       std::memory_order_acq_rel);
  }
  // Takes a place off the books. REQUIRES: no page's bytes are there.
  void Unplace(uint8_t generation) { places_[generation].store(0, std::memory_order_release); }
  // Calls visit(generation, first slot) for each place.
  template <typename Visit>
  void ForEachPlace(Visit&& visit) const {
    for (size_t g = 0; g < kGenerations; ++g) {
      const auto generation = static_cast<uint8_t>(g);
      if (placed(generation)) visit(generation, first(generation));
    }
  }

  // Read for every write. A write that is being posted may still use the one before: who
  // changes it waits until each zone was idle once before he counts on it.
  uint8_t write_generation() const { return write_generation_.load(std::memory_order_acquire); }
  void set_write_generation(uint8_t generation) {
    write_generation_.store(generation, std::memory_order_release);
  }
  // Places that another process may have as well. Guarded by the space's mutex.
  std::bitset<kGenerations> shared;

 private:
  uint64_t Load(uint8_t generation) const {
    return places_[generation].load(std::memory_order_acquire);
  }
  // By generation: first slot + 1; 0 = not placed.
  std::array<std::atomic<uint64_t>, kGenerations> places_{};
  std::atomic<uint8_t> write_generation_{0};
};

class Region {
 public:
  // Pages of its first and last zone that are not in it are holes. `slabs` cover page
  // `first_page` to the last one.
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
  // REQUIRES: the page's slab is placed in that generation.
  SlotId SlotOf(Vpn vpn, uint8_t generation) const {
    return SlabOf(vpn).first(generation) + PageCount(static_cast<int64_t>(IndexInSlab(vpn)));
  }

  const std::vector<std::shared_ptr<Slab>>& slabs() const { return slabs_; }
  uint32_t first_page() const { return first_page_; }
  // Pages not unmapped yet. Guarded by the space's mutex.
  int64_t mapped_pages = 0;

  size_t zone_count() const { return zone_count_; }
  // Where zone `index` begins, perhaps before the region does.
  Vpn ZoneBegin(size_t index) const {
    return first() - PageCount(Zone::IndexOf(first())) +
           PageCount(static_cast<int64_t>(index * kZonePages));
  }
  Zone* zone(size_t index) const { return zones_[index].load(std::memory_order_acquire); }

 private:
  size_t ZoneIndex(Vpn vpn) const {
    return static_cast<size_t>(vpn.raw() / kZonePages - first().raw() / kZonePages);
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
