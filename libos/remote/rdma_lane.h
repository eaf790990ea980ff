// SPDX-License-Identifier: Apache-2.0
// RdmaLane: a lane whose messages read and write a server's slabs themselves.
//
//   write:  memory --copy--> staging --WRITE pages, WRITE trailers--> slab
//   read:   slab ----------READ----> staging ---------copy----------> memory
//
// Far memory cannot be registered with a device, which would pin it, so bytes go through
// near staging of a fixed size; a write in flight is not torn by stores. Messages that
// are small and there at once go out in one chain.
// Trailers follow their pages: a page without its trailer is told by its checksum.
//
// No server looks at versions here. What keeps a late write from harm is that the old
// queue pair is gone, here and there, before anything is sent again.
//
// Context: signal, but for Connect() and Fail().
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "libos/base/mapping.h"
#include "libos/remote/queue_pair.h"
#include "libos/remote/server_lane.h"
#include "libos/remote/staging_ring.h"

namespace spiritos {

class RdmaLane final : public ServerLane {
 public:
  // What is on its way on a lane: more than a fast network holds, as little as can be
  // for memory that each lane to each server takes.
  static constexpr uint32_t kStagingPages = 256;

  using Connector = decltype(&ConnectQueuePair);

  explicit RdmaLane(Sink& sink, Connector connector = ConnectQueuePair)
      : ServerLane(sink), connector_(connector) {}

  // Ends the connection that there was, makes another, and sends what is queued again.
  absl::Status Connect(const ServerAddress& address, const RdmaGreeting& greeting,
                       uint64_t deadline_ns);

  bool broken() const override {
    return state() == State::kBroken || (state() == State::kUp && queue_pair_->ended());
  }

 private:
  // Messages of one Post().
  static constexpr uint32_t kBatch = QueuePair::kMaxPost / 2;
  static_assert(2 * kWindow <= QueuePair::kDepth, "each message is two transfers at most");
  static_assert(kStagingPages >= 2 * kMaxWirePages, "one is filled while one is on its way");

  struct Staged {
    uint32_t first = 0;  // Page of the staging.
    uint32_t pages = 0;
    bool filled = false;  // A write's bytes are there.
  };
  struct Outgoing {
    LaneRequest* request;
    uint64_t id;
    Staged* staged;
  };

  bool AdmitLocked(uint32_t place, uint64_t id, const LaneRequest& request) noexcept override;
  void DismissLocked(uint32_t place) noexcept override;
  void Send() noexcept override;
  bool Receive() noexcept override;
  void Sleep(uint64_t timeout_ns) noexcept override;
  void Interrupt() noexcept override { queue_pair_->Interrupt(); }

  absl::Status MakeStaging();
  bool IsMoving();
  uint32_t TakeUnsentLocked(Outgoing* batch) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  bool Post(std::span<const Outgoing> batch) noexcept;
  bool IsOldest(uint64_t id) noexcept;
  // Ends the oldest message, if it is sent and its number at most `through`.
  bool FinishOne(uint64_t through, WireStatus result) noexcept;

  std::byte* PageAt(uint32_t page) const { return staging_.data() + (size_t{page} << kPageShift); }
  PageTrailer* TrailerAt(uint32_t page) const {
    return reinterpret_cast<PageTrailer*>(PageAt(kStagingPages)) + page;
  }

  const Connector connector_;
  Mapping staging_;  // Pages, then a trailer for each.
  StagingRing ring_ ABSL_GUARDED_BY(lock_){kStagingPages};
  std::array<Staged, kWindow> staged_;  // By place: the sender's until sent.
  std::unique_ptr<QueuePair> queue_pair_;
};

}  // namespace spiritos
