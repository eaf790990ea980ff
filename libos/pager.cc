// SPDX-License-Identifier: Apache-2.0
// Serving faults: loading, rescuing, waiting, pinning.
#include "libos/pager.h"

#include <algorithm>

#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "libos/base/failpoint.h"
#include "libos/base/recency.h"

namespace spiritos {
namespace {

// A slot's bytes are cold. Asked for before the claim, the first of them arrive
// while it is made; asked for a page ahead, the rest of a run keeps coming.
constexpr size_t kPageLines = kPageSize / kCacheLine;
constexpr size_t kFirstLines = 12;  // What a core's fill buffers hold.
// The most that one fault fills from memory of this process. There is no distance to
// hide, so a run only spreads the fault's 3 us over its pages, at 1.6 us each, 2.5
// where they do not follow each other: beyond 16 it gains nothing and lengthens the
// tail.
constexpr uint32_t kInPlaceRun = AheadStreams::kRun;
// How far helpers fill ahead of such a run, in windows: enough that a fault rarely
// meets what they have in hand.
constexpr int64_t kAheadWindows = 4;
template <size_t kLines>
void WarmPage(const std::byte* page) {
  for (size_t line = 0; line < kLines; ++line) __builtin_prefetch(page + line * kCacheLine, 0, 2);
}

}  // namespace

Pager::Pager(const PagerParts& parts, const PrefetchOptions& options)
    : parts_(parts),
      options_(options),
      fetcher_(parts.remote, parts.frames, parts.parker, parts.hasher, parts.metrics),
      ns_per_tick_(NsPerTick()) {}

absl::Status Pager::Attach(FaultBackend& fault, EvictorGroup& evictors) {
  fault_ = &fault;
  evictors_ = &evictors;
  evictors.Lend(*this);
  zeroes_ = static_cast<const std::byte*>(
      parts_.arena.Allocate(std::max(1u, options_.fault_around) * kPageSize, kPageSize));
  fault_times_ = parts_.arena.NewArray<AtomicHistogram>(CoreCount());
  prefetchers_ = parts_.arena.NewArray<CorePrefetcher>(CoreCount());
  in_place_ = parts_.remote.addressable();
  ahead_window_ = static_cast<uint32_t>(
      std::min<int64_t>(kAheadWindows * options_.max_window, parts_.frames.budget().raw() / 64));
  const bool has_fetcher = in_place_ || fetcher_.Init(parts_.arena, options_.max_window);
  if (zeroes_ == nullptr || fault_times_ == nullptr || prefetchers_ == nullptr || !has_fetcher) {
    return absl::ResourceExhaustedError("no memory for the pager's buffers");
  }
  return absl::OkStatus();
}

FaultOutcome Pager::OnFault(Vpn vpn, FaultKind kind) noexcept {
  const uint64_t begin = Tsc();
  Epoch::Guard guard(parts_.regions.epoch());
  Region* const region = parts_.regions.Find(vpn.address(), guard);
  if (region == nullptr) return FaultOutcome::kNotOurs;
  Zone* const zone = region->FindOrMakeZone(vpn, parts_.zone_pool);
  SPIRITOS_CHECK(zone != nullptr, "no near memory for the books of the zone at {:#x}", vpn.raw());
  parts_.metrics.Add(Metric::kFaults);
  const FaultOutcome outcome = Serve(*zone, Zone::IndexOf(vpn), kind);
  fault_times_[CurrentCore()].Add(
      static_cast<uint64_t>(static_cast<double>(Tsc() - begin) * ns_per_tick_));
  return outcome;
}

FaultOutcome Pager::Serve(Zone& zone, uint32_t index, FaultKind kind) noexcept {
  while (true) {
    const PageWord word = zone.pages[index].Load();
    switch (word.state()) {
      case PageState::kEmpty:
      case PageState::kRemote:
      case PageState::kStandby:
        if (const FaultOutcome outcome = Load(zone, index, word, kind);
            outcome != FaultOutcome::kRetry) {
          return outcome;
        }
        break;
      case PageState::kLoading:
        if (FillBeyond(zone.vpn(index))) break;
        [[fallthrough]];
      case PageState::kThawing:
        parts_.metrics.Add(Metric::kFaultWaits);
        WaitForPage(zone, index,
                    [state = word.state()](PageWord now) { return now.state() != state; });
        break;
      case PageState::kZapping:
        parts_.metrics.Add(Metric::kFaultWaits);
        // Zapping pages change in bulk, and who changes them wakes the zone.
        parts_.parker.Wait(&zone.word, [&page = zone.pages[index]] {
          return page.Load().state() != PageState::kZapping;
        });
        break;
      case PageState::kResident:
        return ResolveResident(zone, index, word, kind);
      case PageState::kLeaving:
        if (Thaw(zone, index, word)) {
          parts_.metrics.Add(Metric::kRescues);
          if (word.write_in_flight()) parts_.metrics.Add(Metric::kRescuesInFlight);
          return FaultOutcome::kMapped;
        }
        break;
      case PageState::kHole:
        return FaultOutcome::kNotOurs;
    }
  }
}

template <typename Done>
void Pager::WaitForPage(Zone& zone, uint32_t index, Done&& done) noexcept {
  AtomicPageWord& page = zone.pages[index];
  const PageWord word = page.Load();
  if (word.read_ahead()) {
    fetcher_.AwaitWindow(page, word);
    if (done(page.Load())) return;
  }
  parts_.parker.Wait(&page, [&] { return done(page.Load()); });
}

void Pager::WaitForGate(Zone& zone) noexcept {
  parts_.parker.Wait(&zone.word, [&] { return !zone.word.Load().gate_closed(); });
}

FaultOutcome Pager::Load(Zone& zone, uint32_t index, PageWord word, FaultKind kind) noexcept {
  if (in_place_ && word.slot_valid()) {
    const SlotId slot = zone.region->SlotOf(zone.vpn(index), word.generation());
    WarmPage<kFirstLines>(parts_.remote.Direct(slot));
    __builtin_prefetch(&zone.hashes[index]);
  }
  evictors_->TakeFrame();
  PageWord before = word;
  if (before.state() == PageState::kStandby) {
    return LoadStandby(zone, index, before, kind) ? FaultOutcome::kMapped : FaultOutcome::kRetry;
  }
  if (!zone.pages[index].Take(before, before.ToLoading())) {
    parts_.cache.Give(1);
    return FaultOutcome::kRetry;
  }
  SPIRITOS_PAUSE_POINT(kPageClaimed);
  if (zone.word.Load().gate_closed()) [[unlikely]] {
    Unclaim(zone, index, before);
    parts_.cache.Give(1);
    WaitForGate(zone);
    return FaultOutcome::kRetry;
  }
  parts_.zones.NoteFill(zone);
  if (before.state() == PageState::kEmpty || before.zero()) {
    LoadZeroes(zone, index, before);
  } else {
    SPIRITOS_CHECK(before.slot_valid(), "page {:#x} is remote without a valid slot (word {:#x})",
                   zone.vpn(index).raw(), before.raw());
    parts_.metrics.Add(Metric::kFetches);
    if (!(in_place_ ? LoadInPlace(zone, index, kind) : LoadByReading(zone, index, kind))) {
      parts_.metrics.Add(Metric::kUnavailablePages);
      return FaultOutcome::kLost;
    }
  }
  return FaultOutcome::kMapped;
}

void Pager::Unclaim(Zone& zone, uint32_t index, PageWord before) noexcept {
  zone.pages[index].Publish(before);
  parts_.parker.Unpark(&zone.pages[index]);
}

uint32_t Pager::ExtendRun(Zone& zone, uint32_t index, PageState state, uint32_t most,
                          int direction) noexcept {
  const uint32_t limit = std::min(most, direction > 0 ? kZonePages - index : index + 1);
  if (limit <= 1) return 1;
  const int64_t frames = evictors_->TakeMore(limit - 1);
  const auto at = [&](uint32_t i) -> AtomicPageWord& {
    return zone.pages[direction > 0 ? index + i : index - i];
  };
  const uint8_t generation = at(0).Load().generation();
  uint32_t count = 1;
  while (count <= frames) {
    PageWord word = at(count).Load();
    const bool alike =
        word.state() == state &&
        (state == PageState::kEmpty || (word.slot_valid() && word.generation() == generation));
    if (!alike || !at(count).Take(word, word.ToLoading())) break;
    ++count;
  }
  // The look at the gate that each claim owes: one for all, after the last.
  if (count > 1 && zone.word.Load().gate_closed()) {
    for (uint32_t i = 1; i < count; ++i) {
      const PageWord loading = at(i).Load();
      at(i).Publish(state == PageState::kEmpty ? loading.ToEmpty()
                                               : loading.ZappedToRemote(loading.age()));
      parts_.parker.Unpark(&at(i));
    }
    count = 1;
  }
  const int64_t unused = frames - (count - 1);
  if (unused > 0) parts_.cache.Give(unused);
  return count;
}

void Pager::LoadZeroes(Zone& zone, uint32_t index, PageWord word) noexcept {
  uint32_t count = 1;
  if (word.state() == PageState::kEmpty) {
    parts_.metrics.Add(Metric::kFirstTouches);
    // A page next to a touched one is likely the next of many; a lone one may be
    // lone on purpose.
    const bool follows = index != 0 && zone.pages[index - 1].Load().state() != PageState::kEmpty;
    const uint32_t most = follows ? options_.fault_around : options_.fault_around / 4;
    count = ExtendRun(zone, index, PageState::kEmpty, most, +1);
    if (count > 1) parts_.metrics.Add(Metric::kFaultAroundPages, count - 1);
  } else {
    parts_.metrics.Add(Metric::kZeroFetches);
  }
  FillRun(zone, index, count, zeroes_, FaultKind::kUnknown);
}

bool Pager::Verify(const Zone& zone, uint32_t index, const std::byte* bytes) noexcept {
  if (parts_.hasher.Hash(bytes) == zone.hashes[index]) [[likely]]
    return true;
  parts_.metrics.Add(Metric::kCorruptPages);
  return false;
}

bool Pager::LoadInPlace(Zone& zone, uint32_t index, FaultKind kind) noexcept {
  const Vpn vpn = zone.vpn(index);
  CorePrefetcher* owner = nullptr;
  PrefetchPlan plan{.first = vpn, .stride = ahead_.DirectionAt(vpn), .count = kInPlaceRun};
  if (plan.stride == 0) {
    plan = Plan(vpn, options_.max_window, &owner);
  } else {
    parts_.metrics.Add(Metric::kPrefetchHits);
  }
  uint32_t count = 1;
  const int direction = plan.stride < 0 ? -1 : 1;
  if (plan.count > 1 && (plan.stride == 1 || plan.stride == -1)) {
    // A moved region's zone may lie in two slabs; a run stays in one.
    const uint32_t in_slab = zone.region->IndexInSlab(vpn);
    const uint32_t room = plan.stride > 0 ? kSlabPages - in_slab : in_slab + 1;
    count = ExtendRun(zone, index, PageState::kRemote, std::min({plan.count, room, kInPlaceRun}),
                      direction);
  }
  const bool strided = plan.count > 1 && plan.stride != 1 && plan.stride != -1;
  if (strided) plan.count = std::min(plan.count, kInPlaceRun);
  if (!strided) Planned(owner, plan, count);

  if (!strided && plan.count >= kInPlaceRun && evictors_->may_lend()) {
    const AheadStreams::Run run{vpn, static_cast<int32_t>(plan.stride), count};
    if (ahead_.GoOn(run, ahead_window_)) evictors_->Wake();
  }
  if (count > 1) parts_.metrics.Add(Metric::kPrefetchedPages, count - 1);
  const bool filled = FillFromSlots(zone, index, count, direction, kind) != 0;
  if (strided) Planned(owner, plan, BringStrided(plan));
  if (filled) return true;
  Complain(
      "page {:#x} came back from the pool with other bytes than were sent: the pool's memory "
      "is corrupt, and no other copy exists (SPIRITOS_POOL)",
      vpn.raw() << kPageShift);
  return false;
}

uint32_t Pager::FillFromSlots(Zone& zone, uint32_t index, uint32_t count, int direction,
                              FaultKind kind) noexcept {
  const auto at = [&](uint32_t i) { return direction > 0 ? index + i : index - i; };
  const uint8_t generation = zone.pages[index].Load().generation();
  const std::byte* const base =
      parts_.remote.Direct(zone.region->SlotOf(zone.vpn(index), generation));
  const auto bytes_of = [&](uint32_t i) {
    const size_t distance = size_t{i} << kPageShift;
    return direction > 0 ? base + distance : base - distance;
  };
  uint32_t good = 0;
  for (; good < count; ++good) {
    if (good + 1 < count) WarmPage<kPageLines>(bytes_of(good + 1));
    if (!Verify(zone, at(good), bytes_of(good))) [[unlikely]]
      break;
  }
  for (uint32_t i = good; i < count; ++i) {
    const PageWord loading = zone.pages[at(i)].Load();
    Unclaim(zone, at(i), loading.ZappedToRemote(loading.age()));
  }
  if (good < count) parts_.cache.Give(count - good);
  if (good == 0) return 0;
  parts_.metrics.Add(Metric::kFetchedPages, good);
  const uint32_t first = direction > 0 ? index : at(good - 1);
  FillRun(zone, first, good, direction > 0 ? bytes_of(0) : bytes_of(good - 1), kind);
  return good;
}

bool Pager::LoadByReading(Zone& zone, uint32_t index, FaultKind kind) noexcept {
  Fetcher::DemandRead read;
  fetcher_.Begin(read, zone, index);
  ReadAhead(zone, index);
  const std::byte* const bytes = fetcher_.End(read, zone, index);
  if (bytes != nullptr) {
    FillRun(zone, index, 1, bytes, read.to_rewrite ? FaultKind::kMissingWrite : kind);
    if (read.to_rewrite) Rewrite(zone, index);
  } else {
    const PageWord loading = zone.pages[index].Load();
    Unclaim(zone, index, loading.ZappedToRemote(loading.age()));
    parts_.cache.Give(1);
  }
  fetcher_.Release(read);
  fetcher_.PollWindows();
  return bytes != nullptr;
}

// A page that leaves again with an invalid slot is written to all its copies.
void Pager::Rewrite(Zone& zone, uint32_t index) noexcept {
  PageWord word = zone.pages[index].Load();
  while (word.state() == PageState::kResident && word.slot_valid() && !word.guarded()) {
    if (!zone.pages[index].Take(word, word.WithSlotValid(false))) continue;
    parts_.metrics.Add(Metric::kRewrittenPages);
    return;
  }
}

bool Pager::LoadStandby(Zone& zone, uint32_t index, PageWord word, FaultKind kind) noexcept {
  Fetcher::Window* const window = fetcher_.TakeReady(zone, index, word);
  if (window == nullptr) {
    // Somebody fills it or gives it up, or has just let it arrive: the word changes
    // or the window becomes ready, and either is followed by a wake-up.
    WaitForPage(zone, index, [&](PageWord now) { return now != word || fetcher_.IsReady(word); });
    parts_.cache.Give(1);
    return false;
  }
  // One frame is here, for the demanded page; pages without one go back.
  int64_t frames = window->count <= 1 ? 0 : evictors_->TakeMore(window->count - 1);
  uint32_t claimed = 0;
  uint32_t run_begin = window->first;
  bool demanded = false;
  const auto fill = [&](uint32_t end) {
    if (claimed == 0) return;
    parts_.zones.NoteFill(zone);
    const std::byte* const bytes =
        window->buffer + (size_t{run_begin - window->first} << kPageShift);
    FillRun(zone, run_begin, end - run_begin, bytes, kind);
    claimed = 0;
  };
  for (uint32_t i = window->first; i < window->first + window->count; ++i) {
    AtomicPageWord& page = zone.pages[i];
    PageWord now = page.Load();
    const bool stands =
        now.state() == PageState::kStandby && now.staging_buffer() == word.staging_buffer();
    const bool has_frame = i == index || frames > 0;
    if (!stands || !has_frame || !page.Take(now, now.ToLoading())) {
      fill(i);
      if (stands && now.state() == PageState::kStandby && page.Take(now, now.StandbyToRemote())) {
        parts_.parker.Unpark(&page);
      }
      continue;
    }
    if (zone.word.Load().gate_closed()) [[unlikely]] {
      page.Publish(now.StandbyToRemote());
      parts_.parker.Unpark(&page);
      fill(i);
      continue;
    }
    if (claimed++ == 0) run_begin = i;
    if (i == index) {
      demanded = true;
    } else {
      --frames;
    }
  }
  fill(window->first + window->count);
  fetcher_.Free(*window);
  const int64_t unused = frames + (demanded ? 0 : 1);
  if (unused > 0) parts_.cache.Give(unused);
  if (!demanded) return false;
  parts_.metrics.Add(Metric::kStandbyHits);
  ReadAhead(zone, index);
  fetcher_.PollWindows();
  return true;
}

PageWord Pager::ResidentWord(PageWord loading) const noexcept {
  const uint16_t now = parts_.frames.now();
  uint32_t hot = loading.hot();
  if (loading.slot_valid() || loading.zero()) {  // It was away: how long?
    const bool soon = static_cast<uint16_t>(now - loading.age()) < kSoonTicks;
    hot = soon ? Hotter(hot) : Cooler(hot);
  }
  return loading.LoadedToResident(now, hot, CreditFor(hot));
}

bool Pager::DecideGuard(Zone& zone, uint32_t index, uint32_t count, FaultKind kind) noexcept {
  const int32_t score = zone.guard_score.load(std::memory_order_relaxed);
  // A store would fault again.
  bool guard = kind != FaultKind::kMissingWrite && score >= 0;
  for (uint32_t i = index; guard && i < index + count; ++i) {
    PageWord word = zone.pages[i].Load();
    if (word.guarded()) continue;
    guard = score == Zone::kBestGuardScore && word.slot_valid() &&
            zone.pages[i].Take(word, word.Guarded());
  }
  // After the words: a sweep that is not seen here sees them at its end.
  if (guard && !zone.word.Load().swept()) return true;
  for (uint32_t i = index; i < index + count; ++i) {
    PageWord word = zone.pages[i].Load();
    while (word.guarded() && !zone.pages[i].Take(word, word.Unguarded())) {
    }
  }
  return false;
}

void Pager::FillRun(Zone& zone, uint32_t index, uint32_t count, const std::byte* bytes,
                    FaultKind kind) noexcept {
  const bool guard = DecideGuard(zone, index, count, kind);
  SPIRITOS_PAUSE_POINT(kGuardDecided);
  if (guard) parts_.metrics.Add(Metric::kGuardedPages, count);
  PublishRun(zone, index, count,
             fault_->Fill(zone.vpn(index), count, bytes,
                          guard ? FillMode::kProtected : FillMode::kWritable),
             guard);
}

void Pager::PublishRun(Zone& zone, uint32_t index, uint32_t count, const MapOutcome& outcome,
                       bool guarded) noexcept {
  uint32_t done = outcome.result == MapResult::kOk ? count : outcome.done;
  for (uint32_t i = 0; i < done; ++i) {
    AtomicPageWord& page = zone.pages[index + i];
    PageWord loading = page.Load();
    if (!guarded) {
      page.Publish(ResidentWord(loading));
    } else if (!loading.guarded() || !page.Take(loading, ResidentWord(loading))) {
      // A sweep that ended has taken the mark, perhaps before the Fill protected.
      static_cast<void>(fault_->Thaw({zone.vpn(index + i), 1}));
      page.Publish(ResidentWord(page.Load()));
    }
    parts_.parker.Unpark(&page);
  }
  parts_.metrics.Add(Metric::kFilledPages, done);
  if (outcome.result == MapResult::kOk) [[likely]]
    return;

  SPIRITOS_CHECK(outcome.result != MapResult::kNoMemory,
                 "the kernel has no memory for page {:#x}: the budget of {} pages does not fit the "
                 "memory cgroup or the machine; lower SPIRITOS_BUDGET",
                 zone.vpn(index + done).raw(), parts_.frames.budget().raw());
  SPIRITOS_CHECK(outcome.result != MapResult::kFailed, "filling page {:#x} failed with errno {}",
                 zone.vpn(index + done).raw(), outcome.error);
  if (outcome.result == MapResult::kPresent) {
    // Somebody mapped it behind our back: its bytes stand, no slot has them, and
    // its frame is the one that was taken for it.
    AtomicPageWord& page = zone.pages[index + done];
    page.Publish(ResidentWord(page.Load()).WithSlotValid(false));
    parts_.parker.Unpark(&page);
    static_cast<void>(fault_->Thaw({zone.vpn(index + done), 1}));
    ++done;
  }
  // The rest was not filled: absent as before, its frames are free again.
  for (uint32_t i = done; i < count; ++i) {
    const PageWord loading = zone.pages[index + i].Load();
    const bool has_bytes = loading.slot_valid() || loading.zero();
    Unclaim(zone, index + i, has_bytes ? loading.ZappedToRemote(loading.age()) : loading.ToEmpty());
  }
  if (done < count) parts_.cache.Give(count - done);
}

void Pager::EnterExclusive(Zone& zone, uint32_t begin, uint32_t end) noexcept {
  while (!zone.word.TryEnter(ZoneStage::kExclusive)) {
    parts_.parker.Wait(&zone.word, [&] { return zone.word.Load().stage() == ZoneStage::kIdle; });
  }
  // No sweep is on, so nothing leaves and no write is in flight; claims made
  // before the gate closed run out.
  for (uint32_t i = begin; i < end; ++i) {
    WaitForPage(zone, i, [](PageWord word) {
      return word.state() != PageState::kLoading && word.state() != PageState::kThawing;
    });
  }
}

void Pager::AdoptPage(Zone& zone, uint32_t index) noexcept {
  PageWord word = zone.pages[index].Load();
  const bool taken =
      word.state() == PageState::kEmpty && zone.pages[index].Take(word, ResidentWord(word));
  SPIRITOS_CHECK(taken, "page {:#x} has memory and word {:#x}", zone.vpn(index).raw(), word.raw());
}

bool Pager::ClaimToDrop(Zone& zone, uint32_t begin, uint32_t end, uint32_t* claimed) noexcept {
  EnterExclusive(zone, begin, end);
  SPIRITOS_PAUSE_POINT(kRangeOwned);
  *claimed = 0;
  for (uint32_t i = begin; i < end; ++i) {
    PageWord word = zone.pages[i].Load();
    while (word.state() == PageState::kResident || word.state() == PageState::kThawing) {
      if (word.pins() != 0) {
        GiveUpDrop(zone, begin, i);
        return false;
      }
      if (word.state() == PageState::kThawing) {  // A store into it, just now.
        WaitForPage(zone, i, [](PageWord now) { return now.state() != PageState::kThawing; });
        word = zone.pages[i].Load();
      } else if (zone.pages[i].Take(word, word.ToZapping())) {
        ++*claimed;
        break;
      }
    }
  }
  SPIRITOS_PAUSE_POINT(kRangeClaimed);
  return true;
}

void Pager::SetWords(Zone& zone, uint32_t begin, uint32_t end, PageWord (*to)(PageWord)) noexcept {
  for (uint32_t i = begin; i < end; ++i) {
    ChangeWord(zone, i, to);
    parts_.parker.Unpark(&zone.pages[i]);
  }
}

void Pager::AwaitLoaded(Zone& zone, uint32_t index) noexcept {
  WaitForPage(zone, index, [](PageWord word) { return word.state() != PageState::kLoading; });
}

void Pager::GiveUpDrop(Zone& zone, uint32_t begin, uint32_t end) noexcept {
  for (uint32_t i = begin; i < end; ++i) {
    const PageWord word = zone.pages[i].Load();
    if (word.state() == PageState::kZapping) zone.pages[i].Publish(word.BackToResident());
  }
  LeaveExclusive(zone);
}

void Pager::LeaveExclusive(Zone& zone) noexcept {
  zone.word.Advance(ZoneStage::kExclusive, ZoneStage::kIdle);
  parts_.parker.Unpark(&zone.word);
}

void Pager::AddFaultTimes(Histogram& total) const {
  for (uint32_t core = 0; core < CoreCount(); ++core) fault_times_[core].AddTo(total);
}

}  // namespace spiritos
