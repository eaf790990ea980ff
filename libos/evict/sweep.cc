// SPDX-License-Identifier: Apache-2.0
// The stages of a sweep.
#include "libos/evict/sweep.h"

#include <sched.h>

#include <algorithm>

#include "libos/base/check.h"
#include "libos/base/failpoint.h"
#include "libos/base/recency.h"

namespace spiritos {
namespace {

// Victims to one closing of the gate: faults of the zone wait that long, some 30 us,
// and each batch is one shootdown more.
constexpr uint32_t kDropBatch = 128;

// Pins count in the words of these states.
bool IsMapped(PageWord word) {
  return word.state() == PageState::kResident || word.state() == PageState::kThawing;
}

// Loading counts: its Fill may have come before a freeze reached it.
bool MayBeMapped(PageWord word) {
  return IsMapped(word) || word.state() == PageState::kLoading ||
         word.state() == PageState::kLeaving;
}

// What a page hashes or copies next is cold: asking for it ahead hides a third
// of the misses.
void PrefetchPage(const std::byte* page) {
  for (size_t line = 0; line < 8; ++line) __builtin_prefetch(page + line * kCacheLine);
}

PageWord PostWrite(PageWord word, uint8_t generation) {
  const PageWord posted = word.WritePosted().WithGeneration(generation);
  return SPIRITOS_PLANTED(kStaleSlotValid) ? posted.WithSlotValid(word.slot_valid()) : posted;
}

}  // namespace

bool Sweep::Begin(const EvictContext& context, Zone& zone, uint32_t begin, uint32_t end,
                  Pressure pressure, uint32_t most) noexcept {
  SPIRITOS_DCHECK(idle(), "sweep begun twice");
  if (!zone.word.TryEnter(ZoneStage::kFreezing)) return false;
  zone_ = &zone;
  if (!ClaimVictims(context, begin, end, pressure, most)) {
    zone.word.Advance(ZoneStage::kFreezing, ZoneStage::kIdle);
    context.parker.Unpark(&zone.word);
    context.metrics.Add(Metric::kEmptySweeps);
    zone_ = nullptr;
    return false;
  }
  const bool frozen = FreezeVictims(context);
  zone.word.Advance(ZoneStage::kFreezing, ZoneStage::kFrozen);
  context.parker.Unpark(&zone.word);  // Pinners wait for the call to end.
  if (!frozen) {
    GiveBackVictims();
    zone.word.Advance(ZoneStage::kFrozen, ZoneStage::kThawing);
    ThawRest(context);
    return false;
  }
  return true;
}

bool Sweep::ClaimVictims(const EvictContext& context, uint32_t begin, uint32_t end,
                         Pressure pressure, uint32_t most) noexcept {
  const uint16_t now = context.frames.now();
  victim_count_ = 0;
  frozen_begin_ = frozen_end_ = 0;
  uint32_t& i = reached_;
  for (i = begin; i < end && victim_count_ < most; ++i) {
    PageWord word = zone_->pages[i].Load();
    while (word.state() == PageState::kResident && word.pins() == 0) {
      if (word.write_in_flight() && !SPIRITOS_PLANTED(kTwoWritesPerSlot)) break;
      const auto age = static_cast<uint16_t>(now - word.age());
      if (pressure == Pressure::kNormal && age < kMinAgeTicks) break;
      if (pressure != Pressure::kDesperate && word.credit() != 0) {
        if (zone_->pages[i].Take(word, word.Spared(now))) break;
        continue;
      }
      if (!zone_->pages[i].Take(word, word.ToLeaving())) continue;
      victims_[victim_count_++] = static_cast<uint16_t>(i);
      if (!word.guarded()) {
        if (frozen_end_ == 0) frozen_begin_ = i;
        frozen_end_ = i + 1;
      }
      break;
    }
  }
  return victim_count_ != 0;
}

bool Sweep::FreezeVictims(const EvictContext& context) noexcept {
  first_ = victims_[0];
  last_ = victims_[victim_count_ - 1];
  if (frozen_begin_ == frozen_end_) return true;
  const bool has_pins = zone_->word.Load().pins() != 0 && !SPIRITOS_PLANTED(kPinIgnored);
  uint32_t start = frozen_begin_;
  for (uint32_t i = frozen_begin_; i <= frozen_end_; ++i) {
    if (i < frozen_end_) {
      const PageWord word = zone_->pages[i].Load();
      const bool pinned = has_pins && IsMapped(word) && word.pins() != 0;
      if (!pinned && word.state() != PageState::kHole) continue;
    }
    if (i > start) {
      const MapOutcome outcome = context.fault.Freeze({zone_->vpn(start), i - start});
      if (outcome.result != MapResult::kOk) return false;
    }
    start = i + 1;
  }
  return true;
}

void Sweep::GiveBackVictims() noexcept {
  for (uint32_t v = 0; v < victim_count_; ++v) {
    AtomicPageWord& page = zone_->pages[victims_[v]];
    PageWord word = page.Load();
    while (word.state() == PageState::kLeaving && !page.Take(word, word.BackToResident())) {
    }
  }
}

void Sweep::Write(const EvictContext& context) noexcept {
  SPIRITOS_PAUSE_POINT(kFrozen);
  request_count_ = reaped_ = 0;
  request_open_ = false;
  for (uint32_t v = 0; v < victim_count_; ++v) {
    const uint32_t index = victims_[v];
    PageWord word = zone_->pages[index].Load();
    if (word.state() != PageState::kLeaving) continue;  // Rescued already.
    if (word.guarded()) {
      context.metrics.Add(Metric::kCleanPages);
      continue;
    }
    if (v + 1 < victim_count_) PrefetchPage(zone_->vpn(victims_[v + 1]).address());
    const std::byte* const bytes = zone_->vpn(index).address();
    if (word.slot_valid() && context.hasher.Hash(bytes) == zone_->hashes[index]) {
      // A failure is a rescue: the page is no victim any more.
      if (zone_->pages[index].Take(word, word.Guarded())) {
        context.metrics.Add(Metric::kCleanPages);
      }
      continue;
    }
    if (IsZeroPage(bytes)) {
      PageWord expected = word;
      // A failure is a rescue: the page is no victim any more.
      if (zone_->pages[index].Take(expected, word.FoundZero())) {
        context.metrics.Add(Metric::kZeroPages);
      }
      continue;
    }
    const Vpn vpn = zone_->vpn(index);
    const PageWord posted = PostWrite(word, zone_->region->SlabOf(vpn).write_generation());
    if (!EnsureSlab(context, vpn, posted.generation())) {
      // It stays. Now: to Finish() a slot in an older generation, which is valid still, would
      // look like this page's. A failure is a rescue.
      static_cast<void>(zone_->pages[index].Take(word, word.BackToResident()));
      continue;
    }
    if (!zone_->pages[index].Take(word, posted)) continue;  // Rescued.
    zone_->versions[index] = Zone::Written(zone_->versions[index]);
    const SlotId slot = zone_->region->SlotOf(vpn, posted.generation());
    if (std::byte* const in_place = context.remote.Direct(slot); in_place != nullptr) {
      WriteInPlace(context, index, in_place);
    } else {
      QueueWrite(context, index, slot);
    }
  }
  if (request_open_) SubmitRequest(context);
}

bool Sweep::EnsureSlab(const EvictContext& context, Vpn vpn, uint8_t generation) noexcept {
  Slab& slab = zone_->region->SlabOf(vpn);
  if (slab.placed(generation)) [[likely]]
    return true;
  SlotId first;
  if (context.remote.PlaceSlab(&first) != IoResult::kOk) {
    context.metrics.Add(Metric::kWriteErrors);
    return false;
  }
  // Somebody may have been faster.
  if (!slab.TryPlace(generation, first)) context.remote.ReleaseSlab(first);
  return true;
}

void Sweep::WriteInPlace(const EvictContext& context, uint32_t index, std::byte* slot) noexcept {
  SPIRITOS_PAUSE_POINT(kWritePosted);
  const int error = SPIRITOS_FAILPOINT(kBackendWrite);
  PageHash hash;
  if (error == 0) hash = context.hasher.CopyAndHash(slot, zone_->vpn(index).address());
  Acknowledge(context, index, hash, error == 0);
}

void Sweep::QueueWrite(const EvictContext& context, uint32_t index, SlotId slot) noexcept {
  pending_hashes_[index] = context.hasher.Hash(zone_->vpn(index).address());
  std::byte* const bytes = zone_->vpn(index).address();
  if (request_open_) {
    IoRequest& request = requests_[request_count_ - 1];
    const bool follows = request.memory + (size_t{request.pages} << kPageShift) == bytes &&
                         request.first + PageCount(request.pages) == slot &&
                         slot.raw() % kSlabPages != 0;
    if (follows) {
      ++request.pages;
      return;
    }
    SubmitRequest(context);
  }
  // Singletons need at most as many requests as there are runs between absent
  // pages; rescues can cut more. What does not fit waits for the next sweep.
  if (request_count_ == kMaxRuns) {
    Acknowledge(context, index, {}, false);
    return;
  }
  IoRequest& request = requests_[request_count_++];
  request.op = IoOp::kWrite;
  request.lane = Lane::kWriteBack;
  request.first = slot;
  request.pages = 1;
  request.memory = bytes;
  request.versions = &zone_->versions[index];
  request_open_ = true;
}

void Sweep::SubmitRequest(const EvictContext& context) noexcept {
  IoRequest& request = requests_[request_count_ - 1];
  request.status.store(IoStatus::kPending, std::memory_order_relaxed);
  while (context.remote.Submit(request) == IoResult::kBusy) {
    if (reaped_ + 1 < request_count_) {
      context.remote.Wait(requests_[reaped_]);  // The window is full of our own.
      Reap(context, requests_[reaped_++]);
    } else if (!context.remote.Poll(Lane::kWriteBack)) {
      sched_yield();
    }
  }
  request_open_ = false;
  SPIRITOS_PAUSE_POINT(kWritePosted);
}

void Sweep::Acknowledge(const EvictContext& context, uint32_t index, const PageHash& hash,
                        bool written) noexcept {
  AtomicPageWord& page = zone_->pages[index];
  PageWord word = page.Load();
  while (true) {
    // In flight pages are no victims, so Leaving now means Leaving all along.
    if (word.state() == PageState::kLeaving && written) {
      zone_->hashes[index] = hash;  // Published by the word.
      if (!page.Take(word, word.WriteAcknowledged())) continue;
      context.metrics.Add(Metric::kWrittenPages);
      return;
    }
    if (!page.Take(word, word.WriteForgotten())) continue;
    context.metrics.Add(written ? Metric::kDiscardedWrites : Metric::kWriteErrors);
    return;
  }
}

void Sweep::Reap(const EvictContext& context, IoRequest& request) noexcept {
  const bool written = request.status.load(std::memory_order_acquire) == IoStatus::kDone;
  const uint32_t begin = Zone::IndexOf(Vpn::Of(request.memory));
  for (uint32_t i = begin; i < begin + request.pages; ++i) {
    Acknowledge(context, i, pending_hashes_[i], written);
  }
}

bool Sweep::OnlyRescued(const IoRequest& request) const noexcept {
  const uint32_t begin = Zone::IndexOf(Vpn::Of(request.memory));
  for (uint32_t i = begin; i < begin + request.pages; ++i) {
    if (zone_->pages[i].Load().state() == PageState::kLeaving) return false;
  }
  return true;
}

bool Sweep::WritesDone(const EvictContext& context) noexcept {
  if (reaped_ == request_count_ || SPIRITOS_PLANTED(kFrameBeforeAck)) return true;
  // Tempting and wrong: nobody needs the rescued pages' writes any more.
  while (SPIRITOS_PLANTED(kTwoWritesPerSlot) && OnlyRescued(requests_[reaped_])) {
    if (++reaped_ == request_count_) return true;
  }
  context.remote.Poll(Lane::kWriteBack);
  while (reaped_ < request_count_ && requests_[reaped_].final()) {
    Reap(context, requests_[reaped_++]);
  }
  return reaped_ == request_count_;
}

void Sweep::WaitForWrites(const EvictContext& context) noexcept {
  while (!WritesDone(context)) context.remote.Wait(requests_[reaped_]);
}

uint32_t Sweep::Finish(const EvictContext& context) noexcept {
  if (SPIRITOS_PLANTED(kThawOverLeaving)) {
    static_cast<void>(context.fault.Thaw({zone_->vpn(first_), last_ - first_ + 1}));
  }
  SPIRITOS_PAUSE_POINT(kBeforeDrop);
  uint32_t freed = 0;
  // Acquire: what DropUnpinned() needs was made before.
  const bool unseen_pins = context.unseen_pins.load(std::memory_order_acquire);
  for (uint32_t at = first_; at <= last_;) {
    zone_->word.Advance(ZoneStage::kFrozen, ZoneStage::kDropping);
    SPIRITOS_PAUSE_POINT(kGateClosed);
    uint32_t dropped = 0;
    if (ClaimZaps(&at, unseen_pins) != 0) {
      dropped = PublishZapped(context, Zap(context, unseen_pins), unseen_pins);
    }
    const bool more = at <= last_;
    zone_->word.Advance(ZoneStage::kDropping, more ? ZoneStage::kFrozen : ZoneStage::kThawing);
    // Faults wait for the gate and for Zapping pages on the zone.
    context.parker.Unpark(&zone_->word);
    if (dropped != 0) {
      context.metrics.Add(Metric::kEvictedPages, dropped);
      context.frames.Give(dropped);
    }
    freed += dropped;
  }
  ThawRest(context);
  return freed;
}

MapOutcome Sweep::Zap(const EvictContext& context, bool unseen_pins) noexcept {
  if (!unseen_pins) return context.fault.Drop({runs_.data(), run_count_});
  return context.fault.DropUnpinned({runs_.data(), run_count_},
                                    [&](Vpn vpn, const std::byte* bytes) {
                                      const uint32_t index = Zone::IndexOf(vpn);
                                      if (zone_->pages[index].Load().zero())
                                        return IsZeroPage(bytes);
                                      return context.hasher.Hash(bytes) == zone_->hashes[index];
                                    });
}

uint32_t Sweep::ClaimZaps(uint32_t* at, bool unseen_pins) noexcept {
  uint32_t claimed = 0;
  run_count_ = 0;
  uint32_t run_begin = 0;
  uint32_t run_end = 0;  // One past the last Zapping page of the open run.
  bool open = false;
  const auto close = [&] {
    if (open) runs_[run_count_++] = {zone_->vpn(run_begin), run_end - run_begin};
    open = false;
  };
  uint32_t& i = *at;
  for (; i <= last_ && claimed < kDropBatch; ++i) {
    AtomicPageWord& page = zone_->pages[i];
    PageWord word = page.Load();
    bool zapping = false;
    while (word.state() == PageState::kLeaving) {
      const bool safe = word.slot_valid() || word.zero() || SPIRITOS_PLANTED(kFrameBeforeAck);
      if (page.Take(word, safe ? word.ToZapping() : word.BackToResident())) {
        zapping = safe;
        break;
      }
    }
    if (zapping) {
      ++claimed;
      if (!open) run_begin = i;
      open = true;
      run_end = i + 1;
      continue;
    }
    // Absent pages can be zapped along: with the gate closed none can appear.
    const PageState state = zapping ? PageState::kZapping : page.Load().state();
    const bool absent =
        state == PageState::kEmpty || state == PageState::kRemote || state == PageState::kStandby;
    if (!absent || unseen_pins) close();
  }
  close();
  return claimed;
}

uint32_t Sweep::PublishZapped(const EvictContext& context, const MapOutcome& outcome,
                              bool unseen_pins) noexcept {
  const uint16_t now = context.frames.now();
  uint32_t freed = 0;
  int32_t clean = 0;
  int32_t dirty = 0;
  uint32_t seen = 0;
  for (uint32_t r = 0; r < run_count_; ++r) {
    const uint32_t begin = Zone::IndexOf(runs_[r].first);
    seen += runs_[r].count;
    const bool dropped = outcome.result == MapResult::kOk || seen <= outcome.done;
    for (uint32_t i = begin; i < begin + runs_[r].count; ++i) {
      AtomicPageWord& page = zone_->pages[i];
      const PageWord word = page.Load();
      if (word.state() != PageState::kZapping) continue;  // An absent page of the stretch.
      // A refused zap may have emptied part of its run: the kernel knows.
      if (!dropped && context.fault.Present(zone_->vpn(i))) {
        page.Publish(unseen_pins ? word.PinnedToResident(now) : word.BackToResident());
        if (unseen_pins) context.metrics.Add(Metric::kPinnedByKernel);
        continue;
      }
      page.Publish(word.ZappedToRemote(now));
      ++freed;
      clean += word.guarded();
      dirty += !word.guarded() && !word.zero();
    }
  }
  zone_->NoteStays(clean, dirty, 0);
  return freed;
}

// Another region may have pages where this one has holes, and a sweep of its own.
void Sweep::ThawAroundHoles(const EvictContext& context) noexcept {
  uint32_t start = frozen_begin_;
  for (uint32_t i = frozen_begin_; i <= frozen_end_; ++i) {
    if (i < frozen_end_ && zone_->pages[i].Load().state() != PageState::kHole) continue;
    // A failure leaves pages frozen, not wrong: the next store into one thaws it.
    if (i > start) static_cast<void>(context.fault.Thaw({zone_->vpn(start), i - start}));
    start = i + 1;
  }
}

void Sweep::ThawRest(const EvictContext& context) noexcept {
  bool stayed = false;
  for (uint32_t i = frozen_begin_; i < frozen_end_; ++i) {
    AtomicPageWord& page = zone_->pages[i];
    PageWord word = page.Load();
    stayed = stayed || MayBeMapped(word);
    // What comes from here on sees the stage and does not guard.
    while (word.guarded() && MayBeMapped(word) && !word.read_ahead() &&
           !SPIRITOS_PLANTED(kGuardOutlivesThaw)) {
      if (page.Take(word, word.Unguarded())) break;
    }
  }
  if (stayed) ThawAroundHoles(context);
  Zone* const zone = zone_;
  zone_ = nullptr;
  zone->word.Advance(ZoneStage::kThawing, ZoneStage::kIdle);
  context.parker.Unpark(&zone->word);
}

}  // namespace spiritos
