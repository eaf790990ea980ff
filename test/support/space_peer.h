// SPDX-License-Identifier: Apache-2.0
// SpaceTestPeer: a space on a pool of the test's, and a look into its page words.
#pragma once

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "libos/space_impl.h"

namespace spiritos {

class SpaceTestPeer {
 public:
  static absl::StatusOr<std::unique_ptr<Space>> Create(const Options& options,
                                                       std::unique_ptr<RemoteBackend> pool) {
    auto impl = std::make_unique<Space::Impl>(options, std::move(pool));
    if (absl::Status status = impl->Start(); !status.ok()) return status;
    return std::unique_ptr<Space>(new Space(std::move(impl)));
  }

  // How many pages are in each state, and how many have a write in flight.
  struct Census {
    std::array<uint64_t, 9> pages{};
    uint64_t writes_in_flight = 0;
    uint64_t busy_zones = 0;
    uint64_t operator[](PageState state) const { return pages[static_cast<size_t>(state)]; }
    uint64_t in_motion() const {
      return (*this)[PageState::kLoading] + (*this)[PageState::kLeaving] +
             (*this)[PageState::kThawing] + (*this)[PageState::kZapping] + writes_in_flight +
             busy_zones;
    }
  };
  static Census Count(Space& space) {
    Census census;
    LockGuard guard(space.impl_->mutex_);
    for (const auto& region : space.impl_->owned_) {
      for (size_t z = 0; z < region->zone_count(); ++z) {
        const Zone* const zone = region->zone(z);
        if (zone == nullptr) continue;
        census.busy_zones += zone->word.Load().stage() != ZoneStage::kIdle;
        for (const AtomicPageWord& page : zone->pages) {
          const PageWord word = page.Load();
          ++census.pages[static_cast<size_t>(word.state())];
          census.writes_in_flight += word.write_in_flight();
        }
      }
    }
    return census;
  }
  // As a fork will: what is in the pool stays as it is, and writes go elsewhere.
  static void BeginGeneration(Space& space) {
    BeginGenerationAtRest(space, [] {});
  }
  // `meanwhile` finds everything at rest. REQUIRES: every zone has been touched before, as no
  // fork keeps faults from making others.
  template <typename Meanwhile>
  static void BeginGenerationAtRest(Space& space, Meanwhile&& meanwhile) {
    Space::Impl& impl = *space.impl_;
    LockGuard guard(impl.mutex_);
    std::vector<Zone*> owned;
    impl.ForEachOwnedZone([&](Zone& zone) {
      impl.pager_.EnterExclusive(zone, 0, kZonePages);
      owned.push_back(&zone);
    });
    impl.BeginGenerations();
    meanwhile();
    for (Zone* const zone : owned) impl.pager_.LeaveExclusive(*zone);
  }
  // Whether anything is left to be merged.
  static bool Merge(Space& space) { return space.impl_->MergeGenerations(); }
  // Where the page was in the pool in that generation.
  static SlotId SlotOf(Space& space, const std::byte* at, uint8_t generation) {
    const Epoch::Guard guard(space.impl_->regions_.epoch());
    return space.impl_->regions_.Find(at, guard)->SlotOf(Vpn::Of(at), generation);
  }
  static PageWord WordOf(Space& space, const std::byte* at) {
    const Epoch::Guard guard(space.impl_->regions_.epoch());
    Region* const region = space.impl_->regions_.Find(at, guard);
    const Vpn vpn = Vpn::Of(at);
    const Zone* const zone = region == nullptr ? nullptr : region->FindZone(vpn);
    return zone == nullptr ? PageWord() : zone->pages[Zone::IndexOf(vpn)].Load();
  }
};

}  // namespace spiritos
