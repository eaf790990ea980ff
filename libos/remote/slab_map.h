// SPDX-License-Identifier: Apache-2.0
// SlabMap: which servers hold a pool's slabs; slot to (server, slab, page).
//
//   copy:   None --> Filling --> Live --> None
//                    writes      reads
//                    only        and writes
//
// A copy that is not in the map is dead: what it holds may be old. A placed slab without
// a copy is lost.
//
// The pool's keeper alone changes copies. A reader takes a snapshot under the entry's
// sequence number, odd while the keeper writes (a seqlock; Boehm, MSPC 2012).
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
  enum class State : uint8_t { kNone, kFilling, kLive };
  State state = State::kNone;
  uint16_t server = 0;
  uint32_t epoch = 0;
  uint64_t slab = 0;  // The server's number of it.
  uint32_t key = 0;   // For queue pairs.

  bool operator==(const SlabCopy&) const = default;
};
using SlabCopies = std::array<SlabCopy, kMaxCopies>;
inline uint32_t LiveCopies(const SlabCopies& copies) {
  uint32_t live = 0;
  for (const SlabCopy& copy : copies) live += copy.state == SlabCopy::State::kLive ? 1 : 0;
  return live;
}
// Where one more copy would go; null when all entries are taken.
inline SlabCopy* FreeEntry(SlabCopies& copies) {
  for (SlabCopy& copy : copies) {
    if (copy.state == SlabCopy::State::kNone) return &copy;
  }
  return nullptr;
}

class SlabMap {
 public:
  absl::Status Init(uint64_t max_slabs);

  static uint64_t IndexOf(SlotId slot) { return slot.raw() / kSlabPages; }
  static SlotId FirstSlot(uint64_t index) { return SlotId(index * kSlabPages); }

  SlabCopies Copies(uint64_t index) const noexcept;
  // REQUIRES: the keeper calls.
  void SetCopies(uint64_t index, const SlabCopies& copies) noexcept;

 private:
  struct alignas(kCacheLine) Entry {
    std::atomic<uint32_t> sequence{0};
    std::array<std::atomic<uint32_t>, kMaxCopies> keys{};
    // A copy in two words: state, server, epoch; slab.
    std::array<std::array<std::atomic<uint64_t>, 2>, kMaxCopies> copies{};
  };
  static_assert(sizeof(Entry) == kCacheLine);

  Mapping memory_;
  Entry* entries_ = nullptr;
};

}  // namespace spiritos
