// SPDX-License-Identifier: Apache-2.0
// PageWord: where one page is, in 64 bits, with one function per transition.
//
//   Empty ----first touch-----> Loading --> Resident --> Leaving --> Zapping --> Remote
//   Remote --demand/prefetch--> Loading        ^            |            \--> Standby --> Remote
//   Standby --touched---------> Loading        |            |
//                                           Thawing <-------+   a store into a Leaving page, or
//                                                               into a frozen Resident one
//
//   A page that had memory when its region was made begins Resident.
//   Read-ahead: Remote -> Loading -> Standby, and from there on as drawn.
//   Also: Loading goes back where it came from when its zone is closed (a drop or
//   a range call is at work there) or its read failed; Leaving and Zapping go back
//   to Resident when a write or a zap failed. Range calls own a closed zone: they
//   claim Resident pages (Zapping), and set these and absent ones to Empty or Hole.
//
//   Empty     never written (or discarded): reads as zeroes, has no frame
//   Loading   claimed by one thread, which fetches and fills; others wait
//   Resident  mapped; counts a frame
//   Leaving   a victim: frozen, readable, perhaps being written; counts a frame
//   Thawing   claimed by one thread, which un-protects it; others wait
//   Zapping   given up for good; about to be dropped; faults wait
//   Remote    in the pool, or zero; has no frame
//   Standby   as Remote, and its bytes are in staging buffer `aux - 1`
//   Hole      unmapped or PROT_NONE: no fault can come from here
//
// Who may change what: Loading belongs to the thread that claimed it, Zapping to
// the sweep or range call: they publish with a store. Every other arrow is a compare-and-swap,
// so that exactly one thread takes it; Thawing's too, as the end of a write may
// clear its flag in any state. Pins live in the word, so that claiming a victim
// and pinning it exclude each other.
//
// A guarded page is write-protected and holds exactly what its slot holds, so it
// can go without a look at its bytes. A page that a load brings is filled guarded
// where that has paid so far (Zone::guard_score); a frozen page that proves clean is
// guarded from then on. The rule that carries it: nobody un-protects a page
// whose word says guarded. ToThawing() clears it, and so does the end of a sweep,
// which un-protects a whole range, clears it in every word of the range first.
//
//   63        40 39    24 23   20 19  16 15         8  7    6    5     4   3    0
//   |   aux     |  age   |credit | hot  | generation |grd |wif |zero |valid| state|
#pragma once

#include <atomic>
#include <cstdint>

namespace spiritos {

enum class PageState : uint8_t {
  kEmpty,
  kLoading,
  kResident,
  kLeaving,
  kThawing,
  kZapping,
  kRemote,
  kStandby,
  kHole,
};

class PageWord {
 public:
  constexpr PageWord() = default;
  constexpr explicit PageWord(uint64_t raw) : raw_(raw) {}
  constexpr uint64_t raw() const { return raw_; }
  constexpr bool operator==(const PageWord&) const = default;

  constexpr PageState state() const { return static_cast<PageState>(raw_ & kStateMask); }
  // The slot holds exactly what the page's stored hash says.
  constexpr bool slot_valid() const { return (raw_ & kSlotValid) != 0; }
  // The page is all zero; the slot counts as invalid. Never set while Resident: a
  // store would make it untrue unseen.
  constexpr bool zero() const { return (raw_ & kZero) != 0; }
  // A write to the page's slot is posted and not acknowledged: no victim.
  constexpr bool write_in_flight() const { return (raw_ & kWriteInFlight) != 0; }
  // Resident, Leaving, Zapping: protected, and equal to its slot. Loading: its Fill
  // will protect it. Absent: it was never stored into while it was last here.
  constexpr bool guarded() const { return (raw_ & kGuarded) != 0; }
  constexpr uint8_t generation() const { return static_cast<uint8_t>(raw_ >> 8); }
  constexpr uint32_t hot() const { return (raw_ >> 16) & 0xF; }
  // Sweeps that the page still survives.
  constexpr uint32_t credit() const { return (raw_ >> 20) & 0xF; }
  // Fault clock (FaultClock) when the page was filled or left.
  constexpr uint16_t age() const { return static_cast<uint16_t>(raw_ >> 24); }
  constexpr uint32_t pins() const { return static_cast<uint32_t>(raw_ >> kAuxShift); }
  // Loading by a window of read-ahead, not by a thread that waits for it.
  constexpr bool read_ahead() const {
    return state() == PageState::kLoading && (raw_ >> kAuxShift) != 0;
  }
  // REQUIRES: Standby, or read_ahead().
  constexpr uint32_t staging_buffer() const { return static_cast<uint32_t>(raw_ >> kAuxShift) - 1; }

  static constexpr uint32_t kMaxAux = (1u << 24) - 1;

  // Arrows: each returns the word at its head. What is not named is carried.
  constexpr PageWord ToLoading() const { return WithState(PageState::kLoading).WithAux(0); }
  constexpr PageWord ToReadAhead(uint32_t buffer) const {
    return WithState(PageState::kLoading).WithAux(buffer + 1);
  }
  constexpr PageWord LoadedToResident(uint16_t now, uint32_t hot, uint32_t credit) const {
    return WithState(PageState::kResident).WithHeat(hot, credit).WithAge(now).With(kZero, false);
  }
  constexpr PageWord ToLeaving() const { return WithState(PageState::kLeaving); }
  constexpr PageWord ToThawing() const { return Unguarded().WithState(PageState::kThawing); }
  constexpr PageWord ThawedToResident(uint16_t now, uint32_t hot, uint32_t credit) const {
    return WithState(PageState::kResident).WithHeat(hot, credit).WithAge(now).With(kZero, false);
  }
  constexpr PageWord ToZapping() const { return WithState(PageState::kZapping); }
  // Leaving or Zapping whose write or zap failed: it stays, frozen until the
  // zone thaws.
  constexpr PageWord BackToResident() const {
    return WithState(PageState::kResident).With(kZero, false);
  }
  // Zapping, and the kernel has it pinned for a device: young, and what it holds is unknown.
  constexpr PageWord PinnedToResident(uint16_t now) const {
    return BackToResident().Unguarded().WithAge(now);
  }
  constexpr PageWord ZappedToRemote(uint16_t now) const {
    return WithState(PageState::kRemote).WithAge(now).WithAux(0);
  }
  constexpr PageWord ZappedToStandby(uint16_t now, uint32_t buffer) const {
    return WithState(PageState::kStandby).WithAge(now).WithAux(buffer + 1);
  }
  constexpr PageWord StandbyToRemote() const { return WithState(PageState::kRemote).WithAux(0); }
  constexpr PageWord ToEmpty() const {
    return PageWord(static_cast<uint64_t>(PageState::kEmpty)).WithGeneration(generation());
  }
  // Out of reach: unmapped, or PROT_NONE; then slot, zero and hash stay meaningful.
  constexpr PageWord ToHole() const { return WithState(PageState::kHole).WithAux(0); }
  constexpr PageWord HoleToAbsent() const {
    return WithState(slot_valid() || zero() ? PageState::kRemote : PageState::kEmpty);
  }

  // Changes within a state.
  constexpr PageWord WritePosted() const {
    return With(kWriteInFlight, true).WithSlotValid(false).With(kZero, false);
  }
  constexpr PageWord WriteAcknowledged() const {
    return With(kWriteInFlight, false).With(kSlotValid, true);
  }
  constexpr PageWord WriteForgotten() const { return With(kWriteInFlight, false); }
  constexpr PageWord FoundZero() const { return With(kZero, true).WithSlotValid(false); }
  constexpr PageWord Guarded() const { return With(kGuarded, true); }
  constexpr PageWord Unguarded() const { return With(kGuarded, false); }
  constexpr PageWord Pinned() const { return PageWord(raw_ + (uint64_t{1} << kAuxShift)); }
  constexpr PageWord Unpinned() const { return PageWord(raw_ - (uint64_t{1} << kAuxShift)); }
  constexpr PageWord Spared(uint16_t now) const {
    return WithHeat(hot(), credit() - 1).WithAge(now);
  }
  // A page cannot equal a slot that is not valid.
  constexpr PageWord WithSlotValid(bool valid) const {
    return (valid ? *this : Unguarded()).With(kSlotValid, valid);
  }
  constexpr PageWord WithGeneration(uint8_t generation) const {
    return PageWord((raw_ & ~(uint64_t{0xFF} << 8)) | (uint64_t{generation} << 8));
  }

 private:
  static constexpr uint64_t kStateMask = 0xF;
  static constexpr uint64_t kSlotValid = 1u << 4;
  static constexpr uint64_t kZero = 1u << 5;
  static constexpr uint64_t kWriteInFlight = 1u << 6;
  static constexpr uint64_t kGuarded = 1u << 7;
  static constexpr unsigned kAuxShift = 40;

  constexpr PageWord WithState(PageState state) const {
    return PageWord((raw_ & ~kStateMask) | static_cast<uint64_t>(state));
  }
  constexpr PageWord With(uint64_t bit, bool on) const {
    return PageWord(on ? raw_ | bit : raw_ & ~bit);
  }
  constexpr PageWord WithHeat(uint32_t hot, uint32_t credit) const {
    return PageWord((raw_ & ~(uint64_t{0xFF} << 16)) | (uint64_t{hot} << 16) |
                    (uint64_t{credit} << 20));
  }
  constexpr PageWord WithAge(uint16_t age) const {
    return PageWord((raw_ & ~(uint64_t{0xFFFF} << 24)) | (uint64_t{age} << 24));
  }
  constexpr PageWord WithAux(uint32_t aux) const {
    return PageWord((raw_ & ((uint64_t{1} << kAuxShift) - 1)) | (uint64_t{aux} << kAuxShift));
  }

  uint64_t raw_ = 0;
};

// The word in memory. Loads acquire and stores release: whoever sees a state sees
// what led to it (bytes filled, hash stored). Pairs with themselves.
class AtomicPageWord {
 public:
  PageWord Load() const noexcept { return PageWord(raw_.load(std::memory_order_acquire)); }
  // Takes the arrow `from` -> `to` if the word is still `from`, else updates
  // `from`. Seq_cst, as the claim of Loading must come before the look at the
  // zone's gate; see ZoneWord.
  [[nodiscard]] bool Take(PageWord& from, PageWord to) noexcept {
    uint64_t expected = from.raw();
    if (raw_.compare_exchange_strong(expected, to.raw(), std::memory_order_seq_cst,
                                     std::memory_order_acquire)) {
      CountArrow(from, to);
      return true;
    }
    from = PageWord(expected);
    return false;
  }
  // For the owner of a claimed word (Loading, Thawing, Zapping) or of its zone.
  void Publish(PageWord to) noexcept {
    CountArrow(Load(), to);
    raw_.store(to.raw(), std::memory_order_release);
  }

 private:
#ifdef SPIRITOS_FAILPOINTS
  static void CountArrow(PageWord from, PageWord to) noexcept;
#else
  static void CountArrow(PageWord, PageWord) noexcept {}
#endif

  std::atomic<uint64_t> raw_{0};
};
static_assert(sizeof(AtomicPageWord) == 8);

#ifdef SPIRITOS_FAILPOINTS
// How often each arrow between states was taken, in test builds.
uint64_t ArrowsTaken(PageState from, PageState to) noexcept;
void ResetArrows() noexcept;
#endif

}  // namespace spiritos
