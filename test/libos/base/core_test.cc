// SPDX-License-Identifier: Apache-2.0
// Core: indices in range, and the CPU that a pinned thread is on.
#include "libos/base/core.h"

#include <sched.h>

#include <catch2/catch.hpp>

#include "test/support/together.h"

namespace spiritos {
namespace {

TEST_CASE("there is a core, and per-core arrays have room for all", "[base]") {
  CHECK(CoreCount() >= 1);
  CHECK(CoreCount() <= kMaxCores);
  CHECK(UsableCores() >= 1);
}

TEST_CASE("every thread's core is in range", "[base]") {
  std::atomic<uint32_t> out_of_range{0};
  RunTogether(4, [&](uint32_t) {
    for (int i = 0; i < 10'000; ++i) {
      if (CurrentCore() >= CoreCount()) ++out_of_range;
    }
  });
  CHECK(out_of_range == 0);
}

TEST_CASE("a thread bound to a CPU is on that core and may use one", "[base]") {
  cpu_set_t all;
  REQUIRE(sched_getaffinity(0, sizeof(all), &all) == 0);
  CHECK(UsableCores() == static_cast<uint32_t>(CPU_COUNT(&all)));
  for (uint32_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &all)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    REQUIRE(sched_setaffinity(0, sizeof(one), &one) == 0);
    CHECK(CurrentCore() == cpu % CoreCount());
    CHECK(UsableCores() == 1);
  }
  REQUIRE(sched_setaffinity(0, sizeof(all), &all) == 0);
}

}  // namespace
}  // namespace spiritos
