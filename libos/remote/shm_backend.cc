// SPDX-License-Identifier: Apache-2.0
// Mapping what a server hands out, and finding a server again.
#include "libos/remote/shm_backend.h"

#include <fmt/core.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "libos/base/clock.h"
#include "libos/base/copy.h"
#include "libos/base/failpoint.h"
#include "libos/base/log.h"
#include "libos/base/service_thread.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kTickNs = 500 * kMs;
constexpr uint64_t kSoonNs = 10 * kMs;
constexpr uint64_t kAnswerNs = 2'000 * kMs;
constexpr uint64_t kMinBackOffNs = 10 * kMs;
constexpr uint64_t kMaxBackOffNs = 500 * kMs;
// The first version that knows of forks.
constexpr uint16_t kForkVersion = 4;

}  // namespace

ShmBackend::ShmBackend(ServerAddress address, std::string tenant, Verify verify)
    : address_(std::move(address)), tenant_(std::move(tenant)), verify_(verify) {}

absl::StatusOr<std::unique_ptr<ShmBackend>> ShmBackend::Create(ServerAddress address,
                                                               std::string tenant, Bytes capacity,
                                                               Verify verify) {
  std::unique_ptr<ShmBackend> backend(
      new ShmBackend(std::move(address), std::move(tenant), verify));
  SPIRITOS_RETURN_IF_ERROR(backend->Start(capacity));
  return backend;
}

std::unique_ptr<ServerLink> ShmBackend::NewLink() {
  ServerLane::Sink& sink = *this;
  return std::make_unique<ServerLink>(address_, client_, tenant_, sink);
}

absl::Status ShmBackend::Start(Bytes capacity) {
  if (getrandom(client_.data(), client_.size(), 0) < 0) {
    return ErrnoStatus(errno, "naming the space");
  }
  LockGuard guard(keeper_mutex_);
  link_ = NewLink();
  SPIRITOS_RETURN_IF_ERROR(link_->Connect(NowNs() + kAnswerNs));
  const uint64_t offered = link_->welcome().free_slabs;
  slab_count_ = capacity.raw() == 0 ? offered : capacity.raw() / kSlabSize;
  if (slab_count_ == 0) {
    return InvalidArgument("{} has room for {} slabs of 64 MiB (SPIRITOS_POOL_SIZE {})",
                           address_.ToString(), offered, capacity.raw());
  }
  SPIRITOS_ASSIGN_OR_RETURN(memory_,
                            Mapping::Reserve(Bytes(place_count() * kSlabSize), size_t{1} << 21,
                                             "a memory server's slabs (SPIRITOS_POOL_SIZE)"));
  SPIRITOS_RETURN_IF_ERROR(desk_.Init(place_count()));
  held_.resize(place_count());
  sharing_ = std::make_unique<std::atomic<Sharing>[]>(place_count());
  StartKeeper();
  return absl::OkStatus();
}

void ShmBackend::StartKeeper() {
  keeper_ = StartServiceThread("spiritos-keeper", [this] { Keep(); });
}

ShmBackend::~ShmBackend() {
  stopping_.store(true);
  desk_.Call();
  if (keeper_.joinable()) keeper_.join();
}

IoResult ShmBackend::PlaceSlab(SlotId* first) noexcept {
  uint64_t index;
  const IoResult result = desk_.Await(&index);
  if (result == IoResult::kOk) *first = SlotId(index * kSlabPages);
  return result;
}

void ShmBackend::ReleaseSlab(SlotId first) noexcept { desk_.Release(first.raw() / kSlabPages); }

IoResult ShmBackend::Submit(IoRequest& request) noexcept {
  const bool reads = request.op == IoOp::kRead;
  const int error = reads ? SPIRITOS_FAILPOINT(kBackendRead) : SPIRITOS_FAILPOINT(kBackendWrite);
  const size_t bytes = size_t{request.pages} << kPageShift;
  if (error == 0 && reads) std::memcpy(request.memory, At(request.first), bytes);
  if (error == 0 && !reads) CopyWhileStored(At(request.first), request.memory, bytes);
  request.Finish(error);
  return IoResult::kOk;
}

void ShmBackend::Keep() {
  while (true) {
    const uint32_t calls = desk_.calls();
    const bool last = stopping_.load();
    bool all;
    {
      LockGuard guard(keeper_mutex_);
      Reconnect(NowNs());
      ReleaseUnused();
      if (last) return;
      all = desk_.AnswerWanted([this](uint64_t index)
                                   ABSL_NO_THREAD_SAFETY_ANALYSIS { return PlaceOne(index); });
      AskForHolders(NowNs());
    }
    desk_.AwaitCall(calls, all ? kTickNs : kSoonNs);
  }
}

void ShmBackend::Reconnect(uint64_t now_ns) {
  if (!link_->needs_connecting()) {
    if (now_ns - pinged_ns_ > kTickNs) {
      pinged_ns_ = now_ns;
      static_cast<void>(link_->Ping(now_ns + kAnswerNs));  // A failure is a broken connection.
    }
    if (!link_->needs_connecting() && !to_adopt_) return;
  }
  if (now_ns < next_try_ns_) return;
  absl::Status status = link_->Connect(NowNs() + kAnswerNs);
  if (absl::IsDataLoss(status)) {
    // Another server, or one that has forgotten us: the slabs are still ours to give.
    Uncount();
    link_ = NewLink();
    status = link_->Connect(NowNs() + kAnswerNs);
  }
  if (status.ok() && std::exchange(inherited_, false) && link_->welcome().slabs != CountHeld()) {
    Uncount();  // It does not know what the one knew that our parent asked.
  }
  if (status.ok() && to_adopt_) status = AdoptAll();
  if (status.ok()) {
    back_off_ns_ = 0;
    return;
  }
  back_off_ns_ = std::clamp(2 * back_off_ns_, kMinBackOffNs, kMaxBackOffNs);
  next_try_ns_ = NowNs() + back_off_ns_;
}

void ShmBackend::Uncount() {
  for (uint64_t index = 0; index < held_.size(); ++index) {
    held_[index].slab = kUncounted;
    if (sharing_[index].load() != Sharing::kNone) sharing_[index].store(Sharing::kForGood);
  }
  to_adopt_ = true;
}

uint64_t ShmBackend::CountHeld() const {
  return static_cast<uint64_t>(std::count_if(
      held_.begin(), held_.end(), [](const Held& held) { return held.slab != kUncounted; }));
}

template <typename Visit>
void ShmBackend::ForEachMapped(Visit&& visit) {
  for (uint64_t index = 0; index < held_.size(); ++index) {
    if (held_[index].file.valid()) visit(index, memory_.data() + index * kSlabSize);
  }
}

// Others end, or give a slab back, without a word to us.
void ShmBackend::AskForHolders(uint64_t now_ns) {
  if (now_ns < next_holders_ns_) return;
  next_holders_ns_ = now_ns + kTickNs;
  ForEachMapped([this](uint64_t index, std::byte*) {
    const Held& held = held_[index];
    if (sharing_[index].load() != Sharing::kCounted || held.slab == kUncounted) return;
    FrameHeader question;
    question.op = WireOp::kHolders;
    question.slab = held.slab;
    const absl::StatusOr<FrameHeader> answer = link_->Ask(question, NowNs() + kAnswerNs);
    if (!answer.ok() || answer->status != WireStatus::kOk || answer->argument != 0) return;
    sharing_[index].store(Sharing::kNone, std::memory_order_release);
  });
}

bool ShmBackend::MakeChildClient() {
  Reconnect(NowNs());
  if (link_->needs_connecting() || to_adopt_ || link_->welcome().version < kForkVersion) {
    return false;
  }
  if (getrandom(child_client_.data(), child_client_.size(), 0) < 0) return false;
  FrameHeader question;
  question.op = WireOp::kFork;
  PutForked(child_client_, &question);
  const absl::StatusOr<FrameHeader> answer = link_->Ask(question, NowNs() + kAnswerNs);
  return answer.ok() && answer->status == WireStatus::kOk && answer->first == CountHeld();
}

ForkedSlots ShmBackend::BeforeFork() noexcept {
  keeper_mutex_.lock();
  if (!MakeChildClient()) {
    keeper_mutex_.unlock();
    return ForkedSlots::kNone;
  }
  ForEachMapped([this](uint64_t index, std::byte* slab) {
    madvise(slab, kSlabSize, MADV_DOFORK);
    if (sharing_[index].load() == Sharing::kNone) sharing_[index].store(Sharing::kCounted);
  });
  return ForkedSlots::kShared;
}

void ShmBackend::AfterFork(bool child) noexcept {
  ForEachMapped([](uint64_t, std::byte* slab) { madvise(slab, kSlabSize, MADV_DONTFORK); });
  if (child) {
    client_ = child_client_;
    link_ = NewLink();  // The parent's connection stays the parent's.
    inherited_ = true;
    next_try_ns_ = back_off_ns_ = 0;
    std::construct_at(&keeper_);  // A thread that is not there: nobody to join.
    StartKeeper();
  }
  keeper_mutex_.unlock();
}

absl::Status ShmBackend::AdoptAll() {
  for (Held& held : held_) {
    if (!held.file.valid() || held.slab != kUncounted) continue;
    FrameHeader question;
    question.op = WireOp::kAdopt;
    PassedFiles files{.sent = held.file.get()};
    SPIRITOS_ASSIGN_OR_RETURN(const FrameHeader answer,
                              link_->Ask(question, NowNs() + kAnswerNs, &files));
    if (answer.status != WireStatus::kOk) {
      // We keep it; the server just does not count it.
      LogWarning(fmt::format("{} does not take over a slab: {}", address_.ToString(),
                             WireStatusName(answer.status)));
      continue;
    }
    held.slab = answer.slab;
  }
  to_adopt_ = false;
  return absl::OkStatus();
}

SlabDesk::Stage ShmBackend::PlaceOne(uint64_t index) {
  FrameHeader question;
  question.op = WireOp::kPlace;
  PassedFiles files;
  const absl::StatusOr<FrameHeader> answer = link_->Ask(question, NowNs() + kAnswerNs, &files);
  if (!answer.ok()) return SlabDesk::Stage::kWanted;  // The server may come back.
  if (answer->status == WireStatus::kNoSpace && answer->argument != 0) {
    return SlabDesk::Stage::kWanted;  // A slab is being cleared.
  }
  if (answer->status != WireStatus::kOk || !files.received.valid()) {
    return SlabDesk::Stage::kRefused;
  }
  std::byte* const place = memory_.data() + index * kSlabSize;
  const int flags = MAP_SHARED | MAP_FIXED | MAP_POPULATE;
  if (mmap(place, kSlabSize, PROT_READ | PROT_WRITE, flags, files.received.get(), 0) ==
      MAP_FAILED) {
    return SlabDesk::Stage::kRefused;
  }
  madvise(place, kSlabSize, MADV_DONTFORK);
  madvise(place, kSlabSize, MADV_DONTDUMP);
  held_[index] = {answer->slab, std::move(files.received)};
  return SlabDesk::Stage::kPlaced;
}

void ShmBackend::ReleaseUnused() {
  for (uint64_t index = 0; index < desk_.used(); ++index) {
    if (desk_.StageOf(index) != SlabDesk::Stage::kReleasing) continue;
    Held& held = held_[index];
    if (held.slab != kUncounted) {
      FrameHeader question;
      question.op = WireOp::kRelease;
      question.slab = held.slab;
      if (!link_->Ask(question, NowNs() + kAnswerNs).ok() && !stopping_.load()) continue;
    }
    if (held.file.valid()) {
      mmap(memory_.data() + index * kSlabSize, kSlabSize, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    }
    held = {};
    sharing_[index].store(Sharing::kNone, std::memory_order_release);
    desk_.Free(index);
  }
}

std::string ShmBackend::description() const {
  return fmt::format("{}, {} slabs of 64 MiB", address_.ToString(), slab_count_);
}

}  // namespace spiritos
