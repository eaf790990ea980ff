// SPDX-License-Identifier: Apache-2.0
// Messages to transfers, by way of the staging, and back.
#include "libos/remote/rdma_lane.h"

#include <fmt/core.h>
#include <sched.h>
#include <sys/mman.h>

#include <cstring>
#include <utility>

#include "libos/base/copy.h"
#include "libos/base/log.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

constexpr Bytes kStagingSize{RdmaLane::kStagingPages * (kPageSize + sizeof(PageTrailer))};

// Where in a slab's file: its pages, then a trailer for each.
uint64_t PageOffset(uint32_t page) { return uint64_t{page} << kPageShift; }
uint64_t TrailerOffset(uint32_t page) { return kSlabSize + page * sizeof(PageTrailer); }

}  // namespace

absl::Status RdmaLane::MakeStaging() {
  if (staging_.size().raw() != 0) return absl::OkStatus();
  SPIRITOS_ASSIGN_OR_RETURN(staging_,
                            Mapping::Anonymous(kStagingSize, kPageSize, "staging for RDMA"));
  // A child that got copies of pages under a device's hand would not get what it writes.
  madvise(staging_.data(), staging_.size().raw(), MADV_DONTFORK);
  return absl::OkStatus();
}

bool RdmaLane::IsMoving() {
  LockGuard guard(lock_);
  return MovingLocked();
}

absl::Status RdmaLane::Connect(const ServerAddress& address, const RdmaGreeting& greeting,
                               uint64_t deadline_ns) {
  SPIRITOS_RETURN_IF_ERROR(MakeStaging());
  Break();
  while (IsMoving()) sched_yield();  // They are on their way out.
  if (queue_pair_ != nullptr && !queue_pair_->failure().empty()) {
    LogWarning(
        fmt::format("a queue pair to {} failed: {}", address.ToString(), queue_pair_->failure()));
  }
  queue_pair_.reset();  // From here on no device touches the staging.
  SPIRITOS_ASSIGN_OR_RETURN(queue_pair_,
                            connector_(address, greeting, staging_.range(), deadline_ns));
  {
    LockGuard guard(lock_);
    ResumeLocked();
  }
  Resume();
  return absl::OkStatus();
}

bool RdmaLane::AdmitLocked(uint32_t place, uint64_t, const LaneRequest& request) noexcept {
  const std::optional<uint32_t> first = ring_.Take(request.pages);
  if (first) staged_[place] = {*first, request.pages, false};
  return first.has_value();
}

void RdmaLane::DismissLocked(uint32_t place) noexcept {
  ring_.Give(staged_[place].first, staged_[place].pages);
}

uint32_t RdmaLane::TakeUnsentLocked(Outgoing* batch) noexcept {
  uint32_t count = 0;
  // What is much by itself goes alone: the first page need not wait for the last copy.
  for (uint32_t pages = 0; sent_ < count_ && count < kBatch && pages < kMaxWirePages; ++sent_) {
    LaneRequest& request = RequestLocked(sent_);
    batch[count++] = {&request, IdLocked(sent_), &staged_[PlaceLocked(sent_)]};
    pages += request.pages;
  }
  return count;
}

void RdmaLane::Send() noexcept {
  std::array<Outgoing, kBatch> batch;
  while (true) {
    uint32_t count = 0;
    {
      LockGuard guard(lock_);
      if (sending_ || !MayMoveLocked()) return;
      count = TakeUnsentLocked(batch.data());
      if (count == 0) return;
      sending_ = true;
    }
    // While it sends: what it broke may be replaced as soon as nobody uses it.
    if (!Post({batch.data(), count})) Break();
    LockGuard guard(lock_);
    sending_ = false;
  }
}

bool RdmaLane::Post(std::span<const Outgoing> batch) noexcept {
  std::array<QueuePair::Transfer, QueuePair::kMaxPost> transfers;
  uint32_t count = 0;
  for (const auto& [request, id, staged] : batch) {
    const uint32_t bytes = request->pages << kPageShift;
    const uint32_t trailer_bytes = request->pages * sizeof(PageTrailer);
    std::byte* const pages = PageAt(staged->first);
    PageTrailer* const trailers = TrailerAt(staged->first);
    if (request->op == IoOp::kWrite && !std::exchange(staged->filled, true)) {
      CopyWhileStored(pages, request->memory, bytes);
      std::memcpy(trailers, request->trailers.data(), trailer_bytes);
    }
    transfers[count++] = {id, request->op, pages, bytes, request->key, PageOffset(request->first)};
    if (request->op == IoOp::kRead) continue;
    transfers[count++] = {id,
                          request->op,
                          reinterpret_cast<std::byte*>(trailers),
                          trailer_bytes,
                          request->key,
                          TrailerOffset(request->first)};
  }
  return queue_pair_->Post({transfers.data(), count});
}

bool RdmaLane::IsOldest(uint64_t id) noexcept {
  LockGuard guard(lock_);
  return sent_ != 0 && IdLocked(0) == id;
}

bool RdmaLane::FinishOne(uint64_t through, WireStatus result) noexcept {
  LaneRequest* request;
  const std::byte* pages;
  {
    LockGuard guard(lock_);
    if (sent_ == 0 || IdLocked(0) > through) return false;
    request = &RequestLocked(0);
    pages = PageAt(staged_[PlaceLocked(0)].first);
    arriving_.store(true, std::memory_order_relaxed);
  }
  if (request->op == IoOp::kRead && result == WireStatus::kOk) {
    std::memcpy(request->memory, pages, size_t{request->pages} << kPageShift);
  }
  arriving_.store(false, std::memory_order_release);
  {
    LockGuard guard(lock_);
    PopLocked();
  }
  request->result = result;
  sink_.OnFinal(*request);
  return true;
}

bool RdmaLane::Receive() noexcept {
  using Fault = QueuePair::Progress::Fault;
  bool finished = false;
  while (true) {
    const QueuePair::Progress progress = queue_pair_->Poll();
    while (FinishOne(progress.through, WireStatus::kOk)) finished = true;
    if (progress.fault == Fault::kRefused && IsOldest(progress.refused)) {
      finished = FinishOne(progress.refused, WireStatus::kNoSlab) || finished;
    }
    if (progress.fault != Fault::kNone) Break();
    if (progress.fault != Fault::kNone || progress.through == 0) return finished;
  }
}

void RdmaLane::Sleep(uint64_t timeout_ns) noexcept {
  queue_pair_->Arm();
  // What came before the alarm was set does not ring.
  if (Receive() || state() != State::kUp) return;
  if (!queue_pair_->Sleep(timeout_ns)) Break();
}

}  // namespace spiritos
