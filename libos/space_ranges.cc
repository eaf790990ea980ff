// SPDX-License-Identifier: Apache-2.0
// Calls on ranges: each zone is owned for the time that its pages change.
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <tuple>
#include <vector>

#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "libos/base/status.h"
#include "libos/space_impl.h"

namespace spiritos {
namespace {

// Pages that others keep touching are tried to be hidden for so long.
constexpr uint64_t kHidePatienceNs = 2'000'000'000;

absl::Status PinnedError(Vpn vpn) {
  return absl::FailedPreconditionError(
      fmt::format("pages at {} are pinned: Unpin() them first", static_cast<void*>(vpn.address())));
}

}  // namespace

absl::Status Space::Impl::CheckPages(AddressRange range) {
  const bool aligned = reinterpret_cast<uintptr_t>(range.begin) % kPageSize == 0 &&
                       range.size.raw() % kPageSize == 0;
  if (!aligned || range.size.raw() == 0) {
    return InvalidArgument("range {} + {} does not consist of whole pages",
                           static_cast<void*>(range.begin), range.size.raw());
  }
  return absl::OkStatus();
}

template <typename Visit>
absl::Status Space::Impl::ForEachZone(AddressRange range, Visit&& visit) {
  SPIRITOS_RETURN_IF_ERROR(CheckPages(range));
  if (!regions_.Covers(range)) {
    return InvalidArgument("range {} + {} is not all in regions of this space",
                           static_cast<void*>(range.begin), range.size.raw());
  }
  std::byte* at = range.begin;
  while (at < range.end()) {
    Region* region = nullptr;
    const std::byte* mapped_end = nullptr;
    {
      Epoch::Guard guard(regions_.epoch());
      // Stays: callers hold mutex_ or a guard.
      std::tie(region, mapped_end) = regions_.FindWithEnd(at, guard);
    }
    if (region == nullptr) {
      return InvalidArgument("address {} is not in a region of this space", static_cast<void*>(at));
    }
    const uintptr_t zone_end = (reinterpret_cast<uintptr_t>(at) / kZoneSize + 1) * kZoneSize;
    const uintptr_t end = std::min({zone_end, reinterpret_cast<uintptr_t>(range.end()),
                                    reinterpret_cast<uintptr_t>(mapped_end)});
    const uint32_t first = Zone::IndexOf(Vpn::Of(at));
    const auto pages = static_cast<uint32_t>((end - reinterpret_cast<uintptr_t>(at)) / kPageSize);
    SPIRITOS_RETURN_IF_ERROR(visit(*region, Vpn::Of(at), first, first + pages));
    at = reinterpret_cast<std::byte*>(end);
  }
  return absl::OkStatus();
}

absl::Status Space::Impl::EmptyPages(Zone& zone, uint32_t begin, uint32_t end,
                                     PageWord (*to)(PageWord)) {
  uint32_t resident = 0;
  if (!pager_.ClaimToDrop(zone, begin, end, &resident)) return PinnedError(zone.vpn(begin));
  uint32_t with_bytes_begin = end;
  uint32_t with_bytes_end = begin;
  for (uint32_t i = begin; i < end; ++i) {
    if (Zone::HasBytes(zone.versions[i])) {
      with_bytes_begin = std::min(with_bytes_begin, i);
      with_bytes_end = i + 1;
    }
  }
  if (resident != 0) {
    const PageRun run{zone.vpn(begin), end - begin};
    const MapOutcome outcome = fault_->Drop({&run, 1});
    if (outcome.result != MapResult::kOk) {
      pager_.GiveUpDrop(zone, begin, end);
      return ErrnoStatus(outcome.error, "madvise(MADV_DONTNEED) on a region");
    }
  }
  pager_.SetWords(zone, begin, end, to);
  for (uint32_t i = begin; i < end; ++i) zone.versions[i] = Zone::GivenUp(zone.versions[i]);
  // Before anybody can touch these pages, and so write their slots, again.
  if (with_bytes_begin < with_bytes_end) {
    const Vpn vpn = zone.vpn(with_bytes_begin);
    const uint32_t in_slab = zone.region->IndexInSlab(vpn);
    const uint32_t count = std::min(with_bytes_end - with_bytes_begin, kSlabPages - in_slab);
    // Other generations' slots may be somebody else's too.
    const uint8_t generation = zone.region->SlabOf(vpn).write_generation();
    if (zone.region->SlabOf(vpn).placed(generation)) {
      remote_->Forget(zone.region->SlotOf(vpn, generation), count);
    }
  }
  metrics_.Add(Metric::kDiscardedPages, resident);
  pager_.LeaveExclusive(zone);
  if (resident != 0) frames_.Give(resident);
  return absl::OkStatus();
}

absl::Status Space::Impl::Discard(AddressRange range) {
  LockGuard guard(mutex_);
  SPIRITOS_RETURN_IF_ERROR(CheckUnpinned(range));
  return ForEachZone(range, [&](Region& region, Vpn vpn, uint32_t begin, uint32_t end) {
    Zone* zone = region.FindZone(vpn);
    if (zone == nullptr) return absl::OkStatus();
    return EmptyPages(*zone, begin, end, [](PageWord word) {
      return word.state() == PageState::kHole ? word.ToEmpty().ToHole() : word.ToEmpty();
    });
  });
}

absl::Status Space::Impl::Unmap(AddressRange range) {
  LockGuard guard(mutex_);
  return UnmapLocked(range);
}

absl::Status Space::Impl::CheckUnpinned(AddressRange range) {
  return ForEachZone(range, [&](Region& region, Vpn vpn, uint32_t begin, uint32_t end) {
    const Zone* zone = region.FindZone(vpn);
    if (zone == nullptr || zone->word.Load().pins() == 0) return absl::OkStatus();
    for (uint32_t i = begin; i < end; ++i) {
      const PageWord word = zone->pages[i].Load();
      const bool counts_pins =
          word.state() == PageState::kResident || word.state() == PageState::kThawing;
      if (!counts_pins || word.pins() == 0) continue;
      return PinnedError(zone->vpn(i));
    }
    return absl::OkStatus();
  });
}

absl::Status Space::Impl::UnmapLocked(AddressRange range) {
  SPIRITOS_RETURN_IF_ERROR(CheckUnpinned(range));
  // Pages first: from here on nothing of the range can be filled. A zone that is
  // only touched in part is needed to say so of its other part's neighbours.
  SPIRITOS_RETURN_IF_ERROR(
      ForEachZone(range, [&](Region& region, Vpn vpn, uint32_t begin, uint32_t end) {
        Zone* zone = region.FindZone(vpn);
        if (zone == nullptr && end - begin < kZonePages) {
          zone = region.FindOrMakeZone(vpn, zone_pool_);
          if (zone == nullptr) return absl::ResourceExhaustedError("no near memory for a zone");
        }
        if (zone != nullptr) {
          SPIRITOS_RETURN_IF_ERROR(
              EmptyPages(*zone, begin, end, [](PageWord) { return PageWord().ToHole(); }));
        }
        return absl::OkStatus();
      }));
  // From here on nothing fails.
  SPIRITOS_RETURN_IF_ERROR(
      ForEachZone(range, [&](Region& region, Vpn, uint32_t begin, uint32_t end) {
        region.mapped_pages -= end - begin;
        return absl::OkStatus();
      }));
  fault_->Uncover(range);
  regions_.Erase(range);
  munmap(range.begin, range.size.raw());
  far_pages_ -= PagesFor(range.size).raw();
  for (size_t i = 0; i < owned_.size();) {
    if (owned_[i]->mapped_pages != 0) {
      ++i;
      continue;
    }
    const std::unique_ptr<Region> region = std::move(owned_[i]);
    owned_[i] = std::move(owned_.back());
    owned_.pop_back();
    Retire(*region);
  }
  return absl::OkStatus();
}

void Space::Impl::GiveZones(Region& region) {
  for (size_t z = 0; z < region.zone_count(); ++z) {
    if (region.zone(z) != nullptr) zone_pool_.Give(region.zone(z));
  }
}

void Space::Impl::Retire(Region& region) {
  // Zones leave their lists; one in an evictor's hands is given back or let go
  // by the evictor, which finds nothing in it.
  for (size_t z = 0; z < region.zone_count(); ++z) {
    Zone* const zone = region.zone(z);
    while (zone != nullptr && zone->word.Load().listed()) {
      if (zones_.TryRemove(*zone)) zone->word.Unlist();
      std::this_thread::yield();
    }
  }
  regions_.epoch().Synchronize();  // Nobody has a zone of it in hand any more.
  GiveZones(region);
  for (const auto& slab : region.slabs()) GiveUpSlab(slab);
}

absl::Status Space::Impl::Protect(AddressRange range, int protection) {
  if (protection != PROT_NONE && protection != PROT_READ &&
      protection != (PROT_READ | PROT_WRITE)) {
    return InvalidArgument(
        "protection {:#x} is none of PROT_NONE, PROT_READ, "
        "PROT_READ | PROT_WRITE",
        protection);
  }
  LockGuard guard(mutex_);
  SPIRITOS_RETURN_IF_ERROR(
      ForEachZone(range, [&](Region& region, Vpn vpn, uint32_t begin, uint32_t end) {
        Zone* zone = region.FindOrMakeZone(vpn, zone_pool_);
        if (zone == nullptr) return absl::ResourceExhaustedError("no near memory for a zone");
        if (protection == PROT_NONE) return HidePages(*zone, begin, end);
        pager_.EnterExclusive(*zone, begin, end);
        pager_.SetWords(*zone, begin, end, [](PageWord word) {
          return word.state() == PageState::kHole ? word.HoleToAbsent() : word;
        });
        pager_.LeaveExclusive(*zone);
        return absl::OkStatus();
      }));
  if (mprotect(range.begin, range.size.raw(), protection) != 0) {
    return ErrnoStatus(errno, "mprotect on a region");
  }
  return absl::OkStatus();
}

// A sweep reads its victims, so a page that may not be read must not be resident:
// PROT_NONE sends it away first and keeps it from coming back.
absl::Status Space::Impl::HidePages(Zone& zone, uint32_t begin, uint32_t end) {
  const uint64_t deadline = NowNs() + kHidePatienceNs;
  for (int attempt = 0; attempt < 100 || NowNs() < deadline; ++attempt) {
    evictors_->SweepNow(zone, begin, end);
    pager_.EnterExclusive(zone, begin, end);
    bool mapped = false;
    for (uint32_t i = begin; i < end && !mapped; ++i) {
      const PageState state = zone.pages[i].Load().state();
      mapped = state == PageState::kResident || state == PageState::kThawing;
    }
    if (!mapped) {
      pager_.SetWords(zone, begin, end, [](PageWord word) {
        return word.state() == PageState::kHole ? word : word.ToHole();
      });
      pager_.LeaveExclusive(zone);
      return absl::OkStatus();
    }
    pager_.LeaveExclusive(zone);
  }
  return absl::FailedPreconditionError(
      fmt::format("pages at {} are pinned, cannot be written to the pool, or are touched all the "
                  "time: they cannot become PROT_NONE",
                  static_cast<void*>(zone.vpn(begin).address())));
}

absl::StatusOr<AddressRange> Space::Impl::Move(AddressRange from, Bytes new_size) {
  LockGuard guard(mutex_);
  SPIRITOS_RETURN_IF_ERROR(CheckPages(from));
  Region* region = nullptr;
  {
    Epoch::Guard epoch(regions_.epoch());
    region = regions_.Find(from.begin, epoch);
  }
  if (region == nullptr || from.end() > region->range().end()) {
    return InvalidArgument("range {} + {} is not inside one region of this space",
                           static_cast<void*>(from.begin), from.size.raw());
  }
  const bool grows = new_size > from.size;
  if (grows && from.end() != region->range().end()) {
    return InvalidArgument("range {} + {} ends inside its region and cannot grow while it moves",
                           static_cast<void*>(from.begin), from.size.raw());
  }
  const uint64_t behind = static_cast<uint64_t>((Vpn::Of(from.end() - 1) - region->first()).raw()) +
                          region->first_page();
  // The slots behind the range may be another region's.
  const std::shared_ptr<Slab>& last = region->slabs()[behind / kSlabPages];
  if (last == open_slab_) OpenSlab(nullptr, 0);  // None of a later one's, then.
  const bool shared = last.use_count() > 1;
  if (grows && shared) {
    return InvalidArgument(
        "range {} + {} shares its slab with other regions: it cannot grow while it moves",
        static_cast<void*>(from.begin), from.size.raw());
  }
  const Bytes moved = std::min(BytesOf(PagesFor(new_size)), from.size);
  // Everything to the pool: then only words move, and each page keeps its slot.
  SPIRITOS_RETURN_IF_ERROR(ForEachZone(from, [&](Region& r, Vpn vpn, uint32_t begin, uint32_t end) {
    Zone* zone = r.FindOrMakeZone(vpn, zone_pool_);
    if (zone == nullptr) return absl::ResourceExhaustedError("no near memory for a zone");
    return HidePages(*zone, begin, end);
  }));
  const uint64_t slab_page =
      static_cast<uint64_t>((Vpn::Of(from.begin) - region->first()).raw()) + region->first_page();
  const uint64_t first_slab = slab_page / kSlabPages;
  const auto first_page = static_cast<uint32_t>(slab_page % kSlabPages);
  const uint64_t last_slab =
      (slab_page + static_cast<uint64_t>(PagesFor(moved).raw()) - 1) / kSlabPages;
  std::vector<std::shared_ptr<Slab>> slabs(
      region->slabs().begin() + static_cast<ptrdiff_t>(first_slab),
      region->slabs().begin() + static_cast<ptrdiff_t>(last_slab) + 1);
  ++moves_;
  auto moved_to = CreateRegionLocked(new_size, std::move(slabs), first_page);
  if (!moved_to.ok()) return moved_to.status();
  Region& target = *owned_.back();
  for (PageCount page; page < PagesFor(moved); page += 1_pages) {
    const Vpn old_vpn = Vpn::Of(from.begin) + page;
    const Vpn new_vpn = target.first() + page;
    Zone& old_zone = *region->FindZone(old_vpn);
    Zone* new_zone = target.FindOrMakeZone(new_vpn, zone_pool_);
    SPIRITOS_CHECK(new_zone != nullptr, "no near memory for a zone of a moved range");
    const uint32_t o = Zone::IndexOf(old_vpn);
    const uint32_t n = Zone::IndexOf(new_vpn);
    new_zone->hashes[n] = old_zone.hashes[o];
    new_zone->versions[n] = old_zone.versions[o];
    old_zone.versions[o] = 0;  // The slot is the new page's: Unmap must not forget it.
    new_zone->pages[n].Publish(old_zone.pages[o].Load().HoleToAbsent());
  }
  // The slots behind it are those of pages that stay: no page may come to use them.
  const bool others_behind = shared || from.end() != region->range().end();
  SPIRITOS_RETURN_IF_ERROR(UnmapLocked(from));
  if (others_behind && moved < moved_to->size) {
    SPIRITOS_RETURN_IF_ERROR(UnmapLocked({moved_to->begin + moved.raw(), moved_to->size - moved}));
    moved_to->size = moved;
  }
  return moved_to;
}

absl::Status Space::Impl::Prefetch(AddressRange range) {
  LockGuard guard(mutex_);
  return ForEachZone(range, [&](Region& region, Vpn vpn, uint32_t begin, uint32_t end) {
    Zone* zone = region.FindZone(vpn);
    // What was never touched is zero: nothing to bring.
    if (zone != nullptr) pager_.BringIn(*zone, begin, end - begin);
    return absl::OkStatus();
  });
}

absl::Status Space::Impl::Evict(AddressRange range) {
  LockGuard guard(mutex_);
  return ForEachZone(range, [&](Region& region, Vpn vpn, uint32_t begin, uint32_t end) {
    Zone* zone = region.FindZone(vpn);
    if (zone != nullptr) evictors_->SweepNow(*zone, begin, end);
    return absl::OkStatus();
  });
}

absl::Status Space::Impl::Pin(AddressRange range) {
  SPIRITOS_RETURN_IF_ERROR(CheckPages(range));
  const int64_t pages = PagesFor(range.size).raw();
  // Faults, a window of read-ahead and a zone in flight need frames as well.
  const int64_t most = frames_.budget().raw() - PagesFor(kMinBudget).raw() / 2 -
                       PagesFor(remote_->near_buffers()).raw();
  int64_t pinned = pinned_.load(std::memory_order_relaxed);
  do {
    if (pinned + pages > most) {
      return absl::ResourceExhaustedError(fmt::format(
          "pinning {} pages on top of {} would leave fewer than {} of the budget's {} for faults: "
          "raise SPIRITOS_BUDGET or pin less",
          pages, pinned, PagesFor(kMinBudget).raw() / 2, frames_.budget().raw()));
    }
  } while (!pinned_.compare_exchange_weak(pinned, pinned + pages, std::memory_order_relaxed));
  Bytes done;
  std::optional<Epoch::Guard> guard;
  AwaitFork(guard);
  const absl::Status status =
      ForEachZone(range, [&](Region& region, Vpn vpn, uint32_t begin, uint32_t end) {
        Zone* zone = region.FindOrMakeZone(vpn, zone_pool_);
        if (zone == nullptr) return absl::ResourceExhaustedError("no near memory for a zone");
        if (!pager_.PinPages(*zone, begin, end)) {
          return absl::FailedPreconditionError(
              fmt::format("pages at {} are PROT_NONE or lost, and cannot be pinned",
                          static_cast<void*>(vpn.address())));
        }
        done += BytesOf(PageCount(end - begin));
        return absl::OkStatus();
      });
  if (!status.ok()) {
    guard.reset();
    if (done.raw() != 0) Unpin({range.begin, done});
    pinned_.fetch_sub(pages - PagesFor(done).raw(), std::memory_order_relaxed);
  }
  return status;
}

void Space::Impl::Unpin(AddressRange range) {
  std::optional<Epoch::Guard> guard;
  AwaitFork(guard);
  const absl::Status status =
      ForEachZone(range, [&](Region& region, Vpn vpn, uint32_t begin, uint32_t end) {
        Zone* zone = region.FindZone(vpn);
        SPIRITOS_CHECK(zone != nullptr, "unpinned at {:#x}, where nothing was pinned", vpn.raw());
        pager_.UnpinPages(*zone, begin, end);
        return absl::OkStatus();
      });
  SPIRITOS_CHECK(status.ok(), "Unpin: {}", status.ToString());
  pinned_.fetch_sub(PagesFor(range.size).raw(), std::memory_order_relaxed);
}

}  // namespace spiritos
