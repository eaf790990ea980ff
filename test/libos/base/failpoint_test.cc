// SPDX-License-Identifier: Apache-2.0
// Failpoints: which passes fail, what pauses, what is planted; and that a build
// without them has none.
#include "libos/base/failpoint.h"

#include <catch2/catch.hpp>
#include <cerrno>

#include "test/support/together.h"

namespace spiritos {
namespace {

#ifdef SPIRITOS_FAILPOINTS

TEST_CASE("exactly the armed passes fail, with the armed error", "[base]") {
  Failpoints::DisarmAll();
  for (int i = 0; i < 3; ++i) CHECK(SPIRITOS_FAILPOINT(kUffdCopy) == 0);
  CHECK(Failpoints::Passes(Failpoint::kUffdCopy) == 3);
  Failpoints::Arm(Failpoint::kUffdCopy, 3, EAGAIN, 2);
  CHECK(Failpoints::Passes(Failpoint::kUffdCopy) == 0);
  CHECK(SPIRITOS_FAILPOINT(kUffdCopy) == 0);
  CHECK(SPIRITOS_FAILPOINT(kUffdCopy) == 0);
  CHECK(SPIRITOS_FAILPOINT(kUffdCopy) == EAGAIN);
  CHECK(SPIRITOS_FAILPOINT(kMadvise) == 0);  // Others are not armed.
  CHECK(SPIRITOS_FAILPOINT(kUffdCopy) == EAGAIN);
  CHECK(SPIRITOS_FAILPOINT(kUffdCopy) == 0);
  CHECK(Failpoints::Passes(Failpoint::kUffdCopy) == 5);
  CHECK(Failpoints::Failures(Failpoint::kUffdCopy) == 2);
  CHECK(Failpoints::Failures(Failpoint::kMadvise) == 0);
  Failpoints::DisarmAll();
}

TEST_CASE("arming again counts from the start, disarming ends it", "[base]") {
  Failpoints::Arm(Failpoint::kMadvise, 1, EINVAL);
  CHECK(SPIRITOS_FAILPOINT(kMadvise) == EINVAL);
  CHECK(SPIRITOS_FAILPOINT(kMadvise) == 0);
  Failpoints::Arm(Failpoint::kMadvise, 1, ENOMEM, 100);
  CHECK(SPIRITOS_FAILPOINT(kMadvise) == ENOMEM);
  Failpoints::DisarmAll();
  CHECK(SPIRITOS_FAILPOINT(kMadvise) == 0);
  CHECK(Failpoints::Failures(Failpoint::kMadvise) == 0);
}

TEST_CASE("threads together meet as many failures as were armed", "[base]") {
  constexpr uint32_t kThreads = 4;
  constexpr uint32_t kEach = 5'000;
  Failpoints::Arm(Failpoint::kBackendRead, 100, EIO, 777);
  std::atomic<uint32_t> failed{0};
  RunTogether(kThreads, [&](uint32_t) {
    for (uint32_t i = 0; i < kEach; ++i) {
      if (SPIRITOS_FAILPOINT(kBackendRead) == EIO) ++failed;
    }
  });
  CHECK(failed == 777);
  CHECK(Failpoints::Failures(Failpoint::kBackendRead) == 777);
  CHECK(Failpoints::Passes(Failpoint::kBackendRead) == kThreads * kEach);
  Failpoints::DisarmAll();
}

std::atomic<int> hook_calls{0};
std::atomic<bool> hook_may_return{false};

TEST_CASE("a pause point holds its thread for as long as the hook does", "[base]") {
  SPIRITOS_PAUSE_POINT(kBeforeDrop);  // No hook: passes.
  hook_calls = 0;
  hook_may_return = false;
  Failpoints::SetPause(PausePoint::kBeforeDrop, [] {
    ++hook_calls;
    YieldUntil([] { return hook_may_return.load(); });
  });
  std::atomic<bool> passed{false};
  bool passed_early = true;
  RunTogether(2, [&](uint32_t thread) {
    if (thread == 0) {
      SPIRITOS_PAUSE_POINT(kWritePosted);  // Another point.
      SPIRITOS_PAUSE_POINT(kBeforeDrop);
      passed = true;
    } else {
      YieldUntil([] { return hook_calls == 1; });
      for (int i = 0; i < 20; ++i) sched_yield();
      passed_early = passed;
      hook_may_return = true;
    }
  });
  CHECK_FALSE(passed_early);
  CHECK(passed);
  Failpoints::SetPause(PausePoint::kBeforeDrop, nullptr);
  SPIRITOS_PAUSE_POINT(kBeforeDrop);
  CHECK(hook_calls == 1);
}

TEST_CASE("a planted bug is there until it is pulled out, and alone", "[base]") {
  CHECK_FALSE(SPIRITOS_PLANTED(kPinIgnored));
  Failpoints::Plant(PlantedBug::kPinIgnored, true);
  CHECK(SPIRITOS_PLANTED(kPinIgnored));
  CHECK_FALSE(SPIRITOS_PLANTED(kFrameBeforeAck));
  Failpoints::Plant(PlantedBug::kPinIgnored, false);
  CHECK_FALSE(SPIRITOS_PLANTED(kPinIgnored));
}

#else

TEST_CASE("without the build option failpoints are constants", "[base]") {
  static_assert(SPIRITOS_FAILPOINT(kUffdCopy) == 0);
  static_assert(!SPIRITOS_PLANTED(kPinIgnored));
  SPIRITOS_PAUSE_POINT(kBeforeDrop);
  SUCCEED();
}

#endif

}  // namespace
}  // namespace spiritos
