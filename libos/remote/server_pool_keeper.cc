// SPDX-License-Identifier: Apache-2.0
// The keeper of a pool: places slabs, gives them back, reconnects, suspends and loses
// servers.
#include <fmt/core.h>
#include <pthread.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <utility>

#include "libos/base/clock.h"
#include "libos/base/log.h"
#include "libos/base/service_thread.h"
#include "libos/base/status.h"
#include "libos/remote/server_pool.h"

namespace spiritos {
namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kTickNs = 100 * kMs;
constexpr uint64_t kSoonNs = 10 * kMs;
// One question, one connection: what a server on any sane network answers in.
constexpr uint64_t kAnswerNs = 300 * kMs;
// A server that is short of memory is heard within so long.
constexpr uint64_t kPingNs = 1'000 * kMs;
constexpr uint64_t kFirstConnectNs = 5'000 * kMs;
constexpr uint64_t kMinBackOffNs = 20 * kMs;
constexpr uint64_t kMaxBackOffNs = 1'000 * kMs;
constexpr uint64_t kMaxSlabs = uint64_t{1} << 16;  // 4 TiB.

}  // namespace

ServerPool::ServerPool(Options options)
    : options_(std::move(options)), copier_([this] { desk_.Call(); }) {}

absl::StatusOr<std::unique_ptr<ServerPool>> ServerPool::Create(Options options) {
  if (options.copies == 0 || options.copies > kMaxCopies) {
    return InvalidArgument("{} copies of a page are not 1 to {} (SPIRITOS_DURABILITY)",
                           options.copies, kMaxCopies);
  }
  if (options.servers.size() < options.copies) {
    return InvalidArgument(
        "{} copies of a page need as many servers, not {} (SPIRITOS_DURABILITY, SPIRITOS_POOL)",
        options.copies, options.servers.size());
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
  backed_ = std::vector<std::atomic<bool>>(kMaxSlabs);
  shared_ = std::vector<std::atomic<bool>>(kMaxSlabs);
  SPIRITOS_ASSIGN_OR_RETURN(
      bounce_memory_, Mapping::Anonymous(Bytes(uint64_t{kBounces} * kMaxWirePages * kPageSize),
                                         kPageSize, "buffers of a pool"));
  SPIRITOS_ASSIGN_OR_RETURN(
      hedge_memory_,
      Mapping::Anonymous(Bytes((uint64_t{kHedges} + 1) * kPageSize), kPageSize, "late reads"));
  messages_ = std::vector<Message>(kMessages);
  for (Message& message : messages_) GiveMessage(message);
  tending_.resize(options_.servers.size());
  MakeLinks();
  std::set<WireId> hosts;
  uint64_t slabs = 0;
  for (const std::unique_ptr<ServerLink>& link : links_) {
    SPIRITOS_RETURN_IF_ERROR(link->Connect(NowNs() + kFirstConnectNs));
    hosts.insert(link->welcome().host);
    slabs += link->free_slabs();
  }
  if (hosts.size() < options_.copies) {
    return InvalidArgument(
        "{} copies of a page need servers on as many machines, and these are on {} (another "
        "SPIRITOS_POOL; or, where their failures are independent, spiritos memd --host NAME)",
        options_.copies, hosts.size());
  }
  capacity_ =
      options_.capacity.raw() != 0 ? options_.capacity : Bytes(slabs / options_.copies * kSlabSize);
  if (capacity_.raw() == 0) {
    return absl::ResourceExhaustedError(
        fmt::format("{} has room for {} slabs of 64 MiB, too few for {} of each (another server "
                    "in SPIRITOS_POOL, or more --memory there)",
                    description(), slabs, options_.copies));
  }
  keeper_ = StartServiceThread("spiritos-keeper", [this] { Keep(); });
  return absl::OkStatus();
}

void ServerPool::MakeLinks() {
  ServerLane::Sink& sink = *this;
  links_.clear();
  for (const ServerAddress& address : options_.servers) {
    links_.push_back(std::make_unique<ServerLink>(address, client_, options_.tenant, sink,
                                                  options_.tunnel.get()));
  }
}

ServerPool::~ServerPool() {
  stopping_.store(true);
  desk_.Call();
  if (keeper_.joinable()) keeper_.join();
}

void ServerPool::Keep() {
  while (true) {
    const uint32_t calls = desk_.calls();
    const bool last = stopping_.load();
    bool all;
    {
      LockGuard guard(keeper_mutex_);
      const uint64_t now = NowNs();
      for (uint16_t server = 0; server < links_.size(); ++server) FetchReplies(server, now);
      for (uint16_t server = 0; server < links_.size(); ++server) TendLink(server, now);
      DropRefused();
      RelaunchStalled();
      ReleaseUnused();
      if (last) return;
      all = desk_.AnswerWanted([this](uint64_t index) { return PlaceCopies(index); });
      Mend(now);
      AskForHolders(now);
    }
    desk_.AwaitCall(calls, all ? kTickNs : kSoonNs);
  }
}

// A reply that nobody has fetched, as nobody waits for it, is one all the same.
void ServerPool::FetchReplies(uint16_t server, uint64_t now_ns) {
  for (const Lane lane : {Lane::kDemand, Lane::kPrefetch, Lane::kWriteBack}) {
    ServerLane& of = links_[server]->lane(lane);
    const uint64_t since = of.waiting_since_ns();
    if (since != 0 && since + kTickNs / 2 < now_ns) of.Poll();
  }
}

// What a server has left unanswered for longest, or that it has not been there at all.
ServerPool::Silence ServerPool::SilenceOf(uint16_t server, uint64_t now_ns) const {
  static constexpr std::array<const char*, kLanes> kAnswers = {
      "no answer to a demand read", "no answer to a read ahead", "no answer to a write"};
  Silence silence;
  if (const uint64_t since = tending_[server].down_since_ns; since != 0) {
    silence = {now_ns - std::min(since, now_ns), "not connected"};
  }
  for (size_t lane = 0; lane < kLanes; ++lane) {
    const uint64_t since = links_[server]->lane(static_cast<Lane>(lane)).waiting_since_ns();
    if (since == 0 || now_ns - std::min(since, now_ns) <= silence.ns) continue;
    silence = {now_ns - since, kAnswers[lane]};
  }
  return silence;
}

void ServerPool::TendLink(uint16_t server, uint64_t now_ns) {
  ServerLink& link = *links_[server];
  Tending& tending = tending_[server];
  if (!link.needs_connecting()) {
    tending.down_since_ns = 0;
  } else if (tending.down_since_ns == 0) {
    tending.down_since_ns = now_ns;
  }
  const Silence silence = SilenceOf(server, now_ns);
  if (link.state() == ServerLink::State::kLost) {
    if (tending.holds_last)
      tending.holds_last = RemoveCopies(server, Which::kReplaceable).kept != 0;
  } else if (silence.ns > options_.give_up_ms * kMs ||
             (silence.ns > PatienceNs(server) && CanDoWithout(server))) {
    SuspendServer(server, fmt::format("{} for {} ms{}{}", silence.what, silence.ns / kMs,
                                      tending.error.empty() ? "" : ", ", tending.error));
  }
  if (tending.holds_last && silence.ns > options_.give_up_ms * kMs) {
    const Removed removed = RemoveCopies(server, Which::kAll);
    tending.holds_last = false;
    LogWarning(fmt::format("memory server {} does not come back: {} slabs are lost with it",
                           link.address().ToString(), removed.lost));
  }
  if (link.needs_connecting()) {
    tending.asked_back = 0;
    if (now_ns >= tending.next_try_ns) Reconnect(server);
    return;
  }
  ReleaseBuried(server);
  if (now_ns - tending.pinged_ns > std::min(uint64_t{link.welcome().lease_ms} * kMs / 8, kPingNs)) {
    Ping(server, now_ns);
  }
}

void ServerPool::Ping(uint16_t server, uint64_t now_ns) {
  Tending& tending = tending_[server];
  tending.pinged_ns = now_ns;
  tending.asked_back = 0;
  ServerLink& link = *links_[server];
  if (!link.Ping(now_ns + kAnswerNs).ok()) return;  // A broken connection.
  const auto buried = static_cast<uint64_t>(std::count_if(
      buried_.begin(), buried_.end(), [&](const Grave& grave) { return grave.server == server; }));
  tending.asked_back = link.slabs_asked_back() - std::min(link.slabs_asked_back(), buried);
}

void ServerPool::Reconnect(uint16_t server) {
  ServerLink& link = *links_[server];
  Tending& tending = tending_[server];
  bool was_lost = link.state() == ServerLink::State::kLost;
  absl::Status status = link.Connect(NowNs() + kAnswerNs);
  if (absl::IsDataLoss(status)) {
    SuspendServer(server, std::string(status.message()));
    was_lost = true;
    status = link.Connect(NowNs() + kAnswerNs);
  }
  tending.refused = absl::IsUnavailable(status);
  tending.error = std::string(status.message());
  if (tending.incarnation != link.incarnation()) {
    tending.incarnation = link.incarnation();
    const Removed removed = RemoveCopies(server, Which::kAll);
    if (removed.lost != 0) {
      LogWarning(fmt::format("memory server {} has come back without our slabs: {} are {}",
                             link.address().ToString(), removed.lost,
                             options_.backed ? "in the backup alone" : "lost"));
    }
    std::erase_if(buried_, [server](const Grave& grave) { return grave.server == server; });
    tending.placed = 0;
  }
  if (!status.ok()) {
    tending.back_off_ns = std::clamp(2 * tending.back_off_ns, kMinBackOffNs, kMaxBackOffNs);
    tending.next_try_ns = NowNs() + tending.back_off_ns;
    return;
  }
  if (std::exchange(tending.inherited, false) && link.welcome().slabs < tending.placed) {
    const Removed removed = RemoveCopies(server, Which::kAll);
    LogWarning(fmt::format("memory server {} does not know the slabs of our parent: {} are lost",
                           link.address().ToString(), removed.lost));
  }
  if (was_lost) LogWarning(fmt::format("memory server {} is back", link.address().ToString()));
  tending.back_off_ns = 0;
  tending.down_since_ns = 0;
  tending.holds_last = false;
  mending_.next_try_ns = 0;  // It may take copies.
}

void ServerPool::SuspendServer(uint16_t server, std::string_view why) {
  ServerLink& link = *links_[server];
  Tending& tending = tending_[server];
  const Removed removed = RemoveCopies(server, Which::kReplaceable);
  tending.holds_last = removed.kept != 0;
  if (tending.down_since_ns == 0) tending.down_since_ns = NowNs() - SilenceOf(server, NowNs()).ns;
  // After the map: what ends now must not count on the copies.
  const uint64_t before = unreachable_writes_.load(std::memory_order_relaxed);
  link.Lose();
  LogWarning(fmt::format(
      "memory server {} is suspended: {}; {} slabs go on without their copies there, {} wait for "
      "it; {} writes were unacknowledged",
      link.address().ToString(), why, removed.copies, removed.kept,
      unreachable_writes_.load(std::memory_order_relaxed) - before));
}

// Nobody listens where a process has died: no need to doubt it for long.
uint64_t ServerPool::PatienceNs(uint16_t server) const {
  return options_.dead_ms * kMs / (tending_[server].refused ? 4 : 1);
}

// Whether another server that answers has all of the slab, or a backup.
bool ServerPool::IsReplaceable(uint64_t index, const SlabCopies& copies, uint16_t server) {
  if (backed_[index].load(std::memory_order_relaxed)) return true;
  const uint64_t now = NowNs();
  return std::any_of(copies.begin(), copies.end(), [&](const SlabCopy& copy) {
    return copy.state == SlabCopy::State::kLive && copy.server != server &&
           links_[copy.server]->state() == ServerLink::State::kUp &&
           SilenceOf(copy.server, now).ns < options_.dead_ms * kMs / 2;
  });
}

// If all servers of a slab are silent, the first that answers shows who is dead.
bool ServerPool::CanDoWithout(uint16_t server) {
  bool needed = false;
  for (uint64_t index = 0; index < desk_.used(); ++index) {
    const SlabCopies copies = map_.Copies(index);
    const bool here = std::any_of(copies.begin(), copies.end(), [&](const SlabCopy& copy) {
      return copy.state != SlabCopy::State::kNone && copy.server == server;
    });
    if (here && IsReplaceable(index, copies, server)) return true;
    needed = needed || here;
  }
  return !needed && (options_.copies > 1 || options_.backed);
}

ServerPool::Removed ServerPool::RemoveCopies(uint16_t server, Which which) {
  Removed removed;
  for (uint64_t index = 0; index < desk_.used(); ++index) {
    const SlabCopies copies = map_.Copies(index);
    const bool replaceable = IsReplaceable(index, copies, server);
    const bool last = std::none_of(copies.begin(), copies.end(), [&](const SlabCopy& copy) {
      return copy.state == SlabCopy::State::kLive && copy.server != server;
    });
    for (uint32_t copy = 0; copy < kMaxCopies; ++copy) {
      if (copies[copy].state == SlabCopy::State::kNone || copies[copy].server != server) continue;
      if (which == Which::kReplaceable && !replaceable) {
        ++removed.kept;
        continue;
      }
      ++removed.copies;
      removed.lost += last ? 1 : 0;
      RemoveCopy(index, copy);
    }
  }
  return removed;
}

void ServerPool::RemoveCopy(uint64_t index, uint32_t copy) {
  SlabCopies copies = map_.Copies(index);
  const bool was_whole = options_.copies > 1 && copies[copy].state == SlabCopy::State::kLive &&
                         LiveCopies(copies) == options_.copies &&
                         desk_.StageOf(index) == SlabDesk::Stage::kPlaced;
  if (was_whole) {
    degraded_slabs_.fetch_add(1, std::memory_order_relaxed);
    mending_.degraded = true;
  }
  Bury(copies[copy]);
  copies[copy] = {};
  map_.SetCopies(index, copies);
  mending_.stale = true;
}

void ServerPool::Bury(const SlabCopy& copy) {
  buried_.push_back({copy.server, copy.slab});
  Tending& tending = tending_[copy.server];
  --tending.placed;
  if (tending.asked_back != 0) --tending.asked_back;
}

void ServerPool::ReleaseBuried(uint16_t server) {
  ServerLink& link = *links_[server];
  std::erase_if(buried_, [&](const Grave& grave) {
    if (grave.server != server || link.state() != ServerLink::State::kUp) return false;
    FrameHeader question;
    question.op = WireOp::kRelease;
    question.slab = grave.slab;
    if (!link.Ask(question, NowNs() + kAnswerNs).ok()) return false;  // When it is connected.
    full_until_ns_ = 0;
    return true;
  });
}

void ServerPool::DropRefused() {
  while (true) {
    Message* message;
    {
      LockGuard guard(messages_lock_);
      message = refused_;
      if (message == nullptr) return;
      refused_ = message->next;
    }
    const SlabCopies copies = map_.Copies(message->index);
    const auto is_other_live = [&](const SlabCopy& copy) {
      return copy.state == SlabCopy::State::kLive && copy.slab != message->slab;
    };
    const bool is_other = std::any_of(copies.begin(), copies.end(), is_other_live);
    // That a copy which is being filled has it helps no reader.
    if (IsInMap(*message) && !is_other) message->parent->failed.store(0xFF);
    if (IsInMap(*message) && is_other) {
      LogWarning(
          fmt::format("memory server {} refuses a write ({}): its copy of slab {} is given up",
                      links_[copies[message->copy].server]->address().ToString(),
                      WireStatusName(message->result), message->index));
      RemoveCopy(message->index, message->copy);
    }
    EndMessage(*message, false);
  }
}

// Whether each still waits is decided anew, by sending it.
void ServerPool::RelaunchStalled() {
  Message* message;
  {
    LockGuard guard(messages_lock_);
    message = std::exchange(stalled_, nullptr);
  }
  while (message != nullptr) {
    Message* const next = message->next;
    message->tried = 0;
    message->result = WireStatus::kUnreachable;
    IsInMap(*message) ? Launch(*message) : OnFinal(*message);
    message = next;
  }
}

// Those that may take one more copy, the best first.
std::vector<uint16_t> ServerPool::ServersBeside(const SlabCopies& copies) const {
  const auto hosted = [&](const WireId& host) {
    return std::any_of(copies.begin(), copies.end(), [&](const SlabCopy& copy) {
      return copy.state != SlabCopy::State::kNone && links_[copy.server]->welcome().host == host;
    });
  };
  std::vector<uint16_t> order;
  for (uint16_t server = 0; server < links_.size(); ++server) {
    const bool up = links_[server]->state() == ServerLink::State::kUp;
    if (up && !hosted(links_[server]->welcome().host)) order.push_back(server);
  }
  // Servers that hold none of ours first (Infiniswap, section 4.3, spreads likewise), then
  // those with the most room.
  std::stable_sort(order.begin(), order.end(), [&](uint16_t a, uint16_t b) {
    const bool used_a = tending_[a].placed != 0;
    const bool used_b = tending_[b].placed != 0;
    if (used_a != used_b) return used_b;
    return links_[a]->free_slabs() > links_[b]->free_slabs();
  });
  return order;
}

// A copy on the first of `servers` that has room; `soon` when one is about to.
std::optional<SlabCopy> ServerPool::PlaceOn(const std::vector<uint16_t>& servers,
                                            SlabCopy::State state, Refusals* refusals) {
  refusals->by.resize(links_.size());
  for (const uint16_t server : servers) {
    if (refusals->by[server]) continue;
    FrameHeader question;
    question.op = WireOp::kPlace;
    const absl::StatusOr<FrameHeader> answer = links_[server]->Ask(question, NowNs() + kAnswerNs);
    if (!answer.ok() || answer->status != WireStatus::kOk) {
      refusals->by[server] = true;
      // A slab is being cleared, for us or for somebody else.
      refusals->soon = refusals->soon || (answer.ok() && answer->argument != 0);
      continue;
    }
    ++tending_[server].placed;
    return SlabCopy{state, server, answer->epoch, answer->slab,
                    static_cast<uint32_t>(answer->argument)};
  }
  return std::nullopt;
}

SlabDesk::Stage ServerPool::PlaceCopies(uint64_t index) {
  if (NowNs() < full_until_ns_) return SlabDesk::Stage::kRefused;
  SlabCopies copies = map_.Copies(index);  // Some may be there from the last time.
  Refusals refusals;
  while (LiveCopies(copies) < options_.copies) {
    const auto placed = PlaceOn(ServersBeside(copies), SlabCopy::State::kLive, &refusals);
    if (!placed) break;
    *FreeEntry(copies) = *placed;
  }
  map_.SetCopies(index, copies);
  if (LiveCopies(copies) == options_.copies) return SlabDesk::Stage::kPlaced;
  // A slab that some server is missing for is served with what there is; the rest is
  // mended. One that there is no room for is not.
  const bool all_up = std::all_of(links_.begin(), links_.end(), [](const auto& link) {
    return link->state() == ServerLink::State::kUp;
  });
  if (all_up && !refusals.soon) {
    full_until_ns_ = NowNs() + kSoonNs;
    return SlabDesk::Stage::kRefused;
  }
  if (LiveCopies(copies) == 0 || all_up) return SlabDesk::Stage::kWanted;
  mending_.stale = true;
  return SlabDesk::Stage::kPlaced;
}

void ServerPool::ReleaseUnused() {
  for (uint64_t index = 0; index < desk_.used(); ++index) {
    if (desk_.StageOf(index) != SlabDesk::Stage::kReleasing || IsBeingMended(index)) continue;
    for (uint32_t copy = 0; copy < kMaxCopies; ++copy) {
      if (map_.Copies(index)[copy].state != SlabCopy::State::kNone) RemoveCopy(index, copy);
    }
    mending_.stale = true;
    shared_[index].store(false, std::memory_order_release);
    desk_.Free(index);
  }
  for (uint16_t server = 0; server < links_.size(); ++server) ReleaseBuried(server);
}

}  // namespace spiritos
