// SPDX-License-Identifier: Apache-2.0
// Pieces from sealing to landing.
#include "libos/remote/encrypting_backend.h"

#include <sched.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "libos/base/failpoint.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

SlotId After(SlotId slot, uint32_t pages) { return slot + PageCount(pages); }
size_t BytesOf(uint32_t pages) { return size_t{pages} << kPageShift; }

}  // namespace

void EncryptingBackend::Piece::Begin(IoRequest& request, uint32_t offset, uint32_t pages,
                                     std::byte* memory) noexcept {
  whole = &request;
  inner.op = request.op;
  inner.lane = request.lane;
  inner.first = After(request.first, offset);
  inner.pages = pages;
  inner.memory = memory;
  if (request.op == IoOp::kWrite) inner.versions = request.versions + offset;
  inner.avoid = request.avoid;
  inner.status.store(IoStatus::kPending, std::memory_order_relaxed);
}

EncryptingBackend::EncryptingBackend(std::unique_ptr<RemoteBackend> inner)
    : inner_(std::move(inner)), in_place_(inner_->addressable()) {}

absl::StatusOr<std::unique_ptr<EncryptingBackend>> EncryptingBackend::Create(
    std::unique_ptr<RemoteBackend> inner) {
  std::unique_ptr<EncryptingBackend> backend(new EncryptingBackend(std::move(inner)));
  SPIRITOS_RETURN_IF_ERROR(backend->Start());
  return backend;
}

absl::Status EncryptingBackend::Start() {
  SPIRITOS_ASSIGN_OR_RETURN(cipher_, PageCipher::Create({}));
  SPIRITOS_RETURN_IF_ERROR(seals_.Init(inner_->capacity()));
  if (in_place_) return absl::OkStatus();
  for (Queue& queue : queues_) {
    Piece* const pieces = arena_.NewArray<Piece>(kWindow);
    if (pieces == nullptr || !queue.runs.Init(arena_)) {
      return absl::ResourceExhaustedError(
          "no memory for pages on their way to be encrypted (SPIRITOS_ENCRYPT)");
    }
    LockGuard guard(queue.lock);
    for (uint32_t p = 0; p < kWindow; ++p) queue.free.PushBack(pieces[p]);
  }
  return absl::OkStatus();
}

IoResult EncryptingBackend::PlaceSlab(SlotId* first) noexcept {
  SlotId placed;
  const IoResult result = inner_->PlaceSlab(&placed);
  if (result != IoResult::kOk) return result;
  if (!seals_.Begin(placed)) {
    inner_->ReleaseSlab(placed);
    return IoResult::kNoSpace;
  }
  *first = placed;
  return IoResult::kOk;
}

void EncryptingBackend::Forget(SlotId first, uint32_t pages) noexcept {
  seals_.Forget(first, pages);
  inner_->Forget(first, pages);
}

void EncryptingBackend::SealPages(SlotId first, uint32_t pages, const std::byte* from,
                                  std::byte* to) noexcept {
  for (uint32_t i = 0; i < pages; ++i) {
    const SlotId slot = After(first, i);
    seals_[slot] = cipher_->Seal(slot, from + BytesOf(i), to + BytesOf(i));
  }
}

int EncryptingBackend::OpenPages(SlotId first, uint32_t pages, const std::byte* from,
                                 std::byte* to) noexcept {
  for (uint32_t i = 0; i < pages; ++i) {
    const SlotId slot = After(first, i);
    const PageSeal& seal = seals_[slot];
    if (seal.counter == 0) {
      std::memset(to + BytesOf(i), 0, kPageSize);
    } else if (!cipher_->Open(slot, seal, from + BytesOf(i), to + BytesOf(i))) {
      return EBADMSG;
    }
  }
  return 0;
}

int EncryptingBackend::MoveInPlace(const IoRequest& request) noexcept {
  std::byte* const slots = inner_->Direct(request.first);
  if (request.op == IoOp::kRead) {
    if (const int error = SPIRITOS_FAILPOINT(kBackendRead)) return error;
    return OpenPages(request.first, request.pages, slots, request.memory);
  }
  if (const int error = SPIRITOS_FAILPOINT(kBackendWrite)) return error;
  SealPages(request.first, request.pages, request.memory, slots);
  return 0;
}

IoResult EncryptingBackend::Submit(IoRequest& request) noexcept {
  if (!in_place_) return request.op == IoOp::kRead ? SubmitRead(request) : SubmitWrite(request);
  request.sources.store(0, std::memory_order_relaxed);
  request.Finish(MoveInPlace(request));
  return IoResult::kOk;
}

IoResult EncryptingBackend::SubmitRead(IoRequest& request) noexcept {
  Queue& queue = QueueOf(request.lane);
  Piece* const piece = TakeFree(queue);
  if (piece == nullptr) return IoResult::kBusy;
  piece->Begin(request, 0, request.pages, request.memory);
  if (const IoResult result = inner_->Submit(piece->inner); result != IoResult::kOk) {
    Free(queue, *piece);
    return result;
  }
  request.parts.store(request.pages, std::memory_order_relaxed);
  request.failed.store(0, std::memory_order_relaxed);
  request.status.store(IoStatus::kPending, std::memory_order_relaxed);
  LockGuard guard(queue.lock);
  queue.flying.PushBack(*piece);
  return IoResult::kOk;
}

IoResult EncryptingBackend::SubmitWrite(IoRequest& request) noexcept {
  Queue& queue = QueueOf(request.lane);
  {
    LockGuard guard(queue.lock);
    if (queue.waiting != nullptr || queue.free.empty()) return IoResult::kBusy;
  }
  request.begun = 0;
  request.parts.store(request.pages, std::memory_order_relaxed);
  request.failed.store(0, std::memory_order_relaxed);
  request.status.store(IoStatus::kPending, std::memory_order_relaxed);
  SealPieces(queue, request);
  return IoResult::kOk;
}

bool EncryptingBackend::SealPieces(Queue& queue, IoRequest& write) noexcept {
  const auto wait = [&] {
    LockGuard guard(queue.lock);
    write.next = std::exchange(queue.waiting, &write);
    return false;
  };
  while (true) {
    const uint32_t offset = write.begun;
    const uint32_t left = write.pages - offset;
    Piece* const piece = TakeFree(queue);
    if (piece == nullptr) return wait();
    piece->run = queue.runs.Take(left);
    if (piece->run.empty()) {
      Free(queue, *piece);
      return wait();
    }
    const auto pages = static_cast<uint32_t>(piece->run.size() >> kPageShift);
    piece->Begin(write, offset, pages, piece->run.data());
    SealPages(piece->inner.first, pages, write.memory + BytesOf(offset), piece->run.data());
    // Once its last piece is sent the write may be final, and gone.
    const bool last = pages == left;
    write.begun = offset + pages;
    const bool sent = Send(queue, *piece);
    if (last) return true;
    if (!sent) return wait();
  }
}

bool EncryptingBackend::Send(Queue& queue, Piece& piece) noexcept {
  const bool sent = inner_->Submit(piece.inner) == IoResult::kOk;
  LockGuard guard(queue.lock);
  sent ? queue.flying.PushBack(piece) : queue.sealed.PushFront(piece);
  return sent;
}

bool EncryptingBackend::Advance(Queue& queue) noexcept {
  bool landed = false;
  while (Piece* const piece = TakeFinal(queue)) {
    Land(queue, *piece);
    landed = true;
  }
  const auto next = [&](Piece** piece, IoRequest** write) {
    LockGuard guard(queue.lock);
    *piece = queue.sealed.PopFront();
    if (*piece != nullptr || queue.waiting == nullptr) return *piece != nullptr;
    *write = std::exchange(queue.waiting, queue.waiting->next);
    return true;
  };
  Piece* piece = nullptr;
  IoRequest* write = nullptr;
  while (next(&piece, &write)) {
    if (piece != nullptr ? !Send(queue, *piece) : !SealPieces(queue, *write)) break;
  }
  return landed;
}

bool EncryptingBackend::Poll(Lane lane) noexcept {
  inner_->Poll(lane);
  return Advance(QueueOf(lane));
}

void EncryptingBackend::Wait(IoRequest& request) noexcept {
  if (request.final()) return;
  const Lane lane = request.lane;
  Queue& queue = QueueOf(lane);
  while (!request.final()) {
    if (Advance(queue)) continue;
    Piece* const piece = Hold(queue, request);
    if (piece == nullptr) {
      // In another thread's hands, which seals or opens it.
      if (!Poll(lane)) sched_yield();
      continue;
    }
    inner_->Wait(piece->inner);
    Unhold(queue, *piece);
  }
}

void EncryptingBackend::Land(Queue& queue, Piece& piece) noexcept {
  static_assert(EHWPOISON <= UINT8_MAX, "the greatest errno");
  const IoRequest& inner = piece.inner;
  IoRequest& whole = *piece.whole;
  int error = inner.status.load(std::memory_order_acquire) == IoStatus::kDone ? 0 : inner.error;
  if (inner.op == IoOp::kWrite) {
    queue.runs.Give(piece.run);
  } else {
    whole.sources.store(inner.sources.load(std::memory_order_relaxed), std::memory_order_relaxed);
    if (error == 0) error = OpenPages(inner.first, inner.pages, inner.memory, inner.memory);
  }
  if (error != 0) whole.failed.store(static_cast<uint8_t>(error), std::memory_order_relaxed);
  // Acquire and release: the last one sees what the others found.
  if (whole.parts.fetch_sub(inner.pages, std::memory_order_acq_rel) == inner.pages) {
    whole.Finish(whole.failed.load(std::memory_order_relaxed));
  }
  LockGuard guard(queue.lock);
  piece.landed = true;
  if (piece.waiters == 0) queue.free.PushFront(piece);  // Else the last of them does it.
}

EncryptingBackend::Piece* EncryptingBackend::TakeFree(Queue& queue) noexcept {
  LockGuard guard(queue.lock);
  Piece* const piece = queue.free.PopFront();
  if (piece != nullptr) piece->landed = false;
  return piece;
}

EncryptingBackend::Piece* EncryptingBackend::TakeFinal(Queue& queue) noexcept {
  LockGuard guard(queue.lock);
  Piece* const piece = queue.flying.Find([](const Piece& p) { return p.inner.final(); });
  if (piece != nullptr) queue.flying.Remove(*piece);
  return piece;
}

void EncryptingBackend::Free(Queue& queue, Piece& piece) noexcept {
  LockGuard guard(queue.lock);
  queue.free.PushFront(piece);
}

EncryptingBackend::Piece* EncryptingBackend::Hold(Queue& queue, const IoRequest& request) noexcept {
  LockGuard guard(queue.lock);
  Piece* piece = queue.flying.Find([&](const Piece& p) { return p.whole == &request; });
  // A write without one waits for room, which any that lands makes; the newest, as the
  // oldest may wait for a server.
  if (piece == nullptr && request.op == IoOp::kWrite) piece = queue.flying.back();
  if (piece != nullptr) ++piece->waiters;
  return piece;
}

void EncryptingBackend::Unhold(Queue& queue, Piece& piece) noexcept {
  LockGuard guard(queue.lock);
  if (--piece.waiters == 0 && piece.landed) queue.free.PushFront(piece);
}

std::string EncryptingBackend::description() const {
  return "encrypted (AES-256-GCM) " + inner_->description();
}

}  // namespace spiritos
