// SPDX-License-Identifier: Apache-2.0
// FileRing: one io_uring on the pool's file, shared by any number of threads.
//
//   Submit:  take an Op --> push its entry --> io_uring_enter
//   reap:    completion --> its Op --> push the rest again, or Finish the request
//
// Books and queues are changed under a spin lock; system calls are made outside
// it. Any thread reaps for any other, so a completion that somebody sleeps for may
// be taken by somebody else. How sleepers learn of it:
//
// * At most one waiter of a ring is its *leader*: it alone sleeps in
//   io_uring_enter. The others are followers and sleep on a futex word of their
//   Op, bumped under the lock by whoever finishes that Op and woken after it.
// * Roles are taken under the lock, after reaping and seeing the own request still
//   pending. So when the leader's request is finished by another thread, that
//   thread knows, and *holds the head*: until the leader is back, whoever reaps
//   tells the kernel of one completion less than were reaped. For the kernel the
//   queue is then not empty: a leader on its way into io_uring_enter is turned
//   back at once, and one inside was woken when the completion was posted.
// * A waiter that leaves with no leader in place elects one: it bumps and wakes a
//   follower, which finds the place empty and takes it, or, if its request is done
//   by then, elects the next before it leaves.
//
// Requests complete in the context of the thread that submitted them (task work):
// see RingIssuer. If that thread exits, the kernel cancels what it had not started,
// and whoever reaps the cancellation submits it again.
//
// Context: signal, but for Init() and Close(). errno is left as it was.
#pragma once

#include <liburing.h>

#include <array>
#include <atomic>

#include "libos/base/lock.h"
#include "libos/remote/remote_backend.h"

namespace spiritos {

class RingIssuer;

class FileRing {
 public:
  // Requests in flight. Enough to keep a disk busy; few enough that a demand read
  // does not wait behind hundreds of others.
  static constexpr uint32_t kWindow = 128;

  FileRing() = default;
  FileRing(const FileRing&) = delete;
  FileRing& operator=(const FileRing&) = delete;

  // 0, or the errno with which the kernel refuses a ring that has what is needed
  // here; nothing is left behind then. Borrows `file` and `issuer`; without one
  // the threads that call Submit() make the system calls themselves.
  [[nodiscard]] int Init(int file, RingIssuer* issuer = nullptr) noexcept;
  // REQUIRES: no request is pending.
  void Close() noexcept;

  [[nodiscard]] IoResult Submit(IoRequest& request) noexcept;
  bool Poll() noexcept;
  // Hands what is pushed to the kernel. False when it refuses for now.
  bool Flush() noexcept;
  // Waits on the ring that `request` went to.
  static void Wait(IoRequest& request) noexcept;

 private:
  // What a ring knows of one request in flight; under the ring's lock.
  struct Op {
    FileRing* ring = nullptr;
    Op* next_free = nullptr;
    IoRequest* request = nullptr;
    uint64_t done_bytes = 0;
    uint32_t attempts = 0;  // In a row without progress.
    bool led = false;       // The leader waits for this one.
    bool followed = false;  // Threads sleep, or are about to, on `turn`.
    std::atomic<uint32_t> turn{0};
  };

  // What reaping leaves to do once the lock is free: futex words to wake (full =
  // reap no further), entries to submit.
  struct Debts {
    std::array<const std::atomic<uint32_t>*, 16> words;
    uint32_t count = 0;
    bool resumed = false;                                   // Entries were pushed.
    bool full() const { return count + 2 > words.size(); }  // One to finish, one to elect.
  };

  // Of the submission queue: see PushLocked(). The completion queue has twice as
  // many, so that it cannot overflow.
  static constexpr uint32_t kEntries = 2 * kWindow;

  static Op& OpOf(const IoRequest& request) { return *reinterpret_cast<Op*>(request.next); }

  void PushLocked(Op& op) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  uint32_t ReapLocked(Debts& debts) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // True if that finished its request.
  bool CompleteLocked(Op& op, int32_t result, Debts& debts) noexcept
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void WakeFollowersLocked(Op& op, Debts& debts) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void ElectLocked(Debts& debts) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // The system calls that reaping owes, made after the lock is released.
  void Settle(const Debts& debts) noexcept;
  unsigned Unsubmitted() const noexcept;
  // Sees to it that what is pushed is submitted.
  void Launch() noexcept;
  void Enter(unsigned submit, unsigned wait_for) noexcept;
  // Polls for about a wake-up's time, if that has paid lately.
  void Spin(const IoRequest& request) noexcept;
  // Sleeps once, as leader or follower. True when `request` was final: no sleep.
  bool Block(IoRequest& request) noexcept;

  int file_ = -1;
  RingIssuer* issuer_ = nullptr;
  bool fixed_file_ = false;
  bool may_spin_ = false;
  io_uring ring_{};  // The queues themselves are shared with the kernel.

  SpinLock lock_{LockRank::kLane};
  Op* free_ ABSL_GUARDED_BY(lock_) = nullptr;
  uint32_t in_flight_ ABSL_GUARDED_BY(lock_) = 0;
  uint32_t followed_ops_ ABSL_GUARDED_BY(lock_) = 0;
  bool leader_ ABSL_GUARDED_BY(lock_) = false;
  bool head_held_ ABSL_GUARDED_BY(lock_) = false;
  std::array<Op, kWindow> ops_;

  std::atomic<unsigned> reaped_{0};       // Completions handled; changed under the lock.
  std::atomic<bool> stuck_{false};        // The kernel refused entries: to be flushed again.
  std::atomic<uint32_t> spin_credit_{0};  // Grows with every spin that paid.
  std::atomic<uint32_t> waits_{0};
};

}  // namespace spiritos
