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
  link_ = NewLink();
  SPIRITOS_RETURN_IF_ERROR(link_->Connect(NowNs() + kAnswerNs));
  const uint64_t offered = link_->welcome().free_slabs;
  slab_count_ = capacity.raw() == 0 ? offered : capacity.raw() / kSlabSize;
  if (slab_count_ == 0) {
    return InvalidArgument("{} has room for {} slabs of 64 MiB (SPIRITOS_POOL_SIZE {})",
                           address_.ToString(), offered, capacity.raw());
  }
  SPIRITOS_ASSIGN_OR_RETURN(memory_,
                            Mapping::Reserve(Bytes(slab_count_ * kSlabSize), size_t{1} << 21,
                                             "a memory server's slabs (SPIRITOS_POOL_SIZE)"));
  SPIRITOS_RETURN_IF_ERROR(desk_.Init(slab_count_));
  held_.resize(slab_count_);
  keeper_ = StartServiceThread("spiritos-keeper", [this] { Keep(); });
  return absl::OkStatus();
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
    Reconnect(NowNs());
    ReleaseUnused();
    if (last) return;
    const bool all = desk_.AnswerWanted([this](uint64_t index) { return PlaceOne(index); });
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
    for (Held& held : held_) held.slab = kUncounted;
    to_adopt_ = true;
    link_ = NewLink();
    status = link_->Connect(NowNs() + kAnswerNs);
  }
  if (status.ok() && to_adopt_) status = AdoptAll();
  if (status.ok()) {
    back_off_ns_ = 0;
    return;
  }
  back_off_ns_ = std::clamp(2 * back_off_ns_, kMinBackOffNs, kMaxBackOffNs);
  next_try_ns_ = NowNs() + back_off_ns_;
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
    desk_.Free(index);
  }
}

std::string ShmBackend::description() const {
  return fmt::format("{}, {} slabs of 64 MiB", address_.ToString(), slab_count_);
}

}  // namespace spiritos
