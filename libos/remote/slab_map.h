// SPDX-License-Identifier: Apache-2.0
// SlabMap: which servers hold a pool's slabs; slot to (server, slab, page).
//
//   entry:  Free --Want--> Wanted --Fill--> Placed --Release--> Releasing --> Free
//   copy:   None --> Filling --> Live --> Dead --> None
//                    writes      reads
//                    only        and writes
//
// Any thread asks for a slab, reads an entry and gives a slab back; the pool's keeper
// alone changes copies. A reader takes a snapshot under the entry's sequence number, odd
// while the keeper writes (a seqlock; Boehm, MSPC 2012).
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
  enum class Stage : uint32_t { kFree, kWanted, kRefused, kPlaced, kReleasing };

  absl::Status Init(uint64_t max_slabs);

  uint64_t size() const { return size_; }
  static uint64_t IndexOf(SlotId slot) { return slot.raw() / kSlabPages; }
  static SlotId FirstSlot(uint64_t index) { return SlotId(index * kSlabPages); }

  // Claims a free entry and marks it wanted; size() when none is free.
  uint64_t Want() noexcept;
  Stage StageOf(uint64_t index) const noexcept {
    return entries_[index].stage.load(std::memory_order_acquire);
  }
  // False when it is at another stage.
  [[nodiscard]] bool TrySetStage(uint64_t index, Stage from, Stage to) noexcept {
    return entries_[index].stage.compare_exchange_strong(from, to, std::memory_order_acq_rel);
  }
  void SetStage(uint64_t index, Stage stage) noexcept {
    entries_[index].stage.store(stage, std::memory_order_release);
  }
  // One past the highest entry ever used: what a walk looks at.
  uint64_t used() const noexcept { return used_.load(std::memory_order_acquire); }

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
    std::atomic<Stage> stage{Stage::kFree};
    std::atomic<uint32_t> sequence{0};
    std::atomic<uint32_t> parity{0};
    std::array<std::atomic<uint32_t>, 2> writes{};
    // A copy in two words: state, server, epoch; slab.
    std::array<std::array<std::atomic<uint64_t>, 2>, kMaxCopies> copies{};
  };
  static_assert(sizeof(Entry) == 2 * kCacheLine);

  Mapping memory_;
  Entry* entries_ = nullptr;
  uint64_t size_ = 0;
  std::atomic<uint64_t> used_{0};
};

}  // namespace spiritos
