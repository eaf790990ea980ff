// SPDX-License-Identifier: Apache-2.0
// The table of streams.
#include "libos/prefetch/ahead_streams.h"

#include <algorithm>

namespace spiritos {
namespace {

// The first window; each fault on the stream doubles it.
constexpr uint32_t kFirstWindow = 2 * AheadStreams::kRun;

}  // namespace

int32_t AheadStreams::DirectionAt(Vpn vpn) const noexcept {
  for (const Stream& stream : streams_) {
    if (stream.next.load(std::memory_order_relaxed) == 0) continue;
    const int64_t beyond = stream.PagesTo(vpn.raw());
    // Helpers may have taken the run that the fault is on just now.
    if (beyond <= 0 && beyond > -int64_t{kRun}) {
      return static_cast<int32_t>(stream.direction.load(std::memory_order_relaxed));
    }
  }
  return 0;
}

bool AheadStreams::GoOn(const Run& run, uint32_t most) noexcept {
  if (most < kRun || !lock_.try_lock()) return false;
  Stream* stream = nullptr;
  for (Stream& s : streams_) {
    if (s.next.load(std::memory_order_relaxed) == 0) continue;
    const int64_t beyond = s.PagesTo(run.first.raw());
    const bool here = beyond <= 0 && beyond > -int64_t{kRun} && s.direction == run.direction;
    if (here) stream = &s;
  }
  const uint64_t behind =
      run.first.raw() + static_cast<uint64_t>(int64_t{run.direction} * int64_t{run.count});
  if (stream == nullptr) {
    stream =
        std::min_element(streams_.begin(), streams_.end(),
                         [](const Stream& a, const Stream& b) { return a.used_at < b.used_at; });
    stream->direction.store(run.direction, std::memory_order_relaxed);
    stream->next.store(behind, std::memory_order_relaxed);
    stream->window = std::min(most, kFirstWindow);
  } else {
    if (stream->PagesTo(behind) > 0) stream->next.store(behind, std::memory_order_relaxed);
    stream->window = std::min(most, 2 * stream->window);
  }
  stream->used_at = ++clock_;
  stream->end = behind + static_cast<uint64_t>(int64_t{run.direction} * int64_t{stream->window});
  UpdatePending();
  lock_.unlock();
  return true;
}

AheadStreams::Run AheadStreams::TakeFrom(Stream& stream) noexcept {
  const int64_t direction = stream.direction.load(std::memory_order_relaxed);
  const uint64_t next = stream.next.load(std::memory_order_relaxed);
  const int64_t left = stream.PagesTo(stream.end);
  if (next == 0 || left <= 0) return {};
  // Up to the edge of the zone.
  const auto index = static_cast<uint32_t>(next % kZonePages);
  const uint32_t room = direction > 0 ? kZonePages - index : index + 1;
  const auto count = static_cast<uint32_t>(std::min<int64_t>({left, int64_t{kRun}, int64_t{room}}));
  stream.next.store(next + static_cast<uint64_t>(direction * int64_t{count}),
                    std::memory_order_relaxed);
  return {.first = Vpn(next), .direction = static_cast<int32_t>(direction), .count = count};
}

void AheadStreams::UpdatePending() noexcept {
  const bool any = std::any_of(streams_.begin(), streams_.end(), [](const Stream& stream) {
    return stream.next.load(std::memory_order_relaxed) != 0 && stream.PagesTo(stream.end) > 0;
  });
  pending_.store(any, std::memory_order_seq_cst);
}

AheadStreams::Run AheadStreams::Take() noexcept {
  if (!lock_.try_lock()) return {};
  Run run;
  for (Stream& stream : streams_) {
    run = TakeFrom(stream);
    if (run.count != 0) break;
  }
  UpdatePending();
  lock_.unlock();
  return run;
}

AheadStreams::Run AheadStreams::TakeBeyond(Vpn vpn) noexcept {
  if (!pending()) return {};
  if (!lock_.try_lock()) return {};
  Run run;
  for (Stream& stream : streams_) {
    if (stream.next.load(std::memory_order_relaxed) == 0) continue;
    const int64_t behind = -stream.PagesTo(vpn.raw());
    if (behind <= 0 || behind > int64_t{stream.window}) continue;
    run = TakeFrom(stream);
    break;
  }
  UpdatePending();
  lock_.unlock();
  return run;
}

}  // namespace spiritos
