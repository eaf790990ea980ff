// SPDX-License-Identifier: Apache-2.0
// SealBook: the seal of every slot, in near memory: 24 bytes a page.
//
// A slab's part comes when the slab is placed for the first time, and stays. Who may use
// a slot may use its seal: the book adds no order of its own. Context: signal, but for
// Init().
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "libos/base/mapping.h"
#include "libos/base/pinned_arena.h"
#include "libos/remote/page_cipher.h"

namespace spiritos {

class SealBook {
 public:
  // `capacity`: of the pool, 0 = not known.
  absl::Status Init(Bytes capacity);

  // Room for a slab that has just been placed, nothing of which has been sealed. False
  // when there is no memory.
  [[nodiscard]] bool Begin(SlotId first) noexcept;
  // REQUIRES: the slot's slab has begun.
  PageSeal& operator[](SlotId slot) noexcept {
    return slabs_[slot.raw() / kSlabPages].load(std::memory_order_acquire)[slot.raw() % kSlabPages];
  }
  void Forget(SlotId first, uint32_t pages) noexcept;

 private:
  uint64_t max_slabs_ = 0;
  Mapping memory_;
  std::atomic<PageSeal*>* slabs_ = nullptr;
  PinnedArena arena_;
};

}  // namespace spiritos
