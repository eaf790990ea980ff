// SPDX-License-Identifier: Apache-2.0
// Eventually: waits for what other threads bring about; the test fails if they do not.
#pragma once

#include <sched.h>

#include <catch2/catch.hpp>

#include "libos/base/clock.h"

namespace spiritos {

template <typename Condition>
void Eventually(const char* what, Condition condition) {
  // Long enough for an emulated machine: a test's own limit ends it sooner elsewhere.
  const uint64_t deadline = NowNs() + 240'000'000'000;
  INFO("waiting until " << what);
  while (!condition()) {
    REQUIRE(NowNs() < deadline);
    sched_yield();
  }
}

}  // namespace spiritos
