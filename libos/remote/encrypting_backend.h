// SPDX-License-Identifier: Apache-2.0
// EncryptingBackend: another backend that never sees a plain page.
//
// Where the inner slots are memory, pages are sealed into them and opened out of them, and
// nothing is in flight. Elsewhere requests travel as pieces, which are requests of ours:
//
//   write --> waiting --seal, into near runs--> sealed --> flying --> landed: run given back
//   read  ------------------------------------> flying --> landed: opened where it arrived
//                                    the last piece that lands finishes the request
//
// Whoever polls or waits moves all of this on. A read is one piece; a write is as many as
// there are runs of near pages for it, and waits in part while those are taken. Of a page
// that is stored into as it leaves, what was sealed is what was sent.
//
// What does not open ends its read with EBADMSG, and the readers ask another copy. A slot
// that nothing has been written to reads as zeroes, whatever the pool has there.
//
// Context: signal, but for Create().
#pragma once

#include <array>
#include <memory>
#include <span>

#include "libos/base/intrusive_list.h"
#include "libos/base/lock.h"
#include "libos/base/pinned_arena.h"
#include "libos/remote/near_runs.h"
#include "libos/remote/page_cipher.h"
#include "libos/remote/remote_backend.h"
#include "libos/remote/seal_book.h"

namespace spiritos {

class EncryptingBackend final : public RemoteBackend {
 public:
  static absl::StatusOr<std::unique_ptr<EncryptingBackend>> Create(
      std::unique_ptr<RemoteBackend> inner);

  IoResult PlaceSlab(SlotId* first) noexcept override;
  void ReleaseSlab(SlotId first) noexcept override { inner_->ReleaseSlab(first); }
  bool addressable() const override { return false; }
  std::byte* Direct(SlotId) noexcept override { return nullptr; }
  [[nodiscard]] IoResult Submit(IoRequest& request) noexcept override;
  bool Poll(Lane lane) noexcept override;
  void Wait(IoRequest& request) noexcept override;
  void Forget(SlotId first, uint32_t pages) noexcept override;
  Bytes capacity() const override { return inner_->capacity(); }
  bool lost(SlotId first) const noexcept override { return inner_->lost(first); }
  // With the runs of write-backs; the other lanes' are touched by tests alone.
  Bytes near_buffers() const override {
    return inner_->near_buffers() + (in_place_ ? Bytes() : NearRuns::kSize);
  }
  PoolHealth health() const noexcept override { return inner_->health(); }
  std::string description() const override;

 private:
  // Pieces in flight on a lane.
  static constexpr uint32_t kWindow = 256;

  struct Piece : ListLink {
    // So many pages of `request`, by way of `memory`.
    void Begin(IoRequest& request, uint32_t offset, uint32_t pages, std::byte* memory) noexcept;

    IoRequest inner;
    IoRequest* whole = nullptr;
    std::span<std::byte> run;  // Of a write.
    uint32_t waiters = 0;      // Keep it from being used again. Under the lane's lock.
    bool landed = false;       // Under the lane's lock.
  };
  struct alignas(kCacheLine) Queue {
    NearRuns runs;
    SpinLock lock{LockRank::kLane};
    IntrusiveList<Piece> free ABSL_GUARDED_BY(lock);
    IntrusiveList<Piece> sealed ABSL_GUARDED_BY(lock);
    IntrusiveList<Piece> flying ABSL_GUARDED_BY(lock);
    IoRequest* waiting ABSL_GUARDED_BY(lock) = nullptr;  // Writes with pages to be sealed.
  };

  explicit EncryptingBackend(std::unique_ptr<RemoteBackend> inner);
  absl::Status Start();

  Queue& QueueOf(Lane lane) { return queues_[static_cast<size_t>(lane)]; }
  // Between memory and slots that are memory; an errno.
  int MoveInPlace(const IoRequest& request) noexcept;
  IoResult SubmitRead(IoRequest& request) noexcept;
  IoResult SubmitWrite(IoRequest& request) noexcept;
  // EBADMSG if a page does not open.
  int OpenPages(SlotId first, uint32_t pages, const std::byte* from, std::byte* to) noexcept;
  void SealPages(SlotId first, uint32_t pages, const std::byte* from, std::byte* to) noexcept;

  // Moves on what can be; true if a piece has landed.
  bool Advance(Queue& queue) noexcept;
  // Those of `write` that are left, as far as there is room; false if some are still left.
  bool SealPieces(Queue& queue, IoRequest& write) noexcept;
  // False while the inner window is full.
  bool Send(Queue& queue, Piece& piece) noexcept;
  void Land(Queue& queue, Piece& piece) noexcept;
  Piece* TakeFree(Queue& queue) noexcept;
  Piece* TakeFinal(Queue& queue) noexcept;
  void Free(Queue& queue, Piece& piece) noexcept;
  // A piece that flies and that `request` waits for; null if there is none.
  Piece* Hold(Queue& queue, const IoRequest& request) noexcept;
  void Unhold(Queue& queue, Piece& piece) noexcept;

  std::unique_ptr<PageCipher> cipher_;
  SealBook seals_;
  PinnedArena arena_;
  std::array<Queue, kLanes> queues_;
  const std::unique_ptr<RemoteBackend> inner_;  // Ends before what it reads and writes.
  const bool in_place_;                         // The inner backend is memory.
};

}  // namespace spiritos
