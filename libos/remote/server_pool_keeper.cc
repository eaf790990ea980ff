// SPDX-License-Identifier: Apache-2.0
// The keeper of a pool: places slabs, gives them back, reconnects, declares dead.
#include <fmt/core.h>
#include <pthread.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "libos/base/clock.h"
#include "libos/base/log.h"
#include "libos/base/status.h"
#include "libos/remote/server_pool.h"

namespace spiritos {
namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kTickNs = 100 * kMs;
constexpr uint64_t kSoonNs = 10 * kMs;
// One question, one connection: what a server on any sane network answers in.
constexpr uint64_t kAnswerNs = 300 * kMs;
constexpr uint64_t kFirstConnectNs = 5'000 * kMs;
constexpr uint64_t kMinBackOffNs = 20 * kMs;
constexpr uint64_t kMaxBackOffNs = 1'000 * kMs;
constexpr uint64_t kMaxSlabs = uint64_t{1} << 16;  // 4 TiB.

}  // namespace

ServerPool::ServerPool(Options options) : options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<ServerPool>> ServerPool::Create(Options options) {
  if (options.copies == 0 || options.copies > kMaxCopies) {
    return InvalidArgument("{} copies of a page are not 1 to {} (SPIRITOS_DURABILITY)",
                           options.copies, kMaxCopies);
  }
  if (options.servers.size() < options.copies) {
    return InvalidArgument("{} copies need as many servers, not {} (SPIRITOS_POOL)", options.copies,
                           options.servers.size());
  }
  std::unique_ptr<ServerPool> pool(new ServerPool(std::move(options)));
  SPIRITOS_RETURN_IF_ERROR(pool->Start());
  return pool;
}

absl::Status ServerPool::Start() {
  if (getrandom(client_.data(), client_.size(), 0) < 0) {
    return ErrnoStatus(errno, "naming the space");
  }
  SPIRITOS_RETURN_IF_ERROR(map_.Init(kMaxSlabs));
  SPIRITOS_RETURN_IF_ERROR(desk_.Init(kMaxSlabs));
  messages_ = std::vector<Message>(kMessages);
  for (Message& message : messages_) GiveMessage(message);
  tending_.resize(options_.servers.size());
  placed_slabs_.resize(options_.servers.size());
  ServerLane::Sink& sink = *this;
  for (const ServerAddress& address : options_.servers) {
    links_.push_back(std::make_unique<ServerLink>(address, client_, options_.tenant, sink));
    SPIRITOS_RETURN_IF_ERROR(links_.back()->Connect(NowNs() + kFirstConnectNs));
  }
  uint64_t slabs = 0;
  for (const auto& link : links_) slabs += link->welcome().free_slabs;
  capacity_ =
      options_.capacity.raw() != 0 ? options_.capacity : Bytes(slabs / options_.copies * kSlabSize);
  keeper_ = std::thread(&ServerPool::Keep, this);
  return absl::OkStatus();
}

ServerPool::~ServerPool() {
  stopping_.store(true);
  desk_.Call();
  if (keeper_.joinable()) keeper_.join();
}

void ServerPool::Keep() {
  pthread_setname_np(pthread_self(), "spiritos-keeper");
  while (true) {
    const uint32_t calls = desk_.calls();
    const bool last = stopping_.load();
    const uint64_t now = NowNs();
    for (uint16_t server = 0; server < links_.size(); ++server) TendLink(server, now);
    BuryOrphans();
    ReleaseUnused();
    if (last) return;
    const bool all = desk_.AnswerWanted([this](uint64_t index) { return PlaceCopies(index); });
    desk_.AwaitCall(calls, all ? kTickNs : kSoonNs);
  }
}

void ServerPool::TendLink(uint16_t server, uint64_t now_ns) {
  ServerLink& link = *links_[server];
  Tending& tending = tending_[server];
  if (link.state() == ServerLink::State::kLost) return;
  const auto overdue_ns = [&] {
    uint64_t oldest = UINT64_MAX;
    for (const Lane lane : {Lane::kDemand, Lane::kPrefetch, Lane::kWriteBack}) {
      const uint64_t submitted = link.lane(lane).oldest_ns();
      if (submitted != 0) oldest = std::min(oldest, submitted);
    }
    return oldest > now_ns ? 0 : now_ns - oldest;
  };
  const uint64_t patience_ms = options_.copies > 1 ? options_.dead_ms : options_.give_up_ms;
  if (overdue_ns() > patience_ms * kMs) {
    return LoseServer(server, fmt::format("no answer for {} ms", patience_ms));
  }
  if (!link.needs_connecting()) {
    tending.back_off_ns = 0;
    if (now_ns - tending.pinged_ns > uint64_t{link.welcome().lease_ms} * kMs / 8) {
      tending.pinged_ns = now_ns;
      static_cast<void>(link.Ping(now_ns + kAnswerNs));  // A failure is a broken connection.
    }
    return;
  }
  if (now_ns < tending.next_try_ns) return;
  const absl::Status status = link.Connect(NowNs() + kAnswerNs);
  if (status.ok()) {
    tending.back_off_ns = 0;
    return;
  }
  if (absl::IsDataLoss(status)) return LoseServer(server, std::string(status.message()));
  tending.back_off_ns = std::clamp(2 * tending.back_off_ns, kMinBackOffNs, kMaxBackOffNs);
  tending.next_try_ns = NowNs() + tending.back_off_ns;
}

void ServerPool::LoseServer(uint16_t server, std::string_view why) {
  uint64_t slabs = 0;
  uint64_t lost = 0;
  for (uint64_t index = 0; index < desk_.used(); ++index) {
    SlabCopies copies = map_.Copies(index);
    bool held = false;
    bool others = false;
    for (SlabCopy& copy : copies) {
      const bool alive = copy.state == SlabCopy::State::kLive;
      if (copy.state != SlabCopy::State::kNone && copy.server == server) {
        copy.state = SlabCopy::State::kDead;
        held = true;
      } else {
        others = others || alive;
      }
    }
    if (!held) continue;
    map_.SetCopies(index, copies);
    ++slabs;
    lost += others ? 0 : 1;
  }
  LogWarning(fmt::format("memory server {} is given up: {}; it held {} slabs, {} of them only it",
                         links_[server]->address().ToString(), why, slabs, lost));
  // After the map: what ends now must not count on the dead copies.
  links_[server]->Lose(WireStatus::kNoSlab);
}

void ServerPool::BuryOrphans() {
  while (true) {
    Message* message;
    {
      LockGuard guard(messages_lock_);
      message = orphans_;
      if (message == nullptr) return;
      orphans_ = message->next;
    }
    SlabCopies copies = map_.Copies(message->index);
    SlabCopy& copy = copies[message->copy];
    if (copy.slab == message->slab && copy.state != SlabCopy::State::kDead) {
      LogWarning(
          fmt::format("memory server {} refuses a write: {}; its copy of slab {} is given up",
                      links_[copy.server]->address().ToString(), WireStatusName(message->result),
                      message->index));
      copy.state = SlabCopy::State::kDead;
      map_.SetCopies(message->index, copies);
    }
    EndMessage(*message, false);
  }
}

SlabDesk::Stage ServerPool::PlaceCopies(uint64_t index) {
  SlabCopies copies = map_.Copies(index);  // Some may be there from the last time.
  uint32_t placed = 0;
  while (placed < kMaxCopies && copies[placed].state != SlabCopy::State::kNone) ++placed;
  bool soon = false;
  // Servers with the most room first: their order changes as they fill.
  std::vector<uint16_t> order(links_.size());
  for (uint16_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](uint16_t a, uint16_t b) { return placed_slabs_[a] < placed_slabs_[b]; });
  for (const uint16_t server : order) {
    if (placed == options_.copies) break;
    ServerLink& link = *links_[server];
    const bool has_one = std::any_of(copies.begin(), copies.end(), [&](const SlabCopy& copy) {
      return copy.state != SlabCopy::State::kNone && copy.server == server;
    });
    if (has_one || link.state() == ServerLink::State::kLost) continue;
    FrameHeader question;
    question.op = WireOp::kPlace;
    const absl::StatusOr<FrameHeader> answer = link.Ask(question, NowNs() + kAnswerNs);
    if (!answer.ok() || answer->status != WireStatus::kOk) {
      soon = soon || !answer.ok() || answer->argument != 0;
      continue;
    }
    copies[placed++] = {SlabCopy::State::kLive, server, answer->epoch, answer->slab};
    ++placed_slabs_[server];
  }
  map_.SetCopies(index, copies);
  if (placed == options_.copies) return SlabDesk::Stage::kPlaced;
  return soon ? SlabDesk::Stage::kWanted : SlabDesk::Stage::kRefused;
}

void ServerPool::ReleaseUnused() {
  for (uint64_t index = 0; index < desk_.used(); ++index) {
    if (desk_.StageOf(index) != SlabDesk::Stage::kReleasing) continue;
    SlabCopies copies = map_.Copies(index);
    bool all = true;
    for (SlabCopy& copy : copies) {
      ServerLink& link = *links_[copy.server];
      if (copy.state == SlabCopy::State::kNone) continue;
      if (link.state() != ServerLink::State::kLost) {
        FrameHeader question;
        question.op = WireOp::kRelease;
        question.slab = copy.slab;
        if (!link.Ask(question, NowNs() + kAnswerNs).ok()) {
          all = false;  // Again, when it is connected.
          continue;
        }
      }
      --placed_slabs_[copy.server];
      copy = {};
    }
    map_.SetCopies(index, copies);
    if (all) desk_.Free(index);
  }
}

}  // namespace spiritos
