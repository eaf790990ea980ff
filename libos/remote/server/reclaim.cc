// SPDX-License-Identifier: Apache-2.0
// What is said about slabs that are asked back.
#include "libos/remote/server/reclaim.h"

#include <fmt/core.h>

#include <utility>

#include "libos/base/log.h"

namespace spiritos {

void Reclaim::Begin() {
  if (state_ == State::kContent) state_ = State::kAsking;
}

bool Reclaim::Look(uint64_t excess, uint64_t fixed, uint64_t now_ns) {
  const uint64_t before = std::exchange(excess_, excess);
  if (excess == 0) {
    if (state_ != State::kContent) LogWarning("all slabs that were asked back have come back");
    state_ = State::kContent;
    return false;
  }
  if (state_ == State::kContent || excess != before) {
    if (state_ == State::kContent) {
      LogWarning(fmt::format("{} slabs are asked back from tenants", excess));
    }
    state_ = State::kAsking;
    changed_ns_ = now_ns;
    return false;
  }
  if (state_ == State::kStuck || now_ns - changed_ns_ < kStuckNs) return false;
  state_ = State::kStuck;
  LogWarning(fmt::format(
      "{} slabs do not come back: for {} of them programs have no other server with room, or "
      "are too old to move them; {} are mapped (shm://) or registered (rdma://) and cannot be "
      "moved. They "
      "are served on",
      excess, excess - fixed, fixed));
  return true;
}

}  // namespace spiritos
