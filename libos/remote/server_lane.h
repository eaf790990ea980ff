// SPDX-License-Identifier: Apache-2.0
// ServerLane: one connection to a memory server, shared by any number of threads.
//
//   Submit:   queue ----> send as much as the socket takes
//   receive:  the reply of the queue's head --> its memory --> done, next head
//
// Replies come in the order of requests, so where a reply's bytes belong is known
// before they come: one system call takes headers and pages to their places.
//
// One thread at a time sends, one receives. A thread that waits and finds nobody
// receiving sleeps in poll(2) and receives; the others sleep on a futex until some
// request is done or the receiver leaves. When the connection breaks the queue stays:
// Connect() sends all of it again. A read may be repeated; a write that arrives twice
// or late is told from newer ones by its pages' versions.
//
// Context: signal, but for Connect(). errno is left as it was.
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "libos/base/fd.h"
#include "libos/base/lock.h"
#include "libos/remote/remote_backend.h"
#include "libos/remote/wire.h"

namespace spiritos {

class ServerLane;

// One message to one server. The submitter's until Submit(), and again once final.
struct LaneRequest {
  IoOp op = IoOp::kRead;
  uint64_t slab = 0;  // The server's number of it.
  uint32_t epoch = 0;
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
  ServerLane(const ServerLane&) = delete;
  ServerLane& operator=(const ServerLane&) = delete;

  // Goes on over `socket`, greeted and non-blocking: what is queued is sent again.
  void Connect(UniqueFd socket, uint16_t version);
  // All that is queued ends with `result`, and what comes is refused, until the next
  // Connect().
  void Fail(WireStatus result);
  // The connection is gone: Connect() or Fail() is due.
  bool broken() const { return state_.load(std::memory_order_acquire) == State::kBroken; }
  // When the oldest message in flight was submitted; 0 with none.
  uint64_t oldest_ns() const { return oldest_ns_.load(std::memory_order_relaxed); }

  // kBusy: the window is full. A broken lane queues. kPeerGone: it has failed.
  [[nodiscard]] IoResult Submit(LaneRequest& request) noexcept;
  // Receives what is there; true if a request became final.
  bool Poll() noexcept;
  // Receives until `ready()`, which a message on this lane makes true; false when
  // `deadline_ns` comes first.
  bool Wait(absl::FunctionRef<bool()> ready, uint64_t deadline_ns) noexcept;

 private:
  enum class State : uint32_t { kDown, kUp, kBroken, kFailed };
  static constexpr uint32_t kSendParts = 24;
  static constexpr uint32_t kReceiveReplies = 8;

  struct Slot {
    LaneRequest* request = nullptr;
    FrameBytes header;
    uint64_t id = 0;
    uint64_t submitted_ns = 0;
  };
  Slot& At(uint32_t i) { return slots_[(head_ + i) % kWindow]; }

  bool TryConnect(UniqueFd& socket, uint16_t version);
  void Send() noexcept;
  uint32_t GatherLocked(iovec* parts) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void AdvanceSentLocked(size_t bytes) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  // The receiver's role, held between the two.
  bool TryLead() noexcept;
  void Leave() noexcept;
  // For the receiver: what is there. True if a request became final.
  bool Receive() noexcept;
  uint32_t PlaceReplies(iovec* parts) noexcept;
  bool TakeReplies(size_t bytes) noexcept;
  bool Spin(absl::FunctionRef<bool()> ready) noexcept;
  void Break() noexcept;
  void WakeSleepers() noexcept;

  Sink& sink_;
  UniqueFd socket_;
  uint16_t version_ = kWireVersion;
  std::atomic<State> state_{State::kDown};
  std::atomic<uint64_t> oldest_ns_{0};

  SpinLock lock_{LockRank::kLane};
  std::array<Slot, kWindow> slots_ ABSL_GUARDED_BY(lock_);
  uint32_t head_ ABSL_GUARDED_BY(lock_) = 0;
  uint32_t count_ ABSL_GUARDED_BY(lock_) = 0;
  uint32_t sent_ ABSL_GUARDED_BY(lock_) = 0;      // Messages, from the head on.
  size_t sent_bytes_ ABSL_GUARDED_BY(lock_) = 0;  // Of the one after those.
  uint64_t next_id_ ABSL_GUARDED_BY(lock_) = 1;
  bool sending_ ABSL_GUARDED_BY(lock_) = false;
  bool receiving_ ABSL_GUARDED_BY(lock_) = false;
  bool send_blocked_ ABSL_GUARDED_BY(lock_) = false;

  // The receiver's alone.
  std::array<FrameBytes, kReceiveReplies> replies_;
  size_t received_ = 0;  // Bytes of the head's reply.

  // Bumped when a request becomes final and when the receiver leaves.
  std::atomic<uint32_t> turn_{0};
  std::atomic<uint32_t> sleepers_{0};
  std::atomic<uint32_t> spin_credit_{0};
  std::atomic<uint32_t> waits_{0};
};

}  // namespace spiritos
