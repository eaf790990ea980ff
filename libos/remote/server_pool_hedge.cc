// SPDX-License-Identifier: Apache-2.0
// A demand read that is late is asked of a second server too, and the first answer counts.
//
//   submitted --q--> hedged: asked of another copy as well, into a page of the pool's
//      |                +--> the first ends well: the second is an orphan
//      |                +--> the second ends well: its page is copied; the first is an
//      |                |    orphan, and what still comes of it is read into the void
//      '--> ended       '--> one fails: the other goes on alone
//
// q is where some 1 % of the reads are late: Dean and Barroso, "The Tail at Scale" (CACM
// 2013). A server that has been silent for several q is asked last.
#include <sched.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "libos/base/clock.h"
#include "libos/remote/server_pool.h"

namespace spiritos {
namespace {

constexpr uint64_t kUs = 1'000;
constexpr uint64_t kLeastLateNs = 50 * kUs;
constexpr uint64_t kMostMedians = 32;
// Silences of so many q make a server the second choice.
constexpr uint64_t kSlowFactor = 4;

}  // namespace

// Robbins and Monro, "A stochastic approximation method" (1951): an estimate rests where
// those in its favour weigh as much as those against it. Two threads at once may lose one
// of their steps. Reads that are hedged are late, too: what a server that stalls does to
// the quantile is bounded by the median.
void ServerPool::NoteReadNs(uint64_t ns) noexcept {
  uint64_t median_ns = median_ns_.load(std::memory_order_relaxed);
  median_ns =
      std::max(kUs, ns > median_ns ? median_ns + median_ns / 64 : median_ns - median_ns / 64);
  median_ns_.store(median_ns, std::memory_order_relaxed);
  uint64_t late_ns = late_ns_.load(std::memory_order_relaxed);
  late_ns = ns > late_ns ? late_ns + 99 * late_ns / 1600 : late_ns - late_ns / 1600;
  const uint64_t most_ns = std::min(options_.dead_ms * 1'000'000 / 4, kMostMedians * median_ns);
  late_ns_.store(std::max(kLeastLateNs, std::min(late_ns, most_ns)), std::memory_order_relaxed);
}

uint32_t ServerPool::SlowCopies(const SlabCopies& copies) const noexcept {
  if (options_.copies == 1) return 0;
  const uint64_t now = NowNs();
  const uint64_t limit_ns = kSlowFactor * late_ns_.load(std::memory_order_relaxed);
  uint32_t slow = 0;
  for (uint32_t copy = 0; copy < kMaxCopies; ++copy) {
    if (copies[copy].state != SlabCopy::State::kLive) continue;
    const uint64_t since = links_[copies[copy].server]->lane(Lane::kDemand).waiting_since_ns();
    if (since != 0 && now > since + limit_ns) slow |= 1u << copy;
  }
  return slow;
}

ServerLane* ServerPool::Hedge(IoRequest& request) noexcept {
  Message* hedge;
  {
    LockGuard guard(messages_lock_);
    auto* const message = static_cast<Message*>(request.read);
    // In its lane it stays until it ends, and for that it has to have the lock.
    if (message == nullptr || message->twin != nullptr || free_messages_ == nullptr ||
        free_hedges_ == 0 || !LaneOf(*message).Has(*message)) {
      return nullptr;
    }
    const SlabCopies copies = map_.Copies(message->index);
    const uint32_t asked = request.avoid | message->tried | 1u << message->copy;
    const int other = LiveCopy(copies, message->index, asked | SlowCopies(copies));
    if (other < 0) return nullptr;
    hedge = std::exchange(free_messages_, free_messages_->next);
    hedge->parent = message->parent;
    hedge->index = message->index;
    hedge->lane = message->lane;
    hedge->attempts = hedge->tried = 0;
    hedge->op = message->op;
    hedge->first = message->first;
    hedge->pages = message->pages;
    Aim(*hedge, copies, static_cast<uint32_t>(other));
    hedge->hedge = static_cast<int8_t>(std::countr_zero(free_hedges_));
    hedge->memory = hedge_memory_.data() + (size_t(hedge->hedge) << kPageShift);
    free_hedges_ &= free_hedges_ - 1;
    hedge->twin = message;
    message->twin = hedge;
  }
  ServerLane& lane = LaneOf(*hedge);
  if (lane.Submit(*hedge) == IoResult::kOk) {
    hedged_reads_.fetch_add(1, std::memory_order_relaxed);
    return &lane;
  }
  bool alone = false;
  {
    LockGuard guard(messages_lock_);
    alone = !hedge->orphan && hedge->twin == nullptr;
    if (hedge->twin != nullptr) hedge->twin->twin = nullptr;
  }
  if (alone) {
    Launch(*hedge);  // The first has failed meanwhile: this is all that is left of the read.
  } else {
    GiveMessage(*hedge);
  }
  return nullptr;
}

bool ServerPool::SettleHedge(Message& message) noexcept {
  const bool good = message.result == WireStatus::kOk;
  messages_lock_.lock();
  Message* twin = message.twin;
  // While bytes of the late answer are coming in they would meet those of this one: some
  // microseconds, after which it may have been the first.
  const bool wins_late = good && message.hedge >= 0;
  while (wins_late && twin != nullptr && !LaneOf(*twin).Redirect(*twin, Nowhere())) {
    messages_lock_.unlock();
    sched_yield();
    messages_lock_.lock();
    twin = message.twin;
  }
  if (twin != nullptr) {
    message.twin = twin->twin = nullptr;
    twin->orphan = good;
    // The request's one part becomes that of the one that it is to end with.
    if (good == (message.hedge >= 0)) {
      const Message& from = good ? *twin : message;
      const Message& to = good ? message : *twin;
      to.parent->servers[to.copy] = to.server;
      to.parent->parts.fetch_add(Parts(to.copy, 1) - Parts(from.copy, 1),
                                 std::memory_order_acq_rel);
    }
  }
  const bool orphan = message.orphan;
  // Whoever goes on alone is not asked of a third server.
  if (!orphan) message.parent->read = nullptr;
  messages_lock_.unlock();

  if (orphan || (twin != nullptr && !good)) {
    GiveMessage(message);
    return false;
  }
  if (wins_late) {
    std::memcpy(message.parent->memory, message.memory, kPageSize);
    if (twin != nullptr) hedges_won_.fetch_add(1, std::memory_order_relaxed);
  }
  return true;
}

}  // namespace spiritos
