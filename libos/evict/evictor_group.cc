// SPDX-License-Identifier: Apache-2.0
// Decides by measured stalls, waits and sweeps.
#include "libos/evict/evictor_group.h"

#include <sched.h>

#include <algorithm>
#include <utility>

#include "libos/base/check.h"
#include "libos/base/clock.h"

namespace spiritos {
namespace {

constexpr uint64_t kMs = 1'000'000;
// How long an evictor that does not get CPU time is spared other work.
constexpr uint64_t kNoLendingNs = 400 * kMs;
// A passive spell: long enough that its stop costs nothing, short enough that a
// change of affinity or load is noticed.
constexpr uint64_t kFirstSpellNs = 20 * kMs;
constexpr uint64_t kLongestSpellNs = 640 * kMs;
// An evictor that is kept waiting but keeps up all the same is left alone: on a
// CPU that it shares it sweeps cheaper than faults would, whole zones at a time.
constexpr uint64_t kStallsToPassive = 8;
// A stalled fault looks for itself after this long, whatever was decided.
constexpr uint64_t kPatienceNs = 4 * kMs;
// With no frame freed by anybody for this long the space is stuck: every page is
// pinned or cannot be written. A round of waiting and sweeping counts for no more than
// kMaxRoundNs, as a process that is stopped for a while must not wake up to find itself
// stuck.
constexpr uint64_t kStuckNs = 30'000 * kMs;
constexpr uint64_t kMaxRoundNs = 100 * kMs;

void UpdateAverage(std::atomic<uint64_t>& average, uint64_t sample) {
  const uint64_t old = average.load(std::memory_order_relaxed);
  average.store(old == 0 ? sample : old - old / 8 + sample / 8, std::memory_order_relaxed);
}

bool AnyMapped(const Zone& zone) {
  for (const AtomicPageWord& page : zone.pages) {
    switch (page.Load().state()) {
      case PageState::kEmpty:
      case PageState::kRemote:
      case PageState::kStandby:
      case PageState::kHole:
        break;
      default:
        return true;
    }
  }
  return false;
}

}  // namespace

EvictorGroup::EvictorGroup(const EvictContext& context, FreeFrameCache& cache,
                           const EvictOptions& options, AtomicHistogram& stalls)
    : context_(context), cache_(cache), options_(options), stalls_(stalls) {}

EvictorGroup::~EvictorGroup() { Stop(); }

absl::Status EvictorGroup::Start(PinnedArena& arena) {
  evictor_count_ = std::min(options_.max_evictors, kZoneListCount);
  bool enough = sweeps_.Init(arena);
  for (uint32_t e = 0; enough && e < evictor_count_; ++e) {
    std::array<Sweep*, Evictor::kMaxPipeline> sweeps{};
    for (uint32_t s = 0; s < std::min(options_.pipeline, Evictor::kMaxPipeline); ++s) {
      sweeps[s] = arena.New<Sweep>();
      enough = enough && sweeps[s] != nullptr;
    }
    evictors_[e] = std::make_unique<Evictor>(*this, e, sweeps);
  }
  if (!enough) return absl::ResourceExhaustedError("no memory for the evictors' sweeps");
  for (uint32_t e = 0; e < evictor_count_; ++e) evictors_[e]->Start();
  active_ = std::min(1u, evictor_count_);
  has_spare_cpu_ = evictor_count_ != 0 && UsableCores() > 1;
  return absl::OkStatus();
}

void EvictorGroup::Stop() {
  stopping_ = true;
  for (auto& evictor : evictors_) {
    if (evictor != nullptr) evictor->Stop();
  }
}

bool EvictorGroup::passive() const noexcept {
  if (evictor_count_ == 0) return true;
  if (options_.assist != EvictOptions::Assist::kMeasured) return false;
  const uint64_t until = passive_until_.load(std::memory_order_relaxed);
  return until != 0 && NowNs() < until;
}

bool EvictorGroup::WorkWanted() const noexcept {
  return context_.frames.level() < context_.frames.watermarks().high ||
         context_.frames.waiters() != 0;
}

bool EvictorGroup::may_lend() const noexcept {
  const uint64_t again = lend_again_at_.load(std::memory_order_relaxed);
  return has_spare_cpu_ && (again == 0 || NowNs() >= again) && !passive();
}

bool EvictorGroup::SpareWorkWanted() const noexcept {
  return spare_work_ != nullptr && spare_work_->pending() &&
         context_.frames.level() >= context_.frames.watermarks().low;
}

Pressure EvictorGroup::PressureAfter(uint32_t fruitless) const noexcept {
  const uint64_t zones = context_.zones.size() + 1;
  if (fruitless <= zones) return Pressure::kNormal;
  return fruitless <= 2 * zones ? Pressure::kUrgent : Pressure::kDesperate;
}

void EvictorGroup::Kick() noexcept {
  if (passive()) return;
  const uint32_t active = active_.load(std::memory_order_relaxed);
  for (uint32_t e = 0; e < active; ++e) evictors_[e]->Wake();
}

void EvictorGroup::CheckLevel() noexcept {
  const Watermarks marks = context_.frames.watermarks();
  const int64_t level = context_.frames.level();
  if (level >= marks.low) [[likely]]
    return;
  if (!passive()) {
    Kick();
  } else if (level < marks.min && options_.assist != EvictOptions::Assist::kNever) {
    SweepInline();
  }
}

bool EvictorGroup::ShouldSweepInline() noexcept {
  switch (options_.assist) {
    case EvictOptions::Assist::kAlways:
      return true;
    case EvictOptions::Assist::kNever:
      return evictor_count_ == 0;
    case EvictOptions::Assist::kMeasured:
      break;
  }
  if (passive()) return true;
  const uint64_t wait = wait_cost_ns_.load(std::memory_order_relaxed);
  const uint64_t sweep = sweep_cost_ns_.load(std::memory_order_relaxed);
  const bool explore = choices_.fetch_add(1, std::memory_order_relaxed) % 32 == 0;
  return (sweep < wait) != explore;
}

void EvictorGroup::TakeFrameSlow() noexcept {
  const uint64_t begin = NowNs();
  context_.metrics.Add(Metric::kFrameStalls);
  stalls_since_scaling_.fetch_add(1, std::memory_order_relaxed);
  stalls_since_report_.fetch_add(1, std::memory_order_relaxed);
  Kick();
  bool swept = false;
  bool got = false;
  if (ShouldSweepInline()) {
    swept = SweepInline() != 0;
    bool refilled;
    got = swept && cache_.TryTake(&refilled);
  }
  if (!got) {
    const uint64_t ticket = context_.frames.Enqueue();
    uint64_t freed_before = context_.frames.handed_out();
    uint64_t round_ns = NowNs();
    uint64_t fruitless_ns = 0;
    while (!context_.frames.Wait(ticket, kPatienceNs)) {
      cache_.Flush();
      SweepInline();
      const uint64_t now = NowNs();
      fruitless_ns += std::min(now - std::exchange(round_ns, now), kMaxRoundNs);
      if (context_.frames.handed_out() != freed_before) {
        freed_before = context_.frames.handed_out();
        fruitless_ns = 0;
      }
      SPIRITOS_CHECK(fruitless_ns < kStuckNs,
                     "no page could be evicted for 30 s: budget {} pages, {} pages failed to be "
                     "written to the pool; free space in the pool, raise SPIRITOS_POOL_SIZE, or "
                     "raise SPIRITOS_BUDGET above what is pinned",
                     context_.frames.budget().raw(), context_.metrics.Get(Metric::kWriteErrors));
      Kick();
    }
  }
  const uint64_t cost = NowNs() - begin;
  UpdateAverage(swept ? sweep_cost_ns_ : wait_cost_ns_, cost);
  context_.metrics.Add(Metric::kFrameStallNs, cost);
  stalls_.Add(cost);
}

uint32_t EvictorGroup::SweepInline() noexcept {
  Sweep* const sweep = sweeps_.TryTake();
  if (sweep == nullptr) return 0;
  const Epoch::Guard guard(context_.epoch);
  const uint64_t begin = NowNs();
  uint32_t freed = 0;
  // A few zones at most: the others are this thread's next stalls.
  for (int tries = 0; tries < 8 && freed == 0; ++tries) {
    Zone* const zone = context_.zones.Pop(0, 1);
    if (zone == nullptr) break;
    const uint32_t from = zone->cursor;
    const uint32_t to = std::min(kZonePages, from + options_.assist_pages);
    const Pressure pressure = PressureAfter(inline_fruitless_.load(std::memory_order_relaxed));
    if (sweep->Begin(context_, *zone, from, to, pressure)) {
      sweep->Write(context_);
      sweep->WaitForWrites(context_);
      freed = sweep->Finish(context_);
      context_.metrics.Add(Metric::kInlineSweeps);
      context_.metrics.Add(Metric::kInlineEvictedPages, freed);
    }
    if (freed != 0) {
      inline_fruitless_.store(0, std::memory_order_relaxed);
    } else {
      inline_fruitless_.fetch_add(1, std::memory_order_relaxed);
    }
    ReturnZone(*zone, to);
  }
  sweeps_.Give(sweep);
  context_.metrics.Add(Metric::kInlineSweepNs, NowNs() - begin);
  return freed;
}

void EvictorGroup::ReturnZone(Zone& zone, uint32_t reached) noexcept {
  zone.cursor = reached == kZonePages ? 0 : reached;
  if (zone.cursor != 0) {
    context_.zones.PushFront(zone);
    return;
  }
  if (AnyMapped(zone)) {
    context_.zones.PushBack(zone);
    return;
  }
  zone.word.Unlist();
  // A fault that claimed a page before the mark went off saw the zone listed.
  if (AnyMapped(zone) && zone.word.TryList()) context_.zones.PushBack(zone);
}

uint32_t EvictorGroup::SweepNow(Zone& zone, uint32_t begin, uint32_t end) noexcept {
  Sweep* sweep = sweeps_.TryTake();
  while (sweep == nullptr) {
    sched_yield();
    sweep = sweeps_.TryTake();
  }
  uint32_t freed = 0;
  while (true) {
    context_.parker.Wait(&zone.word, [&] { return zone.word.Load().stage() == ZoneStage::kIdle; });
    if (sweep->Begin(context_, zone, begin, end, Pressure::kDesperate)) {
      sweep->Write(context_);
      sweep->WaitForWrites(context_);
      freed = sweep->Finish(context_);
      context_.metrics.Add(Metric::kSweeps);
      break;
    }
    // Either there was no victim, or another sweep slipped in: then again.
    if (zone.word.Load().stage() == ZoneStage::kIdle) break;
  }
  sweeps_.Give(sweep);
  return freed;
}

bool EvictorGroup::PayDebt() noexcept {
  uint64_t fruitless = 0;
  while (context_.frames.level() < 0) {
    cache_.Flush();
    if (context_.frames.level() >= 0) break;
    Kick();
    fruitless = SweepInline() != 0 ? 0 : fruitless + 1;
    if (fruitless > 4 * (context_.zones.size() + 1)) return false;
    if (fruitless != 0) sched_yield();
  }
  return true;
}

void EvictorGroup::AwaitIdle() noexcept {
  uint64_t wakes;
  do {  // One that works may wake another that was looked at before.
    wakes = wakes_.load(std::memory_order_seq_cst);
    for (uint32_t e = 0; e < evictor_count_; ++e) {
      const Evictor* const evictor = evictors_[e].get();
      context_.parker.Wait(evictor, [evictor] { return evictor->asleep(); });
    }
  } while (wakes_.load(std::memory_order_seq_cst) != wakes);
}

void EvictorGroup::Restart() {
  for (uint32_t e = 0; e < evictor_count_; ++e) evictors_[e]->Restart();
}

void EvictorGroup::ReportShare(uint64_t busy_ns, uint64_t cpu_ns) noexcept {
  context_.metrics.Add(Metric::kEvictorBusyNs, busy_ns);
  context_.metrics.Add(Metric::kEvictorCpuNs, cpu_ns);
  const uint64_t stalled = stalls_since_report_.exchange(0, std::memory_order_relaxed);
  if (options_.assist != EvictOptions::Assist::kMeasured) return;
  // Preempted with pages in hand, it would keep faults waiting for its CPU.
  const bool starved = cpu_ns * 4 < busy_ns * 3;
  if (starved) lend_again_at_.store(NowNs() + kNoLendingNs, std::memory_order_relaxed);
  if (!starved || stalled < kStallsToPassive) {
    passive_spell_ns_.store(0, std::memory_order_relaxed);
    return;
  }
  BeginPassiveSpell();
}

void EvictorGroup::ReportCrowded(uint64_t busy_ns, uint64_t window_ns) noexcept {
  // On a single CPU an evictor sweeps cheaper, whole zones at a time, than the one
  // thread that runs there would; on more it slows one thread for the others.
  if (options_.assist != EvictOptions::Assist::kMeasured || UsableCores() < 2) return;
  if (busy_ns * 8 > window_ns) BeginPassiveSpell();
}

void EvictorGroup::BeginPassiveSpell() noexcept {
  const uint64_t last = passive_spell_ns_.load(std::memory_order_relaxed);
  const uint64_t spell = last == 0 ? kFirstSpellNs : std::min(2 * last, kLongestSpellNs);
  passive_spell_ns_.store(spell, std::memory_order_relaxed);
  passive_until_.store(NowNs() + spell, std::memory_order_relaxed);
}

void EvictorGroup::ConsiderScaling() noexcept {
  const uint64_t stalled = stalls_since_scaling_.exchange(0, std::memory_order_relaxed);
  const uint32_t active = active_.load(std::memory_order_relaxed);
  // Another evictor needs a CPU of its own: one is left to the faulting thread.
  const uint32_t most = std::min(evictor_count_, std::max(1u, UsableCores() / 2));
  if (stalled > 16 && active < most && !passive()) {
    active_.store(active + 1, std::memory_order_relaxed);
  } else if (stalled == 0 && active > 1) {
    active_.store(active - 1, std::memory_order_relaxed);
  }
}

}  // namespace spiritos
