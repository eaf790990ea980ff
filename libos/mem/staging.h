// SPDX-License-Identifier: Apache-2.0
// StagingPool: near buffers for pages on their way from a pool.
//
// Only pools that are not memory of this process need them. All buffers have one
// size and count in the budget from the start. Context: signal.
#pragma once

#include <cstdint>

#include "libos/base/lock.h"
#include "libos/base/parker.h"
#include "libos/base/pinned_arena.h"
#include "libos/base/units.h"

namespace spiritos {

class StagingPool {
 public:
  // `count` buffers of `pages` pages. False when near memory is short.
  [[nodiscard]] bool Init(PinnedArena& arena, uint32_t count, uint32_t pages) noexcept {
    const size_t bytes = size_t{pages} << kPageShift;
    auto* const memory = static_cast<std::byte*>(arena.Allocate(size_t{count} * bytes, kPageSize));
    if (memory == nullptr) return false;
    for (uint32_t i = 0; i < count; ++i) Push(memory + i * bytes);
    return true;
  }

  // Null when all are in use.
  std::byte* TryTake() noexcept {
    LockGuard guard(lock_);
    Link* const link = free_;
    if (link == nullptr) return nullptr;
    free_ = link->next;
    return reinterpret_cast<std::byte*>(link);
  }
  // Waits for one. REQUIRES: the caller holds none, so that holders get on.
  std::byte* Take(Parker& parker) noexcept {
    std::byte* buffer = TryTake();
    if (buffer == nullptr) {
      parker.Wait(this, [&] { return (buffer = TryTake()) != nullptr; });
    }
    return buffer;
  }
  void Give(std::byte* buffer, Parker& parker) noexcept {
    Push(buffer);
    parker.Unpark(this);
  }

 private:
  // A free buffer's first bytes.
  struct Link {
    Link* next;
  };
  void Push(std::byte* buffer) noexcept {
    LockGuard guard(lock_);
    free_ = ::new (buffer) Link{free_};
  }

  SpinLock lock_{LockRank::kStaging};
  Link* free_ ABSL_GUARDED_BY(lock_) = nullptr;
};

}  // namespace spiritos
