// SPDX-License-Identifier: Apache-2.0
// Stats: one snapshot of a space's counters, gauges and latency histograms.
//
// Counters only grow. They are summed over per-core cells without a lock, so a
// snapshot taken while threads fault is consistent to within the faults that
// ran during it; after Space::Drain() it is exact. Text form for people, JSON
// for programs; names and help come from libos/base/metrics.h.
#pragma once

#include <cstdint>
#include <string>

#include "libos/base/export.h"
#include "libos/base/histogram.h"
#include "libos/base/metrics.h"
#include "libos/base/units.h"

namespace spiritos {

struct SPIRITOS_PUBLIC Stats {
  MetricArray counters{};  // Indexed by Metric; see operator[].

  // Frames, in pages.
  PageCount budget;
  PageCount free_frames;
  PageCount used_frames;  // budget - free: mapped, leaving, standing by, staged.
  PageCount pinned;

  // Slabs of the pool with a copy too few, with none left, copied to another server so
  // far, and moved there as their own asked for them.
  uint64_t degraded_slabs = 0;
  uint64_t lost_slabs = 0;
  uint64_t mended_slabs = 0;
  uint64_t moved_slabs = 0;
  // Demand reads that were late and asked of a second server too, and of these the ones
  // that it answered first.
  uint64_t hedged_reads = 0;
  uint64_t hedges_won = 0;
  // Slabs that should be in the backup and are not, pages on their way there, and runs
  // that could not be written.
  uint64_t unbacked_slabs = 0;
  PageCount backup_behind;
  uint64_t backup_errors = 0;

  // Near memory that holds the space's own books, and the far pages it is for.
  Bytes metadata;
  PageCount far_pages;

  // Nanoseconds from the entry of the fault handler to its end.
  Histogram fault_ns;
  // Nanoseconds that faults spent waiting for a free frame, stalled ones only.
  Histogram stall_ns;

  uint64_t operator[](Metric metric) const { return counters[static_cast<size_t>(metric)]; }

  // "name value" lines, in the registry's order, then the histograms' quantiles.
  std::string ToText() const;
  std::string ToJson() const;
};

}  // namespace spiritos
