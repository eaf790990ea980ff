// SPDX-License-Identifier: Apache-2.0
// TcpLane: a lane over a TCP connection.
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
// Context: signal, but for Connect() and Fail(). errno is left as it was.
#pragma once

#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstdint>

#include "libos/base/fd.h"
#include "libos/base/lock.h"
#include "libos/remote/server_lane.h"

namespace spiritos {

class TcpLane final : public ServerLane {
 public:
  explicit TcpLane(Sink& sink) : sink_(sink) {}
  TcpLane(const TcpLane&) = delete;
  TcpLane& operator=(const TcpLane&) = delete;

  // Goes on over `socket`, greeted and non-blocking: what is queued is sent again.
  void Connect(UniqueFd socket, uint16_t version);

  void Fail(WireStatus result) override;
  bool broken() const override { return state_.load(std::memory_order_acquire) == State::kBroken; }
  uint64_t oldest_ns() const override { return oldest_ns_.load(std::memory_order_relaxed); }
  [[nodiscard]] IoResult Submit(LaneRequest& request) noexcept override;
  bool Poll() noexcept override;
  bool Wait(absl::FunctionRef<bool()> ready, uint64_t deadline_ns) noexcept override;

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
