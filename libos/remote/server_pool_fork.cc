// SPDX-License-Identifier: Apache-2.0
// fork(2) of a program whose memory is on servers.
//
//   parent   keeper at rest -> each server makes a client that has all our slabs -> fork
//   child    is that client -> new connections, new keeper
//
// Parent and child begin with one map and change it each for itself: what one moves or mends
// is its own from then on. While a slab has other holders neither writes to it, so that the
// copies of both stay equal. Servers are asked for holders at the keeper's leisure: a child
// that ends without a word has its references until its lease is over.
//
// Not with what is bound to the process: a TLS tunnel's thread, and queue pairs, whose keys
// are one client's.
#include <sys/random.h>

#include <algorithm>
#include <memory>

#include "libos/base/clock.h"
#include "libos/base/service_thread.h"
#include "libos/remote/server_pool.h"

namespace spiritos {
namespace {

constexpr uint64_t kAnswerNs = 300'000'000;
// Who shares a slab is of no hurry: a question for each copy of each slab.
constexpr uint64_t kHoldersNs = 500'000'000;
// The first version that knows of forks.
constexpr uint16_t kForkVersion = 4;

}  // namespace

bool ServerPool::MakeChildClient(uint16_t server) {
  ServerLink& link = *links_[server];
  if (link.state() == ServerLink::State::kLost) return !tending_[server].holds_last;
  if (link.needs_connecting()) Reconnect(server);
  if (link.state() != ServerLink::State::kUp || link.welcome().version < kForkVersion) {
    return false;
  }
  FrameHeader question;
  question.op = WireOp::kFork;
  PutForked(child_client_, &question);
  const absl::StatusOr<FrameHeader> answer = link.Ask(question, NowNs() + kAnswerNs);
  return answer.ok() && answer->status == WireStatus::kOk;
}

bool ServerPool::MakeChildClients() {
  const bool bound =
      options_.tunnel != nullptr || std::any_of(links_.begin(), links_.end(), [](const auto& link) {
        return link->address().kind != ServerAddress::Kind::kTcp;
      });
  if (bound || getrandom(child_client_.data(), child_client_.size(), 0) < 0) return false;
  for (uint16_t server = 0; server < links_.size(); ++server) {
    if (!MakeChildClient(server)) return false;  // Those that were made end with their leases.
  }
  return true;
}

ForkedSlots ServerPool::BeforeFork() noexcept {
  keeper_mutex_.lock();
  if (!MakeChildClients()) {
    keeper_mutex_.unlock();
    return ForkedSlots::kNone;
  }
  for (uint64_t index = 0; index < desk_.used(); ++index) {
    if (desk_.StageOf(index) == SlabDesk::Stage::kPlaced) shared_[index].store(true);
  }
  return ForkedSlots::kShared;
}

void ServerPool::AfterFork(bool child) noexcept {
  if (child) BecomeChild();
  keeper_mutex_.unlock();
}

void ServerPool::BecomeChild() {
  client_ = child_client_;
  MakeLinks();  // The parent's connections stay the parent's.
  for (Tending& tending : tending_) {
    tending = {.holds_last = tending.holds_last, .placed = tending.placed, .inherited = true};
  }
  // What is on its way, a read that nobody waits for any more, was the parent's.
  {
    LockGuard guard(messages_lock_);
    free_messages_ = nullptr;
    free_hedges_ = UINT32_MAX;
    deferred_.fill(nullptr);
    refused_ = stalled_ = nullptr;
  }
  free_bounces_.store((1u << kBounces) - 1);
  for (auto& count : deferred_count_) count.store(0);
  for (Message& message : messages_) {
    message = {};
    GiveMessage(message);
  }
  // So is the copy that is being made.
  for (uint64_t index = 0; index < desk_.used(); ++index) {
    const SlabCopies copies = map_.Copies(index);
    for (uint32_t copy = 0; copy < kMaxCopies; ++copy) {
      if (copies[copy].state == SlabCopy::State::kFilling) RemoveCopy(index, copy);
    }
  }
  copier_.AfterForkInChild();
  mending_ = {.degraded = mending_.degraded};
  draining_.store(false);
  for (auto& writing : writing_) writing.store(0);
  std::construct_at(&keeper_);  // A thread that is not there: nobody to join.
  keeper_ = StartServiceThread("spiritos-keeper", [this] { Keep(); });
}

bool ServerPool::HasOthers(const SlabCopies& copies) {
  return std::any_of(copies.begin(), copies.end(), [&](const SlabCopy& copy) {
    if (copy.state == SlabCopy::State::kNone) return false;
    FrameHeader question;
    question.op = WireOp::kHolders;
    question.slab = copy.slab;
    const auto answer = links_[copy.server]->Ask(question, NowNs() + kAnswerNs);
    return !answer.ok() || answer->status != WireStatus::kOk || answer->argument != 0;
  });
}

void ServerPool::AskForHolders(uint64_t now_ns) {
  if (now_ns < next_holders_ns_) return;
  next_holders_ns_ = now_ns + kHoldersNs;
  for (uint64_t index = 0; index < desk_.used(); ++index) {
    if (!shared_[index].load(std::memory_order_relaxed)) continue;
    if (desk_.StageOf(index) != SlabDesk::Stage::kPlaced) continue;
    if (!HasOthers(map_.Copies(index))) shared_[index].store(false, std::memory_order_release);
  }
}

}  // namespace spiritos
