// SPDX-License-Identifier: Apache-2.0
// Failpoints: named places where tests make a call fail or a thread stop, and
// planted bugs: known-wrong variants that the test suite must catch.
//
//   if (int error = SPIRITOS_FAILPOINT(kUffdCopy)) { errno = error; return -1; }
//   SPIRITOS_PAUSE_POINT(kRescueClaimed);
//   if (!SPIRITOS_PLANTED(kPinIgnored)) ...
//
// Compiled out unless SPIRITOS_FAILPOINTS is set (the `failpoints` build
// option): then each is the constant 0, nothing, or false.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace spiritos {

enum class Failpoint : uint32_t {
  kUffdCopy,
  kUffdWriteProtect,  // Freeze and Thaw.
  kUffdIoctlAny,      // Counted over all of userfaultfd's ioctls.
  kMadvise,           // The zap.
  kFreeze,            // Protecting a zone, as a whole.
  kBackendRead,
  kBackendWrite,
  kCount,
};

enum class PausePoint : uint32_t {
  kRescueClaimed,  // Between a rescuer's claim and its un-protect call.
  kFrozen,         // A zone is frozen, nothing is hashed yet.
  kBeforeDrop,     // Writes are acknowledged, nothing is dropped yet.
  kGateClosed,     // The gate is closed, nothing is given up yet.
  kWritePosted,    // A write is in flight.
  kPageClaimed,    // A fault has claimed an absent page, not looked at the gate yet.
  kRangeOwned,     // A range call owns a zone, nothing is claimed yet.
  kRangeClaimed,   // ... and has claimed what it drops.
  kGuardDecided,   // Whether a fill protects is decided, nothing is filled yet.
  kBackupIssue,    // A write is about to go to a backup's file.
  kCount,
};

enum class PlantedBug : uint32_t {
  kUnprotectAfterResident,  // A rescue publishes Resident, then un-protects.
  kStaleSlotValid,          // Posting a write leaves slot-valid set.
  kThawOverLeaving,         // The zone thaws while pages still leave.
  kPinIgnored,              // Freeze does not go around pinned pages.
  kTwoWritesPerSlot,        // A page whose write is in flight may be a victim.
  kFrameBeforeAck,          // The frame is free before the write is done.
  kGuardOutlivesThaw,       // A thawed range's words still say guarded.
  kPinBeforeThaw,           // A guarded page is pinned, then un-protected.
  kCount,
};

#ifdef SPIRITOS_FAILPOINTS

class Failpoints {
 public:
  // The `nth` pass (1 = the next) and the `times - 1` after it fail with `error`.
  static void Arm(Failpoint point, uint64_t nth, int error, uint64_t times = 1);
  static void DisarmAll();
  // Passes since the last Arm() or DisarmAll(); failures among them.
  static uint64_t Passes(Failpoint point);
  static uint64_t Failures(Failpoint point);
  // 0, or the errno that the caller must fail with. Context: signal.
  static int Check(Failpoint point) noexcept;

  // Every pass of `point` calls `hook`, which may block. Null takes it off.
  static void SetPause(PausePoint point, void (*hook)());
  static void Pause(PausePoint point) noexcept;

  static void Plant(PlantedBug bug, bool planted);
  static bool Planted(PlantedBug bug) noexcept;
};

#define SPIRITOS_FAILPOINT(point) ::spiritos::Failpoints::Check(::spiritos::Failpoint::point)
#define SPIRITOS_PAUSE_POINT(point) ::spiritos::Failpoints::Pause(::spiritos::PausePoint::point)
#define SPIRITOS_PLANTED(bug) ::spiritos::Failpoints::Planted(::spiritos::PlantedBug::bug)

#else

#define SPIRITOS_FAILPOINT(point) 0
#define SPIRITOS_PAUSE_POINT(point) \
  do {                              \
  } while (false)
#define SPIRITOS_PLANTED(bug) false

#endif

}  // namespace spiritos
