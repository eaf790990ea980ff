// SPDX-License-Identifier: Apache-2.0
// SlabDesk: where threads that may not block on a network ask for slabs, and a keeper
// thread that may answers.
//
//   Free --Await--> Wanted --keeper--> Placed --Release--> Releasing --keeper--> Free
//                      |                                       ^
//                      +------ refused, or nobody waits -------+
//
// Threads: Await(), Release() and Call() from any; the rest from the keeper.
// Context: signal, but for Init() and AwaitCall().
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "libos/base/mapping.h"
#include "libos/remote/remote_backend.h"

namespace spiritos {

class SlabDesk {
 public:
  enum class Stage : uint32_t { kFree, kWanted, kRefused, kPlaced, kReleasing };

  absl::Status Init(uint64_t slabs);

  // A placed slab's number, waiting for the keeper for so long. kNoSpace leaves nothing
  // behind. errno is left as it was.
  IoResult Await(uint64_t* index, uint64_t patience_ns = kPatienceNs) noexcept;
  // A fault may be waiting for the thread that does.
  static constexpr uint64_t kPatienceNs = 5'000'000'000;
  // Gives a placed slab back.
  void Release(uint64_t index) noexcept;
  // Has the keeper look around soon.
  void Call() noexcept;

  uint32_t calls() const { return calls_.load(std::memory_order_acquire); }
  // Sleeps until somebody has called since `seen`, or for so long.
  void AwaitCall(uint32_t seen, uint64_t timeout_ns) noexcept;
  // One past the highest slab ever asked for: what a walk looks at.
  uint64_t used() const { return used_.load(std::memory_order_acquire); }
  Stage StageOf(uint64_t index) const { return stages_[index].load(std::memory_order_acquire); }
  // Has `place` try each slab that is wanted: Placed, Refused, or Wanted to be asked
  // again soon. False when some are to be. None is refused while others come back.
  bool AnswerWanted(absl::FunctionRef<Stage(uint64_t)> place);
  // What was being released is gone.
  void Free(uint64_t index) noexcept;

 private:
  // Claims a free number; size_ when all are in use, and whether some soon are not.
  uint64_t Want(bool* soon) noexcept;
  void Announce() noexcept;
  bool AnyReleasing() const;

  Mapping memory_;
  std::atomic<Stage>* stages_ = nullptr;
  uint64_t size_ = 0;
  std::atomic<uint64_t> used_{0};
  std::atomic<uint32_t> calls_{0};
  std::atomic<uint32_t> answers_{0};
};

}  // namespace spiritos
