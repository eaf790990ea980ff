// SPDX-License-Identifier: Apache-2.0
// ServerLane: messages to one memory server of one kind, shared by any number of threads.
//
//   Submit --> | sent, in order | not sent | --Send--> the server
//   sink <---- head's end <----------------- Receive --'
//
//   Down --connected--> Up --Break()--> Broken --connected again--> Up
//                        +------ Fail() ---+--> Failed --connected again--> Up
//
// Messages end in the order of their submission. One thread at a time sends, one
// receives. A thread that waits and finds nobody receiving sleeps until something comes
// and receives it; the others sleep on a futex until some message has ended or the
// receiver leaves. When the connection breaks the queue stays, and goes out again over
// the next one: a read may be repeated, and what keeps a write that arrives twice or
// late from harm is the business of each kind of lane.
//
// Context: signal, but for Fail() and connecting. errno is left as it was.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "libos/base/lock.h"
#include "libos/remote/remote_backend.h"
#include "libos/remote/wire.h"

namespace spiritos {

// One message to one server. The submitter's until Submit(), and again once final.
struct LaneRequest {
  IoOp op = IoOp::kRead;
  uint64_t slab = 0;  // The server's number of it.
  uint32_t epoch = 0;
  uint32_t key = 0;    // Of the slab, for queue pairs.
  uint32_t first = 0;  // Page in the slab.
  uint32_t pages = 0;  // At most kMaxWirePages.
  std::byte* memory = nullptr;
  std::array<PageTrailer, kMaxWirePages> trailers;  // Of a write.

  WireStatus result = WireStatus::kOk;  // Once final.
};

class ServerLane {
 public:
  // Messages in flight: no more than any server takes.
  static constexpr uint32_t kWindow = 64;

  // Who is told that a request is final, by whichever thread received it. The request
  // is the sink's from that call on.
  class Sink {
   public:
    virtual void OnFinal(LaneRequest& request) noexcept = 0;

   protected:
    ~Sink() = default;
  };

  explicit ServerLane(Sink& sink) : sink_(sink) {}
  virtual ~ServerLane() = default;
  ServerLane(const ServerLane&) = delete;
  ServerLane& operator=(const ServerLane&) = delete;

  // All that is queued ends with `result`, and what comes is refused, until the lane is
  // connected again.
  void Fail(WireStatus result);
  // The connection is gone: connecting again or Fail() is due.
  virtual bool broken() const { return state() == State::kBroken; }
  // Since when the lane has waited for its next reply: from the last one on, or from the
  // submission that found none in flight; 0 with none. A long queue is no silence.
  uint64_t waiting_since_ns() const { return waiting_since_ns_.load(std::memory_order_relaxed); }

  // kBusy: the window is full. A broken lane queues. kPeerGone: it has failed.
  [[nodiscard]] IoResult Submit(LaneRequest& request) noexcept;
  // Receives what is there; true if a request became final.
  bool Poll() noexcept;
  // Whether the request is in flight: submitted, and its end not yet on its way.
  bool Has(const LaneRequest& request) noexcept;
  // From here on nothing of a read goes where it went: if it is in flight, what is still
  // to come of it goes to `memory`. False: something is being received right now.
  [[nodiscard]] bool Redirect(LaneRequest& request, std::byte* memory) noexcept;
  // Receives until `ready()`, which a message on this lane makes true; false when
  // `deadline_ns` comes first.
  bool Wait(absl::FunctionRef<bool()> ready, uint64_t deadline_ns) noexcept;

 protected:
  enum class State : uint32_t { kDown, kUp, kBroken, kFailed };
  State state() const { return state_.load(std::memory_order_acquire); }

  // What each kind of lane does in its way; these may change errno.
  //
  // A message gets a place in the window, or is refused for now; and leaves it.
  virtual bool AdmitLocked(uint32_t place, uint64_t id, const LaneRequest& request) noexcept
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) = 0;
  virtual void DismissLocked(uint32_t) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {}
  // Sends what is queued, as far as nobody else does.
  virtual void Send() noexcept = 0;
  // For the receiver: takes what is there; true if a request became final.
  virtual bool Receive() noexcept = 0;
  // For the receiver: sleeps until there is something to take or to send, or for so long.
  virtual void Sleep(uint64_t timeout_ns) noexcept = 0;
  // Has whoever sleeps return.
  virtual void Interrupt() noexcept = 0;

  bool MayMoveLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return state_.load(std::memory_order_relaxed) == State::kUp;
  }
  // Whether a thread uses the connection now. While none does, and the lane is not up,
  // the connection is the keeper's.
  bool MovingLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) { return sending_ || receiving_; }
  // There is a connection, on which nothing has been sent.
  void ResumeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Sends what waited for the connection, and has sleepers look at it.
  void Resume();
  void Break() noexcept;

  // The messages queued, the oldest first.
  uint32_t PlaceLocked(uint32_t i) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return (head_ + i) % kWindow;
  }
  LaneRequest& RequestLocked(uint32_t i) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) {
    return *slots_[PlaceLocked(i)];
  }
  uint64_t IdLocked(uint32_t i) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_) { return head_id_ + i; }
  void PopLocked() noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  Sink& sink_;
  SpinLock lock_{LockRank::kLane};
  uint32_t count_ ABSL_GUARDED_BY(lock_) = 0;
  uint32_t sent_ ABSL_GUARDED_BY(lock_) = 0;  // Of them, from the head on.
  bool sending_ ABSL_GUARDED_BY(lock_) = false;
  // Set under the lock: from here on the receiver writes to requests' memory without it.
  std::atomic<bool> arriving_{false};

 private:
  // The receiver's role, held between the two.
  bool TryLead() noexcept;
  bool HasLocked(const LaneRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Leave() noexcept;
  bool Spin(absl::FunctionRef<bool()> ready) noexcept;
  void WakeSleepers() noexcept;

  std::array<LaneRequest*, kWindow> slots_ ABSL_GUARDED_BY(lock_);
  uint32_t head_ ABSL_GUARDED_BY(lock_) = 0;
  uint64_t head_id_ ABSL_GUARDED_BY(lock_) = 1;
  bool receiving_ ABSL_GUARDED_BY(lock_) = false;

  std::atomic<State> state_{State::kDown};
  std::atomic<uint64_t> waiting_since_ns_{0};
  // Bumped when a request becomes final and when the receiver leaves.
  std::atomic<uint32_t> turn_{0};
  std::atomic<uint32_t> sleepers_{0};
  static constexpr uint32_t kMaxSpinCredit = 8;
  std::atomic<uint32_t> spin_credit_{kMaxSpinCredit};
  std::atomic<uint32_t> waits_{0};
};

}  // namespace spiritos
