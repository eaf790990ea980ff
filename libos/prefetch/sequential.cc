// SPDX-License-Identifier: Apache-2.0
// Matching markers and starting streams.
#include "libos/prefetch/sequential.h"

#include <algorithm>

namespace spiritos {
namespace {

// Farther apart, equal distances are chance more often than pattern.
constexpr int64_t kMaxStride = 4096;

// The distance that `vpn` continues; 0 if none.
int64_t StrideOf(uint64_t vpn, const FaultHistory& history) {
  if (history.Contains(vpn - 1)) return 1;
  if (history.Contains(vpn + 1)) return -1;
  const auto delta = static_cast<int64_t>(vpn - history.At(0));
  const bool repeats = delta == history.DeltaAt(0) && delta == history.DeltaAt(1);
  return repeats && delta >= -kMaxStride && delta <= kMaxStride ? delta : 0;
}

}  // namespace

PrefetchPlan SequentialStreams::OnFault(Vpn vpn, const FaultHistory& history,
                                        PrefetchGovernor& governor, uint32_t max_window) noexcept {
  PrefetchPlan plan{.first = vpn};
  ++clock_;
  for (uint32_t s = 0; s < kStreams; ++s) {
    Stream& stream = streams_[s];
    if (stream.marker != vpn.raw()) continue;
    governor.Hit();
    stream.window = PrefetchGovernor::NextWindow(stream.window, max_window);
    stream.used_at = clock_;
    plan.stride = stream.stride;
    plan.count = stream.window;
    plan.stream = static_cast<int32_t>(s);
    return plan;
  }
  const int64_t stride = StrideOf(vpn.raw(), history);
  if (stride == 0) return plan;
  const uint32_t window = governor.FirstWindow(max_window);
  if (window <= 1) return plan;
  const auto oldest =
      std::min_element(streams_.begin(), streams_.end(),
                       [](const Stream& a, const Stream& b) { return a.used_at < b.used_at; });
  if (oldest->marker != 0) governor.Waste();
  *oldest = {.marker = 0, .stride = stride, .window = window, .used_at = clock_};
  plan.stride = stride;
  plan.count = window;
  plan.stream = static_cast<int32_t>(oldest - streams_.begin());
  return plan;
}

void SequentialStreams::Brought(const PrefetchPlan& plan, uint32_t count) noexcept {
  if (plan.stream < 0) return;
  Stream& stream = streams_[static_cast<size_t>(plan.stream)];
  stream.marker = plan.first.raw() + static_cast<uint64_t>(plan.stride * int64_t{count});
}

}  // namespace spiritos
