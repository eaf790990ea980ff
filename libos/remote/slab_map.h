// SPDX-License-Identifier: Apache-2.0
// SlabMap: which servers hold a pool's slabs; slot to (server, slab, page).
//
//   copy:   None --> Filling --> Live --> Dead --> None
//                    writes      reads
//                    only        and writes
//
// The pool's keeper alone changes copies. A reader takes a snapshot under the entry's
// sequence number, odd while the keeper writes (a seqlock; Boehm, MSPC 2012).
//
// Writes are counted by parity so that the keeper can wait for those that may not have
// seen a change: it flips the parity and waits for the old one's count to fall to 0.
// Context: signal, but for the keeper's calls.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "libos/base/core.h"
#include "libos/base/mapping.h"
#include "libos/base/units.h"

namespace spiritos {

inline constexpr uint32_t kMaxCopies = 3;

struct SlabCopy {
  enum class State : uint8_t { kNone, kFilling, kLive, kDead };
  State state = State::kNone;
  uint16_t server = 0;
  uint32_t epoch = 0;
  uint64_t slab = 0;  // The server's number of it.
};
using SlabCopies = std::array<SlabCopy, kMaxCopies>;

class SlabMap {
 public:
  absl::Status Init(uint64_t max_slabs);

  static uint64_t IndexOf(SlotId slot) { return slot.raw() / kSlabPages; }
  static SlotId FirstSlot(uint64_t index) { return SlotId(index * kSlabPages); }

  SlabCopies Copies(uint64_t index) const noexcept;
  // REQUIRES: the keeper calls.
  void SetCopies(uint64_t index, const SlabCopies& copies) noexcept;

  // Brackets a write. Begin comes before the copies are read.
  uint32_t BeginWrite(uint64_t index) noexcept {
    Entry& entry = entries_[index];
    while (true) {
      const uint32_t parity = entry.parity.load(std::memory_order_seq_cst);
      entry.writes[parity].fetch_add(1, std::memory_order_seq_cst);
      // FlipParity() flips, then looks at the count.
      if (entry.parity.load(std::memory_order_seq_cst) == parity) return parity;
      entry.writes[parity].fetch_sub(1, std::memory_order_relaxed);
    }
  }
  void EndWrite(uint64_t index, uint32_t parity) noexcept {
    entries_[index].writes[parity].fetch_sub(1, std::memory_order_release);
  }
  // New writes count elsewhere from here on. REQUIRES: the last flip's writes ended.
  void FlipParity(uint64_t index) noexcept {
    entries_[index].parity.fetch_xor(1, std::memory_order_seq_cst);
  }
  bool OldWritesEnded(uint64_t index) const noexcept {
    const Entry& entry = entries_[index];
    const uint32_t old = entry.parity.load(std::memory_order_relaxed) ^ 1;
    return entry.writes[old].load(std::memory_order_acquire) == 0;
  }

 private:
  struct alignas(kCacheLine) Entry {
    std::atomic<uint32_t> sequence{0};
    std::atomic<uint32_t> parity{0};
    std::array<std::atomic<uint32_t>, 2> writes{};
    // A copy in two words: state, server, epoch; slab.
    std::array<std::array<std::atomic<uint64_t>, 2>, kMaxCopies> copies{};
  };
  static_assert(sizeof(Entry) == kCacheLine);

  Mapping memory_;
  Entry* entries_ = nullptr;
};

}  // namespace spiritos
