// SPDX-License-Identifier: Apache-2.0
// Slabs that have a copy too few get one on another server; slabs that a server asks back
// move to another.
//
//   Idle --> a slab, a place for its copy: in the map as Filling, writes go there too
//        --> Draining: until no write is under way that does not know of it
//        --> Copying:  what was written before
//        --> Live in the map, or given up and tried again
//        --> moved: the copy whose place it takes leaves the map, and is released
//
// Until the new copy is live the old one gets every write and serves every read; nothing
// but a live copy ever takes its place. A read that was on its way to it is sent again.
// One slab at a time: the program's own messages come first. The keeper's thread.
#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "libos/base/clock.h"
#include "libos/base/log.h"
#include "libos/base/status.h"
#include "libos/remote/server_pool.h"

namespace spiritos {
namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kRetryNs = 500 * kMs;
constexpr uint64_t kConnectNs = 300 * kMs;

}  // namespace

bool ServerPool::IsBeingMended(uint64_t index) const {
  return mending_.stage != Mending::Stage::kIdle && mending_.index == index;
}

void ServerPool::Mend(uint64_t now_ns) {
  switch (mending_.stage) {
    case Mending::Stage::kIdle:
      if (now_ns < mending_.next_try_ns || (!mending_.stale && !IsAskedBack())) return;
      if (!(mending_.stale && BeginMending()) && !BeginMoving()) {
        mending_.next_try_ns = now_ns + kRetryNs;
      }
      return;
    case Mending::Stage::kDraining:
      if (writing_[mending_.era].load(std::memory_order_seq_cst) != 0) return;
      draining_.store(false, std::memory_order_relaxed);
      mending_.stage = Mending::Stage::kCopying;
      if (const absl::Status status = BeginCopying(); !status.ok()) EndMending(status, now_ns);
      return;
    case Mending::Stage::kCopying:
      if (copier_.ended()) EndMending(copier_.Finish(), now_ns);
      return;
  }
}

bool ServerPool::BeginMending() {
  uint64_t degraded = 0;
  uint64_t lost = 0;
  bool begun = false;
  Refusals refusals;
  for (uint64_t index = 0; index < desk_.used(); ++index) {
    if (desk_.StageOf(index) != SlabDesk::Stage::kPlaced) continue;
    const SlabCopies copies = map_.Copies(index);
    const auto live = LiveCopies(copies);
    lost += live == 0 ? 1 : 0;
    if (live == 0 || live >= options_.copies) continue;
    ++degraded;
    if (begun) continue;
    const auto filling = PlaceOn(ServersBeside(copies), SlabCopy::State::kFilling, &refusals);
    if (!filling) continue;
    begun = true;
    mending_.leaving.reset();
    BeginDraining(index, *filling);
  }
  degraded_slabs_.store(degraded, std::memory_order_relaxed);
  lost_slabs_.store(lost, std::memory_order_relaxed);
  if (degraded == 0) {
    mending_.stale = false;
    if (std::exchange(mending_.degraded, false)) {
      LogWarning(fmt::format("the pool is whole again: every slab that is left has {} cop{}",
                             options_.copies, options_.copies == 1 ? "y" : "ies"));
    }
    return false;
  }
  mending_.degraded = true;
  return begun;
}

bool ServerPool::IsAskedBack() const {
  return std::any_of(tending_.begin(), tending_.end(),
                     [](const Tending& tending) { return tending.asked_back != 0; });
}

// A slab of a server that asks for some, if another has room. Which one does not matter.
bool ServerPool::BeginMoving() {
  Refusals refusals;
  for (uint64_t index = 0; index < desk_.used(); ++index) {
    if (desk_.StageOf(index) != SlabDesk::Stage::kPlaced) continue;
    SlabCopies copies = map_.Copies(index);
    const auto leaving = std::find_if(copies.begin(), copies.end(), [&](const SlabCopy& copy) {
      return copy.state == SlabCopy::State::kLive && tending_[copy.server].asked_back != 0;
    });
    if (leaving == copies.end()) continue;
    const auto entry = static_cast<uint32_t>(leaving - copies.begin());
    mending_.leaving = std::exchange(*leaving, {});
    std::vector<uint16_t> servers = ServersBeside(copies);
    std::erase_if(servers, [&](uint16_t server) {
      return tending_[server].asked_back != 0 || links_[server]->free_slabs() == 0;
    });
    const auto filling = PlaceOn(servers, SlabCopy::State::kFilling, &refusals);
    if (!filling) continue;
    // With as many copies as a slab can have, the rest is as many as after a failure.
    copies = map_.Copies(index);
    if (FreeEntry(copies) == nullptr) RemoveCopy(index, entry);
    BeginDraining(index, *filling);
    return true;
  }
  return false;
}

// From the next era on writes know of the new copy; those of this one are waited for.
void ServerPool::BeginDraining(uint64_t index, const SlabCopy& filling) {
  SlabCopies copies = map_.Copies(index);
  SlabCopy* const entry = FreeEntry(copies);
  *entry = filling;
  mending_.index = index;
  mending_.copy = static_cast<uint32_t>(entry - copies.data());
  mending_.filling = filling;
  map_.SetCopies(index, copies);
  mending_.stage = Mending::Stage::kDraining;
  draining_.store(true, std::memory_order_seq_cst);
  mending_.era = era_.fetch_add(1, std::memory_order_seq_cst) & 1;
  desk_.Call();
}

absl::Status ServerPool::BeginCopying() {
  const SlabCopies copies = map_.Copies(mending_.index);
  const auto from = std::find_if(copies.begin(), copies.end(), [&](const SlabCopy& copy) {
    return copy.state == SlabCopy::State::kLive &&
           links_[copy.server]->state() == ServerLink::State::kUp;
  });
  if (from == copies.end() || copies[mending_.copy] != mending_.filling) {
    return absl::UnavailableError("a server has gone meanwhile");
  }
  const auto side = [&](const SlabCopy& copy, Lane lane) -> absl::StatusOr<SlabCopier::Side> {
    SlabCopier::Side made{.slab = copy.slab, .epoch = copy.epoch};
    SPIRITOS_ASSIGN_OR_RETURN(
        made.socket, links_[copy.server]->OpenSpare(lane, NowNs() + kConnectNs, &made.version));
    return made;
  };
  SPIRITOS_ASSIGN_OR_RETURN(SlabCopier::Side source, side(*from, Lane::kPrefetch));
  SPIRITOS_ASSIGN_OR_RETURN(SlabCopier::Side target, side(mending_.filling, Lane::kWriteBack));
  copier_.Start(std::move(source), std::move(target));
  return absl::OkStatus();
}

void ServerPool::EndMending(const absl::Status& status, uint64_t now_ns) {
  mending_.stage = Mending::Stage::kIdle;
  SlabCopies copies = map_.Copies(mending_.index);
  SlabCopy& copy = copies[mending_.copy];
  if (copy != mending_.filling) return;  // Its server has gone, or has refused a write.
  if (status.ok()) {
    copy.state = SlabCopy::State::kLive;
    map_.SetCopies(mending_.index, copies);
    if (!DropLeaving()) mended_slabs_.fetch_add(1, std::memory_order_relaxed);
    mending_.stale = true;
    desk_.Call();  // On to the next.
    return;
  }
  LogInfo(fmt::format("copying slab {} to {}: {}", mending_.index,
                      links_[copy.server]->address().ToString(), std::string(status.message())));
  RemoveCopy(mending_.index, mending_.copy);
  mending_.next_try_ns = now_ns + kRetryNs;
}

// False where there was none, or where it stays: others have gone meanwhile.
bool ServerPool::DropLeaving() {
  if (!mending_.leaving) return false;
  const SlabCopies copies = map_.Copies(mending_.index);
  const auto at = std::find(copies.begin(), copies.end(), *mending_.leaving);
  if (at == copies.end() || LiveCopies(copies) <= options_.copies) return false;
  RemoveCopy(mending_.index, static_cast<uint32_t>(at - copies.begin()));
  moved_slabs_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

}  // namespace spiritos
