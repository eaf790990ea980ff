// SPDX-License-Identifier: Apache-2.0
// QueuePair: transfers between registered near memory and a memory server's slabs, in
// which the server's processors take no part.
//
// Transfers are done in the order of posting. The end of each message's last one is
// reported, and the first one that fails ends the connection.
//
// Threads: one posts, another one polls, arms and sleeps. Context: signal, but for
// making and unmaking. errno may change.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "libos/base/units.h"
#include "libos/remote/dial.h"
#include "libos/remote/rdma_greeting.h"
#include "libos/remote/remote_backend.h"

namespace spiritos {

class QueuePair {
 public:
  struct Transfer {
    uint64_t message = 0;  // The poster's number, rising from 1.
    IoOp op = IoOp::kRead;
    std::byte* local = nullptr;
    uint32_t bytes = 0;
    uint32_t key = 0;     // Of the slab, as its server gave it out.
    uint64_t remote = 0;  // Byte of the slab's file.
  };
  struct Progress {
    enum class Fault : uint8_t {
      kNone,
      kRefused,  // The server's device does not let us at what a message names.
      kBroken,
    };
    uint64_t through = 0;        // Every message up to this one is done; 0 = no news.
    Fault fault = Fault::kNone;  // With one the connection has ended.
    uint64_t refused = 0;        // Of kRefused: the message that is why.
  };

  // Transfers of one Post(), and on their way in all: two for each message of a lane.
  static constexpr uint32_t kMaxPost = 16;
  static constexpr uint32_t kDepth = 128;

  virtual ~QueuePair() = default;

  // False: the connection has ended.
  [[nodiscard]] virtual bool Post(std::span<const Transfer> transfers) noexcept = 0;
  virtual Progress Poll() noexcept = 0;
  // Has the next completion end a Sleep(); one that is there already may not.
  virtual void Arm() noexcept = 0;
  // Until there are completions, Interrupt() is called, or for so long. False: the
  // connection has ended.
  virtual bool Sleep(uint64_t timeout_ns) noexcept = 0;
  virtual void Interrupt() noexcept = 0;  // Any thread.
  // The server, or the network, has ended the connection. Any thread.
  virtual bool ended() const noexcept = 0;
  // Why the connection ended, as far as Poll() has seen; empty if it has not.
  virtual std::string_view failure() const noexcept = 0;
};

// Connects to the RDMA side of the server at `address`, which checks the greeting.
// `staging` is registered with the queue pair's device for as long as there is one.
// Context: any; blocks.
absl::StatusOr<std::unique_ptr<QueuePair>> ConnectQueuePair(const ServerAddress& address,
                                                            const RdmaGreeting& greeting,
                                                            AddressRange staging,
                                                            uint64_t deadline_ns);

}  // namespace spiritos
