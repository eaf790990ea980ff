// SPDX-License-Identifier: Apache-2.0
// RdmaQueuePair: a reliably connected queue pair of libibverbs, made by librdmacm.
//
// Posting and polling are the device's user-space driver's: they write to and read from
// queues that are mapped, under that driver's spin locks, and allocate nothing. Events
// are counted and acknowledged at the end, as acknowledging takes a mutex.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string_view>

#include "libos/base/fd.h"
#include "libos/remote/queue_pair.h"
#include "libos/remote/rdma_verbs.h"

namespace spiritos {

class RdmaQueuePair final : public QueuePair {
 public:
  static absl::StatusOr<std::unique_ptr<RdmaQueuePair>> Connect(const ServerAddress& address,
                                                                const RdmaGreeting& greeting,
                                                                AddressRange staging,
                                                                uint64_t deadline_ns);
  ~RdmaQueuePair() override;

  [[nodiscard]] bool Post(std::span<const Transfer> transfers) noexcept override;
  Progress Poll() noexcept override;
  void Arm() noexcept override;
  bool Sleep(uint64_t timeout_ns) noexcept override;
  void Interrupt() noexcept override;
  bool ended() const noexcept override;
  std::string_view failure() const noexcept override {
    const char* const text = failure_.load(std::memory_order_acquire);
    return text == nullptr ? std::string_view() : text;
  }

  ibv_qp* queue_pair() { return id_->qp; }

 private:
  RdmaQueuePair() = default;
  absl::Status Resolve(const ServerAddress& address, uint64_t deadline_ns);
  absl::Status Prepare(AddressRange staging);
  absl::Status Greet(const ServerAddress& address, const RdmaGreeting& greeting,
                     uint64_t deadline_ns);
  absl::Status Await(rdma_cm_event_type wanted, const ServerAddress& address, uint64_t deadline_ns);

  CmChannel channel_;
  CompletionChannel completion_channel_;
  CompletionQueue completions_;
  ProtectionDomain domain_;
  MemoryRegion staging_;
  CmId id_;
  UniqueFd wake_;        // An eventfd.
  unsigned events_ = 0;  // Of the completion channel, not acknowledged yet.
  std::atomic<const char*> failure_{nullptr};
};

}  // namespace spiritos
