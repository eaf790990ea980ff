// SPDX-License-Identifier: Apache-2.0
// TcpLane: a lane over a TCP connection.
//
//   Send:     queue ----> as much as the socket takes
//   Receive:  the reply of the queue's head --> its memory --> done, next head
//
// Replies come in the order of requests, so where a reply's bytes belong is known
// before they come: one system call takes headers and pages to their places. A write
// that arrives twice or late is told from newer ones by its pages' versions.
//
// Context: signal, but for Connect() and Fail().
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>

#include "libos/base/fd.h"
#include "libos/remote/server_lane.h"

namespace spiritos {

class TcpLane final : public ServerLane {
 public:
  using ServerLane::ServerLane;

  // Goes on over `socket`, greeted and non-blocking: what is queued is sent again.
  void Connect(UniqueFd socket, uint16_t version);

 private:
  static constexpr uint32_t kSendParts = 24;
  static constexpr uint32_t kReceiveReplies = 8;

  bool AdmitLocked(uint32_t place, uint64_t id, const LaneRequest& request) noexcept override;
  void Send() noexcept override;
  bool Receive() noexcept override;
  void Sleep(uint64_t timeout_ns) noexcept override;
  void Interrupt() noexcept override;

  bool TryConnect(UniqueFd& socket, uint16_t version);
  uint32_t GatherLocked(iovec* parts) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void AdvanceSentLocked(size_t bytes) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  uint32_t PlaceReplies(iovec* parts) noexcept;
  bool TakeReplies(size_t bytes) noexcept;

  UniqueFd socket_;
  uint16_t version_ = kWireVersion;
  std::array<FrameBytes, kWindow> headers_ ABSL_GUARDED_BY(lock_);
  size_t sent_bytes_ ABSL_GUARDED_BY(lock_) = 0;  // Of the first message not sent.
  bool send_blocked_ ABSL_GUARDED_BY(lock_) = false;

  // The receiver's alone.
  std::array<FrameBytes, kReceiveReplies> replies_;
  size_t received_ = 0;  // Bytes of the head's reply.
};

}  // namespace spiritos
