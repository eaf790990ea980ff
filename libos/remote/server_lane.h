// SPDX-License-Identifier: Apache-2.0
// ServerLane: messages to one memory server of one kind, shared by any number of threads.
//
// A lane outlives its connections: one that breaks leaves the queue as it is, and what is
// queued goes out again over the next. The space's keeper connects and fails lanes.
//
// Context: signal, but for Fail(). errno is left as it was.
#pragma once

#include <array>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "libos/remote/remote_backend.h"
#include "libos/remote/wire.h"

namespace spiritos {

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

  virtual ~ServerLane() = default;

  // All that is queued ends with `result`, and what comes is refused, until the lane is
  // connected again.
  virtual void Fail(WireStatus result) = 0;
  // The connection is gone: connecting again or Fail() is due.
  virtual bool broken() const = 0;
  // When the oldest message in flight was submitted; 0 with none.
  virtual uint64_t oldest_ns() const = 0;

  // kBusy: the window is full. A broken lane queues. kPeerGone: it has failed.
  [[nodiscard]] virtual IoResult Submit(LaneRequest& request) noexcept = 0;
  // Receives what is there; true if a request became final.
  virtual bool Poll() noexcept = 0;
  // Receives until `ready()`, which a message on this lane makes true; false when
  // `deadline_ns` comes first.
  virtual bool Wait(absl::FunctionRef<bool()> ready, uint64_t deadline_ns) noexcept = 0;
};

}  // namespace spiritos
