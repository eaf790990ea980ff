// SPDX-License-Identifier: Apache-2.0
// Pacer: how much a tenant moves to and from a memory server, both directions together.
//
// A clock that runs ahead of time by what every message takes at the rate: the next one may
// begin once time has caught up. An idle tenant's clock stays at most kDepthNs behind, which
// is the burst that it may then have, and what a server that wakes late makes up for.
//
//   kDepthNs behind <= due <= kLongestPauseNs ahead of now
//
// A message is begun or not; what has begun is not held up. A connection that has waited for
// kLongestPauseNs begins one message whatever the clock says: clients take a server that is
// silent for 600 ms for dead (SPIRITOS_DEAD_AFTER), and being paced must not look like that.
// So a tenant with very many busy connections may exceed a low rate. Threads: one.
#pragma once

#include <algorithm>
#include <cstdint>

#include "libos/base/units.h"
#include "libos/remote/wire.h"

namespace spiritos {

class Pacer {
 public:
  static constexpr uint64_t kDepthNs = 50'000'000;
  static constexpr uint64_t kLongestPauseNs = 200'000'000;
  // A program has three lanes, and they take turns with the largest messages.
  static constexpr uint64_t kMinRate = uint64_t{4} << 20;
  static_assert(3 * kMaxWirePages * kPageSize * 1'000'000'000 / kMinRate < kLongestPauseNs,
                "one program alone is never paused for longer than its rate asks for");

  // Bytes a second; 0 = any number.
  void SetRate(uint64_t rate) {
    rate_ = rate;
    due_ns_ = 0;
  }
  bool MayBegin(uint64_t now_ns) const { return due_ns_ <= now_ns; }
  // When the next message may begin.
  uint64_t due_ns() const { return due_ns_; }
  // One of so many bytes has begun.
  void Charge(uint64_t bytes, uint64_t now_ns) {
    bytes_ += bytes;
    if (rate_ == 0) return;
    const uint64_t from = std::max(due_ns_, now_ns - std::min(now_ns, kDepthNs));
    due_ns_ = std::min(from + bytes * 1'000'000'000 / rate_, now_ns + kLongestPauseNs);
  }

  void CountPause() { ++pauses_; }
  uint64_t bytes() const { return bytes_; }    // So far.
  uint64_t pauses() const { return pauses_; }  // Times that a connection had to wait.

 private:
  uint64_t rate_ = 0;
  uint64_t due_ns_ = 0;
  uint64_t bytes_ = 0;
  uint64_t pauses_ = 0;
};

}  // namespace spiritos
