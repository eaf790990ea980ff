// SPDX-License-Identifier: Apache-2.0
// ZoneWord: what a zone is going through and how many pins it holds, in one word
// that changes by one read-modify-write.
//
//            +------------------- Thawing <---------------+
//            v                       ^                    |
//   Idle --sweep--> Freezing ----> Frozen <--next batch-- Dropping
//     \                              \------------------>/
//      \--range call--> Exclusive --> Idle
//
//   Idle       stores and faults go on
//   Freezing   a sweep claims victims and protects the zone: whoever must not
//              meet the protection waits for the call to end
//   Frozen     victims are hashed and written; a store takes its page back
//   Dropping   the gate is closed: no page may appear in the zone, so that one
//              zap can cover a whole stretch, absent pages included
//   Thawing    what stayed is un-protected
//   Exclusive  a range call owns the zone; the gate is closed
//
// Two rules carry the proofs, both store-then-look on either side (seq_cst):
//   gate: a fault claims Loading, then looks at the stage; the sweep closes the
//         gate, then looks at the words. A fault that finds the gate closed takes
//         its claim back; a claim that the sweep sees is left out of the zap.
//   pins: a pinner pins the page word, then adds itself here, and learns the
//         stage by that same addition; the sweep enters Freezing, then looks at
//         the words. Either the sweep goes around the page or the pinner waits
//         for the protection and takes it off its page.
#pragma once

#include <atomic>
#include <cstdint>

namespace spiritos {

enum class ZoneStage : uint8_t { kIdle, kFreezing, kFrozen, kDropping, kThawing, kExclusive };

class ZoneWord {
 public:
  constexpr explicit ZoneWord(uint64_t raw) : raw_(raw) {}
  constexpr ZoneStage stage() const { return static_cast<ZoneStage>(raw_ & 0xF); }
  // On some evictor's list, or in the hands of who took it off to sweep it.
  constexpr bool listed() const { return (raw_ & kListed) != 0; }
  constexpr uint32_t pins() const { return static_cast<uint32_t>(raw_ >> 32); }
  // No page may appear in the zone.
  constexpr bool gate_closed() const {
    return stage() == ZoneStage::kDropping || stage() == ZoneStage::kExclusive;
  }
  // Pages of the zone may be write-protected.
  constexpr bool swept() const {
    return stage() != ZoneStage::kIdle && stage() != ZoneStage::kExclusive;
  }
  static constexpr uint64_t kListed = 1u << 4;

 private:
  uint64_t raw_;
};

class AtomicZoneWord {
 public:
  ZoneWord Load() const noexcept { return ZoneWord(raw_.load(std::memory_order_seq_cst)); }

  // Idle -> `stage` (Freezing or Exclusive); false if the zone is not idle.
  [[nodiscard]] bool TryEnter(ZoneStage stage) noexcept {
    uint64_t word = raw_.load(std::memory_order_relaxed);
    while ((word & 0xF) == static_cast<uint64_t>(ZoneStage::kIdle)) {
      if (raw_.compare_exchange_weak(word, word | static_cast<uint64_t>(stage),
                                     std::memory_order_seq_cst)) {
        CountStage(ZoneStage::kIdle, stage);
        return true;
      }
    }
    return false;
  }
  // From the caller's own stage to the next. Pins and listing are carried.
  void Advance(ZoneStage from, ZoneStage to) noexcept {
    CountStage(from, to);
    raw_.fetch_add(static_cast<uint64_t>(to) - static_cast<uint64_t>(from),
                   std::memory_order_seq_cst);
  }

  // The word as it was before.
  ZoneWord AddPins(uint32_t n) noexcept {
    return ZoneWord(raw_.fetch_add(uint64_t{n} << 32, std::memory_order_seq_cst));
  }
  void RemovePins(uint32_t n) noexcept {
    raw_.fetch_sub(uint64_t{n} << 32, std::memory_order_seq_cst);
  }

  // True for the one caller that turned the mark on.
  [[nodiscard]] bool TryList() noexcept {
    return (raw_.fetch_or(ZoneWord::kListed, std::memory_order_seq_cst) & ZoneWord::kListed) == 0;
  }
  void Unlist() noexcept { raw_.fetch_and(~ZoneWord::kListed, std::memory_order_seq_cst); }

 private:
#ifdef SPIRITOS_FAILPOINTS
  static void CountStage(ZoneStage from, ZoneStage to) noexcept;
#else
  static void CountStage(ZoneStage, ZoneStage) noexcept {}
#endif

  std::atomic<uint64_t> raw_{0};
};

#ifdef SPIRITOS_FAILPOINTS
uint64_t StagesTaken(ZoneStage from, ZoneStage to) noexcept;
void ResetStages() noexcept;
#endif

}  // namespace spiritos
