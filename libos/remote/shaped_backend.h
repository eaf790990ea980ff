// SPDX-License-Identifier: Apache-2.0
// ShapedBackend: another backend, farther away: emulated latency and bandwidth.
//
// A request becomes visible as finished at its due time:
//
//   submitted --- link busy with others --- own bytes on the link --- latency --> due
//
// The link is one for all lanes and sends in order of submission, except that a
// demand read waits for other demand reads only: what it takes is added to the
// others' wait. Nobody can see a request before it is due, and the work itself is
// done no earlier than needed: copied just ahead of that moment by whoever polls
// (slots in memory), or submitted to the inner backend at once and held back.
//
// Due times are kept by who waits: far ahead it sleeps on a timer, for the last
// stretch it spins. How well they are kept is measured on every wait.
#pragma once

#include <array>
#include <atomic>

#include "libos/base/fd.h"
#include "libos/base/histogram.h"
#include "libos/base/lock.h"
#include "libos/base/pinned_arena.h"
#include "libos/remote/remote_backend.h"

namespace spiritos {

class ShapedBackend final : public RemoteBackend {
 public:
  struct Distance {
    uint64_t latency_ns = 0;
    uint64_t bytes_per_second = 0;  // 0 = no cap.
  };
  static absl::StatusOr<std::unique_ptr<ShapedBackend>> Create(std::unique_ptr<RemoteBackend> inner,
                                                               Distance distance);

  IoResult PlaceSlab(SlotId* first) noexcept override { return inner_->PlaceSlab(first); }
  void ReleaseSlab(SlotId first) noexcept override { inner_->ReleaseSlab(first); }
  bool addressable() const override { return false; }
  std::byte* Direct(SlotId) noexcept override { return nullptr; }
  IoResult Submit(IoRequest& request) noexcept override;
  bool Poll(Lane lane) noexcept override;
  void Wait(IoRequest& request) noexcept override;
  void Forget(SlotId first, uint32_t pages) noexcept override { inner_->Forget(first, pages); }
  ForkedSlots BeforeFork() noexcept override { return inner_->BeforeFork(); }
  void AfterFork(bool child) noexcept override { inner_->AfterFork(child); }
  bool shared(SlotId first) noexcept override { return inner_->shared(first); }
  Bytes capacity() const override { return inner_->capacity(); }
  bool lost(SlotId first) const noexcept override { return inner_->lost(first); }
  Bytes near_buffers() const override { return inner_->near_buffers(); }
  PoolHealth health() const noexcept override { return inner_->health(); }
  std::string description() const override;

  // Nanoseconds from when a request had the link to itself until a waiter saw it
  // finished, less its own bytes' time: what was asked for as latency.
  Histogram ReachedLatency() const;
  // Asked against reached, one line.
  std::string ToText() const;

 private:
  // Requests in flight per lane.
  static constexpr uint32_t kWindow = 256;
  // Sleepers at a time that have a timer of their own.
  static constexpr uint32_t kTimers = 32;

  // One request on its way.
  struct Flight {
    IoRequest* request = nullptr;
    IoRequest inner;  // Where the inner backend is not memory.
    uint64_t due_ns = 0;
    uint64_t ahead_ns = 0;   // How long before it is due its copy may begin.
    uint32_t waiters = 0;    // Keep it from being used again. Under the lane's lock.
    bool landed = false;     // Its request is final. Under the lane's lock.
    Flight* next = nullptr;  // Free, or the next to be due. Under the lane's lock.
  };
  struct alignas(kCacheLine) Queue {
    SpinLock lock{LockRank::kLane};
    Flight* free ABSL_GUARDED_BY(lock) = nullptr;
    Flight* first ABSL_GUARDED_BY(lock) = nullptr;  // In order of due times.
    Flight* last ABSL_GUARDED_BY(lock) = nullptr;
    std::atomic<uint32_t> flying{0};
  };

  ShapedBackend(std::unique_ptr<RemoteBackend> inner, Distance distance);

  Queue& QueueOf(Lane lane) { return queues_[static_cast<size_t>(lane)]; }
  uint64_t ReserveLink(Lane lane, uint64_t now_ns, uint64_t bytes) noexcept;
  // A flight that may land, taken out; null if there is none.
  Flight* TakeDue(Queue& queue, uint64_t now_ns) noexcept;
  void Land(Queue& queue, Flight& flight) noexcept;
  int Copy(const IoRequest& request) noexcept;
  // Sleeps until `wake_ns`; a wake-up later, or a little sooner.
  void SleepUntil(uint64_t wake_ns) noexcept;

  const std::unique_ptr<RemoteBackend> inner_;
  const Distance distance_;
  const bool copies_;  // The inner backend is memory.
  PinnedArena arena_;
  std::array<Queue, kLanes> queues_;
  std::array<UniqueFd, kTimers> timers_;

  std::atomic<uint32_t> free_timers_{0};     // Bit t: timers_[t].
  std::atomic<uint64_t> demand_free_ns_{0};  // When the link has sent all demand reads,
  std::atomic<uint64_t> link_free_ns_{0};    // and when everything.
  std::atomic<uint64_t> copy_page_ns_{0};    // Decaying mean.
  std::atomic<uint64_t> bytes_moved_{0};
  AtomicHistogram reached_;
};

}  // namespace spiritos
