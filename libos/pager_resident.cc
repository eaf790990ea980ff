// SPDX-License-Identifier: Apache-2.0
// Pages that are here: taken back from sweeps, un-protected, pinned.
#include "libos/base/check.h"
#include "libos/base/failpoint.h"
#include "libos/base/recency.h"
#include "libos/pager.h"

namespace spiritos {
namespace {

// Faults in a row of one thread on one resident page: after so many the page is
// un-protected without a reason, and after so many it is asked for by a Fill.
constexpr uint32_t kRepeatsToThaw = 2;
constexpr uint32_t kRepeatsToFill = 4;

struct RepeatedFault {
  uint64_t vpn = 0;
  uint32_t times = 0;
};
// Initial-exec, so that a handler's first use does not allocate.
[[gnu::tls_model("initial-exec")]] thread_local RepeatedFault repeated;

}  // namespace

bool Pager::Thaw(Zone& zone, uint32_t index, PageWord word) noexcept {
  AtomicPageWord& page = zone.pages[index];
  if (!page.Take(word, word.ToThawing())) return false;
  SPIRITOS_PAUSE_POINT(kRescueClaimed);
  const uint16_t now = parts_.frames.now();
  const uint32_t hot = Hotter(word.hot());
  const auto publish = [&] {
    // The end of a write may clear its flag meanwhile: hence a loop.
    PageWord thawing = page.Load();
    while (!page.Take(thawing, thawing.ThawedToResident(now, hot, CreditFor(hot)))) {
    }
    parts_.parker.Unpark(&page);
  };
  if (SPIRITOS_PLANTED(kUnprotectAfterResident)) {
    publish();
    SPIRITOS_PAUSE_POINT(kRescueClaimed);
  }
  const MapOutcome outcome = fault_->Thaw({zone.vpn(index), 1});
  SPIRITOS_CHECK(outcome.result == MapResult::kOk || outcome.result == MapResult::kGone,
                 "un-protecting page {:#x} failed with errno {}", zone.vpn(index).raw(),
                 outcome.error);
  if (!SPIRITOS_PLANTED(kUnprotectAfterResident)) publish();
  return true;
}

FaultOutcome Pager::ResolveResident(Zone& zone, uint32_t index, PageWord word,
                                    FaultKind kind) noexcept {
  const Vpn vpn = zone.vpn(index);
  repeated.times = repeated.vpn == vpn.raw() ? repeated.times + 1 : 0;
  repeated.vpn = vpn.raw();
  if (repeated.times >= kRepeatsToFill && kind != FaultKind::kWriteProtect) {
    PageWord claimed = word;
    if (!zone.pages[index].Take(claimed, claimed.ToThawing())) return FaultOutcome::kRetry;
    const MapOutcome filled = fault_->Fill(vpn, 1, zeroes_, FillMode::kWritable);
    if (filled.result == MapResult::kOk) parts_.metrics.Add(Metric::kLostPages);
    static_cast<void>(fault_->Thaw({vpn, 1}));
    PageWord thawing = zone.pages[index].Load();
    while (!zone.pages[index].Take(
        thawing, thawing.ThawedToResident(parts_.frames.now(), word.hot(), word.credit()))) {
    }
    parts_.parker.Unpark(&zone.pages[index]);
    return FaultOutcome::kMapped;
  }
  const bool absent = kind == FaultKind::kMissing || kind == FaultKind::kMissingWrite;
  const bool explained = kind == FaultKind::kWriteProtect || zone.word.Load().swept() ||
                         repeated.times >= kRepeatsToThaw;
  if (absent || !explained) {  // Somebody else has brought it or thawed it.
    parts_.metrics.Add(Metric::kSpuriousFaults);
    return FaultOutcome::kRetry;
  }
  if (!Thaw(zone, index, word)) return FaultOutcome::kRetry;
  parts_.metrics.Add(word.guarded() ? Metric::kGuardBreaks : Metric::kUnfreezes);
  if (word.guarded()) zone.NoteStays(0, 0, 1);
  return FaultOutcome::kMapped;
}

bool Pager::PinPages(Zone& zone, uint32_t begin, uint32_t end) noexcept {
  for (uint32_t i = begin; i < end; ++i) {
    AtomicPageWord& page = zone.pages[i];
    while (true) {
      PageWord word = page.Load();
      if (word.state() != PageState::kResident) {
        const FaultOutcome outcome = Serve(zone, i, FaultKind::kUnknown);
        if (outcome == FaultOutcome::kMapped || outcome == FaultOutcome::kRetry) continue;
        UnpinWords(zone, begin, i);
        return false;
      }
      if (word.guarded() && SPIRITOS_PLANTED(kPinBeforeThaw)) {
        if (!page.Take(word, word.Unguarded().Pinned())) continue;
        SPIRITOS_PAUSE_POINT(kRescueClaimed);
        static_cast<void>(fault_->Thaw({zone.vpn(i), 1}));
        break;
      }
      // Before the pin: another pinner that finds it pinned may rely on it at once.
      if (word.guarded()) {
        static_cast<void>(Thaw(zone, i, word));  // Lost to a sweep or a store: look again.
        continue;
      }
      if (page.Take(word, word.Pinned())) break;
    }
  }
  // After the pages: see ZoneWord. The answer says whether a sweep may have
  // protected them.
  if (!zone.word.AddPins(end - begin).swept()) return true;
  parts_.parker.Wait(&zone.word, [&] { return zone.word.Load().stage() != ZoneStage::kFreezing; });
  // Pinned pages are no victims, so no claim is needed to un-protect them.
  const MapOutcome outcome = fault_->Thaw({zone.vpn(begin), end - begin});
  SPIRITOS_CHECK(outcome.result == MapResult::kOk || outcome.result == MapResult::kGone,
                 "un-protecting {} pinned pages at {:#x} failed with errno {}", end - begin,
                 zone.vpn(begin).raw(), outcome.error);
  return true;
}

void Pager::UnpinPages(Zone& zone, uint32_t begin, uint32_t end) noexcept {
  zone.word.RemovePins(end - begin);
  UnpinWords(zone, begin, end);
}

void Pager::UnpinWords(Zone& zone, uint32_t begin, uint32_t end) noexcept {
  for (uint32_t i = begin; i < end; ++i) {
    AtomicPageWord& page = zone.pages[i];
    PageWord word = page.Load();
    do {
      SPIRITOS_CHECK(
          word.pins() != 0 &&
              (word.state() == PageState::kResident || word.state() == PageState::kThawing),
          "page {:#x} is unpinned but not pinned (word {:#x})", zone.vpn(i).raw(), word.raw());
    } while (!page.Take(word, word.Unpinned()));
  }
}

}  // namespace spiritos
