// SPDX-License-Identifier: Apache-2.0
// Makes zones on demand; the first of racing makers wins.
#include "libos/mem/region.h"

#include "libos/base/check.h"

namespace spiritos {

Region::Region(AddressRange range, std::vector<std::shared_ptr<Slab>> slabs, uint32_t first_page,
               uint32_t list_count)
    : range_(range),
      slabs_(std::move(slabs)),
      first_page_(first_page),
      list_count_(list_count),
      zone_count_(ZoneIndex(Vpn::Of(range.end() - 1)) + 1),
      zones_(std::make_unique<std::atomic<Zone*>[]>(zone_count_)) {
  mapped_pages = pages().raw();
  SPIRITOS_CHECK(slabs_.size() * kSlabPages >= first_page_ + static_cast<uint64_t>(pages().raw()),
                 "{} slabs for {} pages", slabs_.size(), pages().raw());
}

Zone* Region::MakeZone(Vpn vpn, ZonePool& pool) noexcept {
  Zone* const made = pool.Take();
  if (made == nullptr) return nullptr;
  const size_t index = ZoneIndex(vpn);
  made->region = this;
  made->first = vpn - PageCount(Zone::IndexOf(vpn));
  // Neighbouring zones go to different evictors.
  made->list = static_cast<uint32_t>(made->first.raw() / kZonePages) % list_count_;
  for (uint32_t i = 0; i < kZonePages; ++i) {
    const bool inside = made->vpn(i) >= first() && made->vpn(i) < first() + pages();
    if (!inside) made->pages[i].Publish(PageWord().ToHole());
  }
  Zone* winner = nullptr;
  if (zones_[index].compare_exchange_strong(winner, made, std::memory_order_acq_rel)) return made;
  pool.Give(made);  // Another fault was faster.
  return winner;
}

}  // namespace spiritos
