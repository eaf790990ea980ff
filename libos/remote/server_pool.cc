// SPDX-License-Identifier: Apache-2.0
// Requests to messages, messages to lanes, and what their ends come to.
#include "libos/remote/server_pool.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "libos/base/copy.h"
#include "libos/base/failpoint.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

constexpr uint64_t kMs = 1'000'000;
// For a slab that can do without servers at first.
constexpr uint64_t kBackedPatienceNs = 500 * kMs;
// Sends of one message from a buffer before its failure counts.
constexpr uint8_t kAttempts = 2;
constexpr size_t kBounceBytes = size_t{kMaxWirePages} << kPageShift;

}  // namespace

int ServerPool::LiveCopy(const SlabCopies& copies, uint64_t index, uint32_t avoid) noexcept {
  for (uint32_t i = 0; i < kMaxCopies; ++i) {
    const uint32_t copy = (i + static_cast<uint32_t>(index)) % kMaxCopies;  // Spreads reads.
    const bool live = copies[copy].state == SlabCopy::State::kLive;
    if (live && (avoid >> copy & 1) == 0) return static_cast<int>(copy);
  }
  return -1;
}

void ServerPool::Aim(Message& message, const SlabCopies& copies, uint32_t copy) noexcept {
  message.copy = static_cast<uint8_t>(copy);
  message.server = copies[copy].server;
  message.slab = copies[copy].slab;
  message.epoch = copies[copy].epoch;
  message.key = copies[copy].key;
}

ServerPool::Message* ServerPool::TakeMessages(uint32_t count) noexcept {
  LockGuard guard(messages_lock_);
  Message* const first = free_messages_;
  Message* last = first;
  for (uint32_t i = 1; last != nullptr && i < count; ++i) last = last->next;
  if (last == nullptr) return nullptr;
  free_messages_ = last->next;
  last->next = nullptr;
  return first;
}

void ServerPool::GiveMessage(Message& message) noexcept {
  if (message.bounce >= 0) free_bounces_.fetch_or(1u << message.bounce, std::memory_order_release);
  message.bounce = -1;
  LockGuard guard(messages_lock_);
  if (message.hedge >= 0) free_hedges_ |= 1u << message.hedge;
  message.hedge = -1;
  message.orphan = false;
  message.twin = nullptr;
  Push(&free_messages_, message);
}

void ServerPool::Push(Message** list, Message& message) noexcept {
  message.next = *list;
  *list = &message;
}

bool ServerPool::IsInMap(const Message& message) const noexcept {
  const SlabCopy copy = map_.Copies(message.index)[message.copy];
  return copy.state != SlabCopy::State::kNone && copy.slab == message.slab;
}

// Sequentially consistent: either the keeper, who changes the map, then the era, then
// looks at the count, sees this write counted, or this write sees the new era.
uint8_t ServerPool::BeginWrite() noexcept {
  while (true) {
    const uint32_t era = era_.load(std::memory_order_seq_cst);
    writing_[era & 1].fetch_add(1, std::memory_order_seq_cst);
    if (era_.load(std::memory_order_seq_cst) == era) return era & 1;
    EndWrite(era & 1);
  }
}

void ServerPool::EndWrite(uint8_t era) noexcept {
  const bool last = writing_[era].fetch_sub(1, std::memory_order_seq_cst) == 1;
  if (last && draining_.load(std::memory_order_seq_cst)) desk_.Call();
}

IoResult ServerPool::Submit(IoRequest& request) noexcept {
  if (const int error = request.op == IoOp::kRead ? SPIRITOS_FAILPOINT(kBackendRead)
                                                  : SPIRITOS_FAILPOINT(kBackendWrite);
      error != 0) {
    request.Finish(error);
    return IoResult::kOk;
  }
  const uint64_t index = SlabMap::IndexOf(request.first);
  const bool writes = request.op == IoOp::kWrite;
  SPIRITOS_DCHECK(SlabMap::IndexOf(request.first + PageCount(request.pages - 1)) == index,
                  "a request crosses from slab {} to the next", index);
  const uint8_t era = writes ? BeginWrite() : 0;  // Before the map.
  const SlabCopies copies = map_.Copies(index);
  uint32_t targets = 0;
  if (writes) {
    for (uint32_t copy = 0; copy < kMaxCopies; ++copy) {
      if (copies[copy].state != SlabCopy::State::kNone) targets |= 1u << copy;
    }
  } else {
    // One may have answered, and nobody has looked.
    if (SlowCopies(copies) != 0) Poll(Lane::kDemand);
    int copy = LiveCopy(copies, index, request.avoid | SlowCopies(copies));
    if (copy < 0) copy = LiveCopy(copies, index, request.avoid);
    if (copy < 0) copy = LiveCopy(copies, index, 0);
    if (copy >= 0) targets = 1u << copy;
  }
  const uint32_t pieces = (request.pages + kMaxWirePages - 1) / kMaxWirePages;
  const auto copy_count = static_cast<uint32_t>(std::popcount(targets));
  Message* message = targets == 0 ? nullptr : TakeMessages(pieces * copy_count);
  if (message == nullptr) {
    if (writes) EndWrite(era);
    if (targets != 0) return IoResult::kBusy;
    request.Finish(EHOSTUNREACH);  // No copy is left.
    return IoResult::kOk;
  }

  request.status.store(IoStatus::kPending, std::memory_order_relaxed);
  request.targets = static_cast<uint8_t>(targets);
  request.era = era;
  request.sources.store(0, std::memory_order_relaxed);
  request.failed.store(0, std::memory_order_relaxed);
  uint32_t parts = 0;
  for (uint32_t copy = 0; copy < kMaxCopies; ++copy) {
    if ((targets >> copy & 1) != 0) parts |= Parts(copy, pieces);
    request.servers[copy] = copies[copy].server;
  }
  request.parts.store(parts, std::memory_order_relaxed);
  request.read = MayHedge(request) ? message : nullptr;
  if (request.read != nullptr) request.asked_ns = NowNs();
  const auto first = static_cast<uint32_t>(request.first.raw() % kSlabPages);
  for (uint32_t copy = 0; copy < kMaxCopies; ++copy) {
    if ((targets >> copy & 1) == 0) continue;
    for (uint32_t piece = 0; piece < pieces; ++piece) {
      Message* const next = message->next;
      const uint32_t offset = piece * kMaxWirePages;
      message->parent = &request;
      message->index = index;
      message->lane = request.lane;
      Aim(*message, copies, copy);
      message->attempts = message->tried = 0;
      message->op = request.op;
      message->first = first + offset;
      message->pages = std::min(request.pages - offset, kMaxWirePages);
      message->memory = request.memory + (size_t{offset} << kPageShift);
      for (uint32_t i = 0; writes && i < message->pages; ++i) {
        const std::byte* const page = message->memory + (size_t{i} << kPageShift);
        message->trailers[i] = {request.versions[offset + i], Crc32c({page, kPageSize})};
      }
      // From the last one's launch on the request may be final.
      Launch(*message);
      message = next;
    }
  }
  return IoResult::kOk;
}

void ServerPool::Launch(Message& message) noexcept {
  switch (LaneOf(message).Submit(message)) {
    case IoResult::kOk:
      return;
    case IoResult::kBusy: {
      const auto lane = static_cast<size_t>(message.lane);
      LockGuard guard(messages_lock_);
      Push(&deferred_[lane], message);
      deferred_count_[lane].fetch_add(1, std::memory_order_relaxed);
      return;
    }
    default:
      message.result = WireStatus::kUnreachable;
      return OnFinal(message);
  }
}

void ServerPool::LaunchDeferred(Lane lane) noexcept {
  const auto l = static_cast<size_t>(lane);
  uint32_t tries = deferred_count_[l].load(std::memory_order_relaxed);
  for (; tries != 0; --tries) {
    Message* message;
    {
      LockGuard guard(messages_lock_);
      message = deferred_[l];
      if (message == nullptr) return;
      deferred_[l] = message->next;
      deferred_count_[l].fetch_sub(1, std::memory_order_relaxed);
    }
    Launch(*message);
  }
}

void ServerPool::OnFinal(LaneRequest& request) noexcept {
  auto& message = static_cast<Message&>(request);
  const bool demanded = message.op == IoOp::kRead && message.lane == Lane::kDemand;
  if (options_.copies > 1 && demanded && !SettleHedge(message)) return;
  if (message.result == WireStatus::kOk) return EndMessage(message, true);
  if (message.op == IoOp::kRead) return OnReadFailed(message);
  OnWriteFailed(message);
}

void ServerPool::OnReadFailed(Message& message) noexcept {
  // A copy that has moved away is not to blame, and another may have its place by now.
  if (IsInMap(message)) message.tried |= static_cast<uint8_t>(1u << message.copy);
  const SlabCopies copies = map_.Copies(message.index);
  const int other = LiveCopy(copies, message.index, message.tried);
  if (other < 0) {
    const bool waits = message.result == WireStatus::kUnreachable && IsInMap(message);
    return waits ? Stall(message) : EndMessage(message, false);
  }
  // Still one part of the request, but of another copy.
  IoRequest& parent = *message.parent;
  const uint32_t from = message.copy;
  Aim(message, copies, static_cast<uint32_t>(other));
  parent.servers[message.copy] = message.server;
  parent.parts.fetch_add(Parts(message.copy, 1) - Parts(from, 1), std::memory_order_acq_rel);
  Launch(message);
}

void ServerPool::OnWriteFailed(Message& message) noexcept {
  if (message.result == WireStatus::kUnreachable) {
    unreachable_writes_.fetch_add(1, std::memory_order_relaxed);
  }
  if (message.result == WireStatus::kDamaged && message.attempts < kAttempts) {
    // Without a free buffer it is tried again later: the copy is none the worse for it.
    if (!CopyToBounce(message)) return Stall(message);
    ++message.attempts;
    return Launch(message);
  }
  if (!IsInMap(message)) return EndMessage(message, false);
  if (message.result == WireStatus::kUnreachable) return Stall(message);
  if (std::popcount(uint32_t{message.parent->targets}) == 1) return EndMessage(message, false);
  // Before the write may count without it, the copy has to leave the map.
  {
    LockGuard guard(messages_lock_);
    Push(&refused_, message);
  }
  desk_.Call();
}

void ServerPool::Stall(Message& message) noexcept {
  LockGuard guard(messages_lock_);
  Push(&stalled_, message);
}

// A page that is stored into while it travels, as it is rescued, does not match its CRC.
// Its bytes mean nothing any more, but those of the message's other pages do: it goes
// once more, from where nobody stores.
bool ServerPool::CopyToBounce(Message& message) noexcept {
  if (message.bounce >= 0) return true;
  uint32_t free = free_bounces_.load(std::memory_order_relaxed);
  do {
    if (free == 0) return false;
  } while (!free_bounces_.compare_exchange_weak(free, free & (free - 1), std::memory_order_acquire,
                                                std::memory_order_relaxed));
  message.bounce = static_cast<int8_t>(std::countr_zero(free));
  std::byte* const to = bounce_memory_.data() + size_t(message.bounce) * kBounceBytes;
  for (uint32_t i = 0; i < message.pages; ++i) {
    std::byte* const page = to + (size_t{i} << kPageShift);
    CopyWhileStored(page, message.memory + (size_t{i} << kPageShift), kPageSize);
    message.trailers[i].crc = Crc32c({page, kPageSize});
  }
  message.memory = to;
  return true;
}

void ServerPool::EndMessage(Message& message, bool good) noexcept {
  IoRequest& parent = *message.parent;
  const uint32_t copy = message.copy;
  GiveMessage(message);
  if (!good) {
    // A read has asked all copies; a write stands where another copy has all of it.
    const uint32_t failed = parent.op == IoOp::kRead ? 0xFF : 1u << copy;
    parent.failed.fetch_or(static_cast<uint8_t>(failed), std::memory_order_relaxed);
  } else if (parent.op == IoOp::kRead) {
    parent.sources.fetch_or(static_cast<uint8_t>(1u << copy), std::memory_order_relaxed);
  }
  // Acquire and release: the last one sees what the others wrote.
  if (parent.parts.fetch_sub(Parts(copy, 1), std::memory_order_acq_rel) != Parts(copy, 1)) return;
  if (parent.op == IoOp::kWrite) EndWrite(parent.era);
  const uint32_t failed = parent.failed.load(std::memory_order_relaxed);
  parent.Finish((parent.targets & ~failed) != 0 ? 0 : EIO);
}

bool ServerPool::Poll(Lane lane) noexcept {
  LaunchDeferred(lane);
  bool finished = false;
  for (const auto& link : links_) finished = link->lane(lane).Poll() || finished;
  return finished;
}

void ServerPool::Wait(IoRequest& request) noexcept {
  constexpr uint64_t kTurnNs = 100 * kMs;
  // Of a second server, which is likely first; the first one's answer is looked for so often.
  constexpr uint64_t kHedgedTurnNs = kMs / 10;
  const Lane lane = request.lane;
  if (request.final()) return;
  const bool may_hedge = MayHedge(request);
  uint64_t hedge_at =
      may_hedge ? request.asked_ns + late_ns_.load(std::memory_order_relaxed) : UINT64_MAX;
  ServerLane* second = nullptr;
  const auto final = [&] { return request.final(); };
  while (!request.final()) {
    LaunchDeferred(lane);
    const uint64_t now = NowNs();
    if (now >= hedge_at) {
      Poll(lane);
      second = Hedge(request);
      // The other server may be slow at the moment, too.
      hedge_at =
          second != nullptr ? UINT64_MAX : now + 4 * late_ns_.load(std::memory_order_relaxed);
    }
    if (second != nullptr) {
      Poll(lane);
      second->Wait(final, now + kHedgedTurnNs);
      continue;
    }
    const uint32_t parts = request.parts.load(std::memory_order_acquire);
    for (uint32_t copy = 0; copy < kMaxCopies; ++copy) {
      const uint32_t waiting = PartsOf(parts, copy);
      if (waiting == 0) continue;
      // Until something of it has moved: the rest may be another lane's.
      const auto moved = [&] {
        return request.final() ||
               PartsOf(request.parts.load(std::memory_order_acquire), copy) != waiting;
      };
      links_[request.servers[copy]]->lane(lane).Wait(moved, std::min(now + kTurnNs, hedge_at));
      break;
    }
  }
  if (may_hedge) NoteReadNs(NowNs() - request.asked_ns);
}

IoResult ServerPool::PlaceSlab(SlotId* first) noexcept {
  uint64_t index;
  const IoResult result =
      desk_.Await(&index, options_.backed ? kBackedPatienceNs : SlabDesk::kPatienceNs);
  if (result != IoResult::kOk) return result;
  backed_[index].store(false, std::memory_order_relaxed);  // Of the one that was there before.
  *first = SlabMap::FirstSlot(index);
  return IoResult::kOk;
}

void ServerPool::ReleaseSlab(SlotId first) noexcept { desk_.Release(SlabMap::IndexOf(first)); }

Bytes ServerPool::capacity() const { return capacity_; }

bool ServerPool::lost(SlotId first) const noexcept {
  const uint64_t index = SlabMap::IndexOf(first);
  return LiveCopy(map_.Copies(index), index, 0) < 0;
}

void ServerPool::SetBacked(SlotId first, bool backed) noexcept {
  backed_[SlabMap::IndexOf(first)].store(backed, std::memory_order_relaxed);
}

PoolHealth ServerPool::health() const noexcept {
  return {.degraded_slabs = degraded_slabs_.load(std::memory_order_relaxed),
          .lost_slabs = lost_slabs_.load(std::memory_order_relaxed),
          .mended_slabs = mended_slabs_.load(std::memory_order_relaxed),
          .moved_slabs = moved_slabs_.load(std::memory_order_relaxed),
          .hedged_reads = hedged_reads_.load(std::memory_order_relaxed),
          .hedges_won = hedges_won_.load(std::memory_order_relaxed)};
}

std::string ServerPool::description() const {
  std::string text = fmt::format("{} server{}", links_.size(), links_.size() == 1 ? "" : "s");
  if (options_.copies > 1) text += fmt::format(", {} copies of each slab", options_.copies);
  for (const auto& link : links_) text += fmt::format(" {}", link->address().ToString());
  return text;
}

}  // namespace spiritos
