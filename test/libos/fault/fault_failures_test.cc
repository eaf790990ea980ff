// SPDX-License-Identifier: Apache-2.0
// Backends under failing calls, random calls and racing threads: what passes is
// waited out, what stays is reported with how far the call got.
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <random>
#include <thread>

#include "test/libos/fault/fault_rig.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

#ifdef SPIRITOS_FAILPOINTS

// Nothing stays armed when a test ends, whatever it found.
struct Disarm {
  Disarm() { Failpoints::DisarmAll(); }
  ~Disarm() { Failpoints::DisarmAll(); }
};

constexpr uint64_t kForGood = 1'000'000;

TEST_CASE("a fill waits out errors that pass, wherever in it they come", "[fault][uffd]") {
  const auto rig = MakeFaultRig(8);
  if (rig == nullptr) return;
  const Disarm disarm;
  for (const int error : {EAGAIN, ENOMEM, EINTR}) {
    for (const Failpoint point : {Failpoint::kUffdCopy, Failpoint::kUffdIoctlAny}) {
      Failpoints::Arm(point, 1, error, 5);
      CHECK(rig->Fill(1, 4, 'a').result == MapResult::kOk);
      CHECK(Failpoints::Failures(point) == 5);
      Failpoints::DisarmAll();
      CHECK(rig->PresentAre(8, {1, 2, 3, 4}));
      CHECK(rig->Load(4) == 'a');
      const PageRun all[] = {rig->run(0, 8)};
      REQUIRE(rig->backend->Drop(all).result == MapResult::kOk);
    }
  }
  CHECK(rig->Metered(Metric::kKernelRetries) == 30);
}

TEST_CASE("a fill reports errors that stay, with nothing filled", "[fault][uffd]") {
  const auto rig = MakeFaultRig(8);
  if (rig == nullptr) return;
  const Disarm disarm;
  const struct {
    int error;
    MapResult expected;
  } cases[] = {{EAGAIN, MapResult::kFailed},  {ENOMEM, MapResult::kNoMemory},
               {ESRCH, MapResult::kGone},     {ENOENT, MapResult::kGone},
               {EEXIST, MapResult::kPresent}, {EINVAL, MapResult::kFailed},
               {EFAULT, MapResult::kFailed},  {EPERM, MapResult::kFailed}};
  for (const auto& [error, expected] : cases) {
    for (const uint32_t count : {1u, 4u}) {
      CAPTURE(error, count);
      Failpoints::Arm(Failpoint::kUffdCopy, 1, error, kForGood);
      const MapOutcome outcome = rig->Fill(1, count, 'a');
      CHECK(outcome.result == expected);
      CHECK(outcome.error == error);
      CHECK(outcome.done == 0);
      CHECK(Failpoints::Failures(Failpoint::kUffdCopy) <= 20);
      Failpoints::DisarmAll();
      CHECK(rig->PresentAre(8, {}));
    }
  }
}

TEST_CASE("a run refused as a whole is filled page by page, and counted", "[fault][uffd]") {
  const auto rig = MakeFaultRig(8);
  if (rig == nullptr) return;
  const Disarm disarm;
  Failpoints::Arm(Failpoint::kUffdCopy, 1, ENOENT, 1);
  CHECK(rig->Fill(0, 4, 'a').result == MapResult::kOk);
  CHECK(Failpoints::Passes(Failpoint::kUffdCopy) == 5);
  // The third single page is gone.
  const PageRun all[] = {rig->run(0, 8)};
  REQUIRE(rig->backend->Drop(all).result == MapResult::kOk);
  REQUIRE(mprotect(rig->page(3).address(), kPageSize, PROT_READ) == 0);
  Failpoints::Arm(Failpoint::kUffdCopy, 4, ESRCH, 1);
  const MapOutcome outcome = rig->Fill(0, 6, 'b');
  CHECK(outcome.result == MapResult::kGone);
  CHECK(outcome.done == 2);
  CHECK(rig->PresentAre(8, {0, 1}));
}

TEST_CASE("freezing and thawing wait out errors that pass", "[fault][uffd]") {
  const auto rig = MakeFaultRig(8);
  if (rig == nullptr) return;
  const Disarm disarm;
  REQUIRE(rig->Fill(0, 8, 'a').result == MapResult::kOk);
  // The last: a run refused as a whole is halved until its pieces fit.
  for (const int error : {EAGAIN, ENOMEM, EINTR, ENOENT}) {
    CAPTURE(error);
    const uint64_t times = error == ENOENT ? 3 : 5;
    const uint64_t faults = rig->sink->faults;
    Failpoints::Arm(Failpoint::kUffdWriteProtect, 1, error, times);
    CHECK(rig->backend->Freeze(rig->run(0, 8)).result == MapResult::kOk);
    CHECK(Failpoints::Failures(Failpoint::kUffdWriteProtect) == times);
    Failpoints::DisarmAll();
    for (const uint32_t i : {0u, 3u, 7u}) rig->Store(i, 'b');
    CHECK(rig->sink->faults == faults + 3);  // All of it was frozen.
    Failpoints::Arm(Failpoint::kUffdWriteProtect, 1, error, times);
    CHECK(rig->backend->Thaw(rig->run(0, 8)).result == MapResult::kOk);
    Failpoints::DisarmAll();
    for (uint32_t i = 0; i < 8; ++i) rig->Store(i, 'c');
    CHECK(rig->sink->faults == faults + 3);
  }
}

TEST_CASE("freezing and thawing report errors that stay", "[fault][uffd]") {
  const auto rig = MakeFaultRig(8);
  if (rig == nullptr) return;
  const Disarm disarm;
  REQUIRE(rig->Fill(0, 8, 'a').result == MapResult::kOk);
  const struct {
    int error;
    MapResult expected;
  } cases[] = {{EAGAIN, MapResult::kFailed},
               {ENOMEM, MapResult::kNoMemory},
               {ESRCH, MapResult::kGone},
               {ENOENT, MapResult::kGone},
               {EINVAL, MapResult::kFailed}};
  for (const auto& [error, expected] : cases) {
    CAPTURE(error);
    Failpoints::Arm(Failpoint::kUffdWriteProtect, 1, error, kForGood);
    const MapOutcome frozen = rig->backend->Freeze(rig->run(0, 8));
    CHECK(frozen.result == expected);
    CHECK(frozen.done == 0);
    CHECK(frozen.error == error);
    CHECK(rig->backend->Thaw(rig->run(0, 8)).result == expected);
    Failpoints::DisarmAll();
    for (uint32_t i = 0; i < 8; ++i) rig->Store(i, 'b');
    CHECK(rig->sink->faults == 0);
  }
}

TEST_CASE("a drop waits out errors that pass, batched or not", "[fault][uffd]") {
  const auto rig = MakeFaultRig(12);
  if (rig == nullptr) return;
  const Disarm disarm;
  const PageRun runs[] = {rig->run(0, 3), rig->run(4, 2), rig->run(8, 4)};
  for (const int error : {EAGAIN, ENOMEM, EPERM}) {
    for (const uint64_t nth : {1u, 2u, 3u}) {
      CAPTURE(error, nth);
      static_cast<void>(rig->Fill(0, 12, 'a'));
      Failpoints::Arm(Failpoint::kMadvise, nth, error, nth);
      CHECK(rig->backend->Drop(runs).result == MapResult::kOk);
      Failpoints::DisarmAll();
      CHECK(rig->PresentAre(12, {3, 6, 7}));
      const PageRun all[] = {rig->run(0, 12)};
      REQUIRE(rig->backend->Drop(all).result == MapResult::kOk);
    }
  }
}

TEST_CASE("a drop that fails says how many pages of its runs are gone", "[fault][uffd]") {
  const auto rig = MakeFaultRig(12);
  if (rig == nullptr) return;
  const Disarm disarm;
  REQUIRE(rig->Fill(0, 12, 'a').result == MapResult::kOk);
  const PageRun runs[] = {rig->run(0, 3), rig->run(4, 2), rig->run(8, 4)};
  const bool batched = rig->backend->caps().batched_zap;
  // The first call, if a batch, is refused whole; then the second run fails.
  Failpoints::Arm(Failpoint::kMadvise, 1, EPERM, kForGood);
  MapOutcome outcome = rig->backend->Drop(runs);
  CHECK(outcome.result == MapResult::kFailed);
  CHECK(outcome.done == 0);
  CHECK(outcome.error == EPERM);
  CHECK(rig->PresentAre(12, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  if (batched) return;
  Failpoints::Arm(Failpoint::kMadvise, 3, EINVAL, kForGood);
  outcome = rig->backend->Drop(runs);
  CHECK(outcome.result == MapResult::kFailed);
  CHECK(outcome.done == 5);
  CHECK(outcome.error == EINVAL);
  CHECK(rig->PresentAre(12, {3, 6, 7, 8, 9, 10, 11}));
}

TEST_CASE("a batch cut short goes on run by run from where it was cut", "[fault][uffd]") {
  const auto rig = MakeFaultRig(12);
  if (rig == nullptr) return;
  REQUIRE(rig->Fill(0, 12, 'a').result == MapResult::kOk);
  // The kernel refuses to zap locked pages: the batch ends there.
  // (By syscall(2): sanitizers make mlock(3) do nothing.)
  REQUIRE(syscall(SYS_mlock, rig->page(4).address(), kPageSize) == 0);
  const PageRun runs[] = {rig->run(0, 3), rig->run(4, 1), rig->run(8, 4)};
  const MapOutcome outcome = rig->backend->Drop(runs);
  CHECK(outcome.result == MapResult::kFailed);
  CHECK(outcome.done == 3);
  CHECK(outcome.error == EINVAL);
  CHECK(rig->PresentAre(12, {3, 4, 5, 6, 7, 8, 9, 10, 11}));
  REQUIRE(syscall(SYS_munlock, rig->page(4).address(), kPageSize) == 0);
  CHECK(rig->backend->Drop(runs).result == MapResult::kOk);
}

#endif  // SPIRITOS_FAILPOINTS

TEST_CASE("random calls agree with a model of every page", "[fault][uffd]") {
  constexpr uint32_t kPages = 40;
  const auto rig = MakeFaultRig(kPages);
  if (rig == nullptr) return;
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  struct Page {
    bool present = false;
    bool frozen = false;
    uint64_t value = 0;
  };
  std::array<Page, kPages> model;
  uint32_t wrong = 0;
  const auto touch = [&](uint32_t i) {  // What the sink does with a fault.
    if (!model[i].present) model[i] = {true, false, PatternOf(rig->page(i))};
    model[i].frozen = false;
  };
  for (uint64_t step = 0; step < Rounds(4'000) && wrong == 0; ++step) {
#ifdef SPIRITOS_FAILPOINTS
    // Errors that pass change nothing but the time it takes.
    if (step % 3 == 0) {
      Failpoints::Arm(Failpoint::kUffdIoctlAny, 1 + random() % 3, EAGAIN, 1 + random() % 6);
      Failpoints::Arm(Failpoint::kMadvise, 1 + random() % 3, EAGAIN, 1 + random() % 6);
    }
#endif
    const auto first = static_cast<uint32_t>(random() % kPages);
    const auto count = static_cast<uint32_t>(1 + random() % std::min(10u, kPages - first));
    const uint64_t faults = rig->sink->faults;
    switch (random() % 7) {
      case 0: {
        uint32_t absent = 0;
        while (absent < count && !model[first + absent].present) ++absent;
        for (uint32_t i = first; i < first + absent; ++i) model[i] = {true, false, step};
        const MapOutcome outcome = rig->Fill(first, count, step);
        wrong += outcome.result != (absent == count ? MapResult::kOk : MapResult::kPresent);
        wrong += absent != count && outcome.done != absent;
        break;
      }
      case 1:
        wrong += rig->backend->Freeze(rig->run(first, count)).result != MapResult::kOk;
        for (uint32_t i = first; i < first + count; ++i) model[i].frozen = model[i].present;
        break;
      case 2:
        wrong += rig->backend->Thaw(rig->run(first, count)).result != MapResult::kOk;
        for (uint32_t i = first; i < first + count; ++i) model[i].frozen = false;
        break;
      case 3: {
        std::vector<PageRun> runs;
        for (uint32_t i = first; i < kPages;) {
          const auto length = static_cast<uint32_t>(1 + random() % std::min(3u, kPages - i));
          runs.push_back(rig->run(i, length));
          for (uint32_t p = i; p < i + length; ++p) model[p] = {};
          i += length + static_cast<uint32_t>(1 + random() % 6);
        }
        wrong += rig->backend->Drop(runs).result != MapResult::kOk;
        break;
      }
      case 4:
      case 5: {
        const bool faulting = !model[first].present;
        if (faulting) touch(first);
        wrong += rig->Load(first) != model[first].value;
        wrong += (rig->sink->faults != faults) != faulting;
        break;
      }
      default: {
        const bool faulting = !model[first].present || model[first].frozen;
        touch(first);
        model[first].value = step;
        rig->Store(first, step);
        wrong += (rig->sink->faults != faults) != faulting;
      }
    }
    for (uint32_t i = 0; i < kPages; ++i) {
      wrong += rig->backend->Present(rig->page(i)) != model[i].present;
      if (model[i].present) wrong += rig->Load(i) != model[i].value;
    }
  }
#ifdef SPIRITOS_FAILPOINTS
  Failpoints::DisarmAll();
#endif
  CHECK(wrong == 0);
}

TEST_CASE("threads that fault on the same pages all see the pages' bytes", "[fault][uffd]") {
  constexpr uint32_t kPages = 128;
  constexpr uint32_t kLoaders = 4;
  const auto rig = MakeFaultRig(kPages);
  if (rig == nullptr) return;
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  std::atomic<bool> stop{false};
  std::atomic<uint32_t> wrong{0};
  uint32_t failed = 0;
  RunTogether(kLoaders + 1, [&](uint32_t thread) {
    std::mt19937_64 random(seed + thread);
    if (thread < kLoaders) {
      for (uint64_t i = 0; !stop; ++i) {
        const auto page = static_cast<uint32_t>(random() % kPages);
        if (rig->Load(page) != PatternOf(rig->page(page))) ++wrong;
        if (i % 64 == 0) sched_yield();
      }
      return;
    }
    // Drops until there were faults enough.
    while (rig->sink->faults < Rounds(30'000)) {
      const auto first = static_cast<uint32_t>(random() % (kPages - 20));
      const PageRun runs[] = {rig->run(first, 8), rig->run(first + 10, 8)};
      failed += rig->backend->Drop(runs).result != MapResult::kOk;
      sched_yield();
    }
    stop = true;
  });
  CHECK(wrong == 0);
  CHECK(failed == 0);
}

TEST_CASE("a frozen page does not change before its sink hears of it", "[fault][uffd]") {
  constexpr uint32_t kPages = 16;
  constexpr uint32_t kWriters = 2;
  const auto rig = MakeFaultRig(kPages);
  if (rig == nullptr) return;
  REQUIRE(rig->Fill(0, kPages, 0).result == MapResult::kOk);
  std::atomic<bool> stop{false};
  uint32_t failed = 0;
  uint64_t unheard = 0;
  uint64_t still = 0;
  uint64_t written = 0;
  RunTogether(kWriters + 1, [&](uint32_t thread) {
    if (thread < kWriters) {
      // Seldom enough that many pages stay frozen for a while.
      for (uint64_t i = 1; !stop; ++i) {
        const auto page = static_cast<uint32_t>((i * 7 + thread * 5) % kPages);
        rig->word(page, 1 + thread).store(i, std::memory_order_relaxed);
        if (i % 4 == 0) sched_yield();
      }
      return;
    }
    for (uint32_t round = 0; round < Rounds(2'000); ++round) {
      std::array<uint32_t, kPages> ended;
      std::array<uint32_t, kPages> begun;
      std::array<std::array<uint64_t, kWriters>, kPages> seen;
      for (uint32_t p = 0; p < kPages; ++p) {
        ended[p] = rig->sink->ended[p];
        begun[p] = rig->sink->begun[p];
      }
      failed += rig->backend->Freeze(rig->run(0, kPages)).result != MapResult::kOk;
      for (uint32_t p = 0; p < kPages; ++p) {
        for (uint32_t w = 0; w < kWriters; ++w) seen[p][w] = rig->word(p, 1 + w).load();
      }
      for (uint32_t i = 0; i < round % 4; ++i) sched_yield();
      for (uint32_t p = 0; p < kPages; ++p) {
        bool same = true;
        for (uint32_t w = 0; w < kWriters; ++w) same = same && seen[p][w] == rig->word(p, 1 + w);
        // A fault from before the freeze may thaw the page after it.
        if (begun[p] != ended[p]) continue;
        const bool heard = rig->sink->begun[p] != begun[p];
        unheard += !same && !heard;
        still += !heard;
        written += heard;
      }
      failed += rig->backend->Thaw(rig->run(0, kPages)).result != MapResult::kOk;
    }
    stop = true;
  });
  INFO(still << " frozen pages left alone, " << written << " written");
  CHECK(failed == 0);
  CHECK(unheard == 0);
  CHECK(written > 0);
  CHECK(still > 0);
}

TEST_CASE("no store is lost while pages are frozen and thawed again and again", "[fault][uffd]") {
  constexpr uint32_t kPages = 8;
  constexpr uint32_t kWriters = 3;
  const auto rig = MakeFaultRig(kPages);
  if (rig == nullptr) return;
  REQUIRE(rig->Fill(0, kPages, 0).result == MapResult::kOk);
  std::atomic<bool> stop{false};
  std::array<uint64_t, kWriters> lost{};
  RunTogether(kWriters + 1, [&](uint32_t thread) {
    if (thread < kWriters) {
      for (uint64_t i = 1; !stop; ++i) {
        const auto cell = rig->word(static_cast<uint32_t>(i % kPages), thread);
        cell.store(i, std::memory_order_relaxed);
        lost[thread] += cell.load(std::memory_order_relaxed) != i;
        if (i % 64 == 0) sched_yield();
      }
      return;
    }
    while (rig->sink->faults < Rounds(20'000)) {
      static_cast<void>(rig->backend->Freeze(rig->run(0, kPages)));
      sched_yield();
      static_cast<void>(rig->backend->Thaw(rig->run(0, kPages)));
    }
    stop = true;
  });
  for (const uint64_t n : lost) CHECK(n == 0);
}

}  // namespace
}  // namespace spiritos
