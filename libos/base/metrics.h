// SPDX-License-Identifier: Apache-2.0
// Metrics: every counter of a space, with its name and meaning, per core.
//
// A line of SPIRITOS_METRICS is a counter: identifier, name, help. Adding is one
// relaxed addition on a line of the core; reading sums the cores.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string_view>

#include "libos/base/core.h"
#include "libos/base/export.h"
#include "libos/base/units.h"

namespace spiritos {

// clang-format off
#define SPIRITOS_METRICS(X)                                                                       \
  X(Faults, "faults", "faults that reached the pager")                                            \
  X(FirstTouches, "first_touches", "faults on pages never written, filled with zeroes")           \
  X(Fetches, "fetches", "demand reads of a page from the pool")                                   \
  X(ZeroFetches, "zero_fetches", "faults on evicted pages that are all zero: nothing was read")   \
  X(Rescues, "rescues", "stores that took a page back from a sweep")                              \
  X(RescuesInFlight, "rescues_in_flight", "rescues while the page's write was in flight")         \
  X(Unfreezes, "unfreezes", "stores into resident pages that a sweep had frozen along")           \
  X(GuardedPages, "guarded_pages", "pages filled write-protected, as they were clean before")     \
  X(GuardBreaks, "guard_breaks", "stores into pages that were filled write-protected")            \
  X(StandbyHits, "standby_hits", "faults served from a staging buffer")                           \
  X(FaultWaits, "fault_waits", "faults that found another thread at work on the page")            \
  X(SpuriousFaults, "spurious_faults", "faults whose page was ready by the time they were seen")  \
  X(LostPages, "lost_pages", "resident pages discarded behind the runtime's back, zero-filled")   \
  X(FilledPages, "filled_pages", "pages that appeared by Fill, first touches included")           \
  X(FetchedPages, "fetched_pages", "pages read from the pool, read-ahead included")               \
  X(FaultAroundPages, "fault_around_pages", "zero pages filled ahead of a first touch")           \
  X(PrefetchedPages, "prefetched_pages", "pages filled ahead by the prefetcher")                  \
  X(HelpedPages, "helped_pages", "pages of streams filled ahead by evictors that had time")       \
  X(PrefetchHits, "prefetch_hits", "read-ahead windows whose end was reached by the program")     \
  X(PrefetchWaste, "prefetch_waste", "prefetched pages given up or evicted unnoticed")            \
  X(EvictedPages, "evicted_pages", "pages that left local memory")                                \
  X(CleanPages, "clean_pages", "evicted pages that needed no write")                              \
  X(ZeroPages, "zero_pages", "evicted pages that were all zero")                                  \
  X(WrittenPages, "written_pages", "pages written to the pool")                                   \
  X(DiscardedWrites, "discarded_writes", "writes whose page was rescued before they were done")   \
  X(WriteErrors, "write_errors", "pages whose write failed and that stayed")                      \
  X(Sweeps, "sweeps", "sweeps by evictor threads")                                                \
  X(InlineSweeps, "inline_sweeps", "sweeps by faulting threads")                                  \
  X(InlineEvictedPages, "inline_evicted_pages", "pages evicted by faulting threads")              \
  X(EmptySweeps, "empty_sweeps", "sweeps that found no victim")                                   \
  X(Freezes, "freezes", "write-protect calls: one shootdown each")                                \
  X(Drops, "drops", "zap calls: one shootdown each where the kernel batches")                     \
  X(DropRuns, "drop_runs", "runs of pages in zap calls")                                          \
  X(PinnedByKernel, "pinned_by_kernel", "victims that stayed: the kernel had pinned them, or a device changed them") \
  X(Thaws, "thaws", "un-protect calls")                                                           \
  X(Shootdowns, "shootdowns", "calls that shoot down translations on other CPUs")                 \
  X(FrameStalls, "frame_stalls", "faults that found no free frame")                               \
  X(FrameStallNs, "frame_stall_ns", "nanoseconds that faults waited for a free frame")            \
  X(InlineSweepNs, "inline_sweep_ns", "nanoseconds that faulting threads spent sweeping")         \
  X(EvictorWakes, "evictor_wakes", "times an evictor was woken")                                  \
  X(EvictorBusyNs, "evictor_busy_ns", "nanoseconds that evictors were at work, wall time")        \
  X(EvictorCpuNs, "evictor_cpu_ns", "nanoseconds of CPU that evictors used")                      \
  X(FetchRetries, "fetch_retries", "pool reads that failed and were tried again")                 \
  X(WriteRetries, "write_retries", "pool writes that failed and were tried again")                \
  X(KernelRetries, "kernel_retries", "userfaultfd or madvise calls that had to be repeated")      \
  X(CorruptPages, "corrupt_pages", "pages whose fetched bytes did not match their hash")          \
  X(RewrittenPages, "rewritten_pages", "pages of which one copy was wrong, to be written anew")   \
  X(UnavailablePages, "unavailable_pages", "accesses that failed: the page's bytes were lost")     \
  X(MergedPages, "merged_pages", "pages brought back to one place of their slab after forks")      \
  X(DiscardedPages, "discarded_pages", "pages emptied by Discard or Unmap")
// clang-format on

enum class Metric : uint32_t {
#define SPIRITOS_METRIC_ENUM(id, name, help) k##id,
  SPIRITOS_METRICS(SPIRITOS_METRIC_ENUM)
#undef SPIRITOS_METRIC_ENUM
      kCount
};

inline constexpr size_t kMetricCount = static_cast<size_t>(Metric::kCount);
using MetricArray = std::array<uint64_t, kMetricCount>;

struct MetricInfo {
  std::string_view name;
  std::string_view help;
};
SPIRITOS_PUBLIC const std::array<MetricInfo, kMetricCount>& MetricTable();

class Metrics {
 public:
  // Context: signal.
  void Add(Metric metric, uint64_t n = 1) noexcept {
    cells_[CurrentCore()].values[static_cast<size_t>(metric)].fetch_add(n,
                                                                        std::memory_order_relaxed);
  }
  uint64_t Get(Metric metric) const noexcept {
    uint64_t sum = 0;
    for (uint32_t core = 0; core < CoreCount(); ++core) {
      sum += cells_[core].values[static_cast<size_t>(metric)].load(std::memory_order_relaxed);
    }
    return sum;
  }
  uint64_t GetOnCore(Metric metric, uint32_t core) const noexcept {
    return cells_[core].values[static_cast<size_t>(metric)].load(std::memory_order_relaxed);
  }
  MetricArray Snapshot() const noexcept {
    MetricArray sums{};
    for (size_t i = 0; i < kMetricCount; ++i) sums[i] = Get(static_cast<Metric>(i));
    return sums;
  }

 private:
  struct alignas(kCacheLine) Cell {
    std::array<std::atomic<uint64_t>, kMetricCount> values{};
  };
  std::array<Cell, kMaxCores> cells_;
};

}  // namespace spiritos
