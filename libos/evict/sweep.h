// SPDX-License-Identifier: Apache-2.0
// Sweep: one pass over a zone, or a part of it, that makes frames free.
//
//   Begin()   claims the victims (Resident -> Leaving) and freezes those that are
//             not guarded, if any: one shootdown. From here on no victim changes
//             unseen.
//   Write()   hashes each victim that is not guarded; equal to the stored hash means
//             clean, all zero needs no bytes, the rest is written to its slot.
//   Finish()  once the writes are acknowledged, for some hundred victims at a time:
//             closes the zone's gate, gives up what is still Leaving (-> Zapping),
//             drops it with one zap over whole stretches of the zone (one
//             shootdown), publishes Remote, opens the gate, returns the frames. At
//             the end thaws what stayed.
//
// Meanwhile the program runs on: loads of victims succeed, a store takes its page
// back (Pager: rescue), and the sweep finds it gone at its next look. The rules
// that no store is lost by are at PageWord and ZoneWord.
//
// A Sweep is about 40 KiB of near memory, reused. Context: nofault; Begin() to
// Finish() may run inside a fault of the same space, as no lock is held between.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "libos/base/epoch.h"
#include "libos/base/metrics.h"
#include "libos/base/parker.h"
#include "libos/fault/fault_backend.h"
#include "libos/mem/free_frame_pool.h"
#include "libos/mem/page_hash.h"
#include "libos/mem/region.h"
#include "libos/mem/zone.h"
#include "libos/mem/zone_lists.h"
#include "libos/remote/remote_backend.h"

namespace spiritos {

// What sweeps work on: all borrowed from the space.
struct EvictContext {
  FaultBackend& fault;
  RemoteBackend& remote;
  FreeFramePool& frames;
  ZoneLists& zones;
  Parker& parker;
  const PageHasher& hasher;
  Metrics& metrics;
  Epoch& epoch;  // Zones found on lists stay zones of their region under it.
  // Devices may write to pages unseen. Once true for good, and seen by sweeps of zones that
  // were idle since.
  const std::atomic<bool>& unseen_pins;
};

// How hard a sweep looks for victims.
enum class Pressure : uint8_t {
  kNormal,    // Old pages without credit.
  kUrgent,    // Young ones too.
  kDesperate  // Whatever is not pinned.
};

class Sweep {
 public:
  Sweep() = default;
  Sweep(const Sweep&) = delete;
  Sweep& operator=(const Sweep&) = delete;

  // Sweeps pages [begin, end) of `zone`, up to the `most`th victim. False, with
  // nothing left to do, when the zone is busy or holds no victim there.
  // REQUIRES: idle().
  bool Begin(const EvictContext& context, Zone& zone, uint32_t begin, uint32_t end,
             Pressure pressure, uint32_t most = kZonePages) noexcept;
  // After Begin(): the page that the next sweep of the zone goes on from.
  uint32_t reached() const { return reached_; }
  // REQUIRES: Begin() succeeded.
  void Write(const EvictContext& context) noexcept;
  // Whether every write is final; polls the lane.
  bool WritesDone(const EvictContext& context) noexcept;
  void WaitForWrites(const EvictContext& context) noexcept;
  // The frames that became free, already given to the pool.
  // REQUIRES: WritesDone().
  uint32_t Finish(const EvictContext& context) noexcept;

  bool idle() const { return zone_ == nullptr; }
  Zone* zone() const { return zone_; }
  uint32_t victims() const { return victim_count_; }

 private:
  static constexpr uint32_t kMaxRuns = kZonePages / 2 + 1;

  bool ClaimVictims(const EvictContext& context, uint32_t begin, uint32_t end, Pressure pressure,
                    uint32_t most) noexcept;
  // Freezes from the first victim to the last, around pinned pages.
  bool FreezeVictims(const EvictContext& context) noexcept;
  void GiveBackVictims() noexcept;

  void WriteInPlace(const EvictContext& context, uint32_t index, std::byte* slot) noexcept;
  void QueueWrite(const EvictContext& context, uint32_t index, SlotId slot) noexcept;
  void SubmitRequest(const EvictContext& context) noexcept;
  void Reap(const EvictContext& context, IoRequest& request) noexcept;
  // For a planted bug alone.
  bool OnlyRescued(const IoRequest& request) const noexcept;
  // The write of a page ended: sets slot-valid if the page is still ours.
  void Acknowledge(const EvictContext& context, uint32_t index, const PageHash& hash,
                   bool written) noexcept;
  bool EnsureSlab(const EvictContext& context, Vpn vpn, uint8_t generation) noexcept;

  // Leaving -> Zapping for the next victims from page `*at` on that may go, and the
  // runs to zap; `*at` moves behind them.
  uint32_t ClaimZaps(uint32_t* at, bool unseen_pins) noexcept;
  MapOutcome Zap(const EvictContext& context, bool unseen_pins) noexcept;
  uint32_t PublishZapped(const EvictContext& context, const MapOutcome& outcome,
                         bool unseen_pins) noexcept;
  void ThawAroundHoles(const EvictContext& context) noexcept;
  void ThawRest(const EvictContext& context) noexcept;

  Zone* zone_ = nullptr;
  uint32_t victim_count_ = 0;
  uint32_t reached_ = 0;
  uint32_t first_ = 0;  // The victims lie in pages [first_, last_] of the zone.
  uint32_t last_ = 0;
  uint32_t frozen_begin_ = 0;  // The frozen range; empty when all victims are guarded.
  uint32_t frozen_end_ = 0;
  uint32_t run_count_ = 0;
  uint32_t request_count_ = 0;
  uint32_t reaped_ = 0;        // Requests before this one are final and accounted.
  bool request_open_ = false;  // The last request still takes pages.

  std::array<uint16_t, kZonePages> victims_;
  std::array<PageRun, kMaxRuns> runs_;
  std::array<PageHash, kZonePages> pending_hashes_;  // By page index.
  std::array<IoRequest, kMaxRuns> requests_;
};

}  // namespace spiritos
