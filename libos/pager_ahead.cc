// SPDX-License-Identifier: Apache-2.0
// Pages that nobody waits for yet: plans of read-ahead, and who brings them when.
#include <algorithm>

#include "libos/pager.h"

namespace spiritos {

PrefetchPlan Pager::Plan(Vpn vpn, uint32_t max_window, CorePrefetcher** owner) noexcept {
  *owner = nullptr;
  PrefetchPlan plan{.first = vpn};
  if (options_.kind == PrefetchOptions::Kind::kNone) return plan;
  CorePrefetcher& core = prefetchers_[CurrentCore()];
  if (core.busy.exchange(true, std::memory_order_acquire)) return plan;
  *owner = &core;
  const uint64_t hits = core.prefetcher.hits();
  plan = core.prefetcher.OnFault(vpn, max_window, options_.kind == PrefetchOptions::Kind::kTrend);
  if (core.prefetcher.hits() != hits) parts_.metrics.Add(Metric::kPrefetchHits);
  return plan;
}

void Pager::Planned(CorePrefetcher* owner, const PrefetchPlan& plan, uint32_t brought) noexcept {
  if (owner == nullptr) return;
  owner->prefetcher.Brought(plan, brought);
  owner->busy.store(false, std::memory_order_release);
}

uint32_t Pager::BringRun(Vpn vpn, uint32_t most, int32_t direction) noexcept {
  Epoch::Guard guard(parts_.regions.epoch());
  Region* const region = parts_.regions.Find(vpn.address(), guard);
  Zone* const zone = region == nullptr ? nullptr : region->FindZone(vpn);
  if (zone == nullptr) return 0;
  const uint32_t index = Zone::IndexOf(vpn);
  PageWord word = zone->pages[index].Load();
  if (word.state() != PageState::kRemote || !word.slot_valid()) return 0;
  if (evictors_->TakeMore(1) == 0) return 0;
  if (!zone->pages[index].Take(word, word.ToLoading())) {
    parts_.cache.Give(1);
    return 0;
  }
  if (zone->word.Load().gate_closed()) {
    Unclaim(*zone, index, word);
    parts_.cache.Give(1);
    return 0;
  }
  parts_.zones.NoteFill(*zone);
  // A moved region's zone may lie in two slabs; a run stays in one.
  const uint32_t in_slab = region->IndexInSlab(vpn);
  const uint32_t room = direction > 0 ? kSlabPages - in_slab : in_slab + 1;
  const uint32_t count =
      ExtendRun(*zone, index, PageState::kRemote, std::min(most, room), direction);
  parts_.metrics.Add(Metric::kPrefetchedPages, count);
  return FillFromSlots(*zone, index, count, direction, FaultKind::kMissing);
}

uint32_t Pager::FillTaken(const AheadStreams::Run& run) noexcept {
  uint32_t brought = 0;
  for (uint32_t i = 0; i < run.count;) {
    const Vpn vpn = run.first + PageCount(int64_t{run.direction} * i);
    const uint32_t count = BringRun(vpn, run.count - i, run.direction);
    brought += count;
    i += std::max(count, 1u);  // Somebody else has it, or is to bring it.
  }
  return brought;
}

bool Pager::FillBeyond(Vpn vpn) noexcept {
  const AheadStreams::Run run = ahead_.TakeBeyond(vpn);
  return run.count != 0 && FillTaken(run) != 0;
}

void Pager::DoOne() noexcept {
  const AheadStreams::Run run = ahead_.Take();
  if (run.count != 0) parts_.metrics.Add(Metric::kHelpedPages, FillTaken(run));
}

uint32_t Pager::BringStrided(const PrefetchPlan& plan) noexcept {
  Epoch::Guard guard(parts_.regions.epoch());
  uint32_t brought = 1;
  for (; brought < plan.count; ++brought) {
    const Vpn vpn = plan.first + PageCount(plan.stride * int64_t{brought});
    Region* const region = parts_.regions.Find(vpn.address(), guard);
    Zone* const zone = region == nullptr ? nullptr : region->FindZone(vpn);
    if (zone == nullptr) break;
    const uint32_t index = Zone::IndexOf(vpn);
    if (!in_place_) {
      if (fetcher_.StartWindow(*zone, index, 1) == 0) break;
      continue;
    }
    if (zone->pages[index].Load().state() == PageState::kResident) continue;
    if (BringRun(vpn, 1, 1) == 0) break;
  }
  return brought;
}

void Pager::ReadAhead(Zone& zone, uint32_t index) noexcept {
  CorePrefetcher* owner = nullptr;
  const Vpn vpn = zone.vpn(index);
  const PrefetchPlan plan = Plan(vpn, fetcher_.max_window(), &owner);
  if (plan.count <= 1) return Planned(owner, plan, 1);
  if (plan.stride != 1 && plan.stride != -1) return Planned(owner, plan, BringStrided(plan));
  // The next window begins behind what is here or on its way already.
  uint32_t ahead = 1;
  const auto index_at = [&](uint32_t i) { return plan.stride > 0 ? index + i : index - i; };
  while (index_at(ahead) < kZonePages && ahead <= fetcher_.max_window()) {
    const PageState state = zone.pages[index_at(ahead)].Load().state();
    if (state == PageState::kRemote || state == PageState::kEmpty) break;
    ++ahead;
  }
  const uint32_t start = index_at(ahead);
  if (start < kZonePages) {
    const uint32_t room = plan.stride > 0 ? kZonePages - start : start + 1;
    const uint32_t count = std::min(plan.count, room);
    const uint32_t begin = plan.stride > 0 ? start : start - (count - 1);
    const uint32_t started = fetcher_.StartWindow(zone, begin, count);
    if (started != 0) parts_.metrics.Add(Metric::kPrefetchedPages, started);
  }
  Planned(owner, plan, ahead);
}

uint32_t Pager::BringIn(Zone& zone, uint32_t index, uint32_t count) noexcept {
  uint32_t brought = 0;
  for (uint32_t i = index; i < index + count; ++i) {
    if (parts_.frames.level() < parts_.frames.watermarks().low) break;
    const PageState state = zone.pages[i].Load().state();
    const bool absent =
        state == PageState::kEmpty || state == PageState::kRemote || state == PageState::kStandby;
    if (!absent) continue;
    Touch(zone, i);
    ++brought;
  }
  return brought;
}

}  // namespace spiritos
