// SPDX-License-Identifier: Apache-2.0
// Makes a benchmark's block: a region of its own space, or plain memory.
#include "bench/far_block.h"

#include <fmt/core.h>
#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "libos/base/mapping.h"
#include "libos/base/status.h"
#ifndef SPIRITOS_BENCH_NO_SPACE
#include "libos/options_env.h"
#include "libos/space.h"
#endif

namespace spiritos::bench {

#ifdef SPIRITOS_BENCH_NO_SPACE

struct FarBlock::Impl {
  Mapping memory;
  std::byte* begin = nullptr;
  Bytes size;
};

absl::StatusOr<FarBlock> FarBlock::Create(const FarBlockOptions& options) {
  auto impl = std::make_unique<Impl>();
  SPIRITOS_ASSIGN_OR_RETURN(impl->memory,
                            Mapping::Anonymous(options.size, kZoneSize, "benchmark block"));
  impl->begin = impl->memory.data();
  impl->size = options.size;
  madvise(impl->begin, options.size.raw(), MADV_NOHUGEPAGE);
  return FarBlock(std::move(impl));
}

void FarBlock::MarkStats() {}
std::string FarBlock::StatsLine() const { return "plain memory"; }

#else

struct FarBlock::Impl {
  std::unique_ptr<Space> space;
  std::byte* begin = nullptr;
  Bytes size;
  Stats mark;
};

absl::StatusOr<FarBlock> FarBlock::Create(const FarBlockOptions& options) {
  // SPIRITOS_* variables apply, so that a knob can be tried without a rebuild.
  SPIRITOS_ASSIGN_OR_RETURN(Options space_options, OptionsFromEnvironment());
  space_options.budget = options.budget;
  if (options.evictor_cpu >= 0) space_options.evict.cpus = {options.evictor_cpu};
  auto impl = std::make_unique<Impl>();
  SPIRITOS_ASSIGN_OR_RETURN(impl->space, Space::Create(space_options));
  SPIRITOS_ASSIGN_OR_RETURN(const AddressRange range, impl->space->CreateRegion(options.size));
  impl->begin = range.begin;
  impl->size = options.size;
  madvise(range.begin, range.size.raw(), MADV_NOHUGEPAGE);
  return FarBlock(std::move(impl));
}

void FarBlock::MarkStats() { impl_->mark = impl_->space->GetStats(); }

std::string FarBlock::StatsLine() const {
  const Stats now = impl_->space->GetStats();
  const auto since = [&](Metric metric) { return now[metric] - impl_->mark[metric]; };
  const Histogram faults = now.fault_ns.Since(impl_->mark.fault_ns);
  return fmt::format(
      "faults={} fetched={} prefetched={} evicted={} clean={} sweeps={} inline_sweeps={} "
      "shootdowns={} rescues={} stalls={} evictor_wakes={} fault_p50={}ns fault_p99={}ns",
      since(Metric::kFaults), since(Metric::kFetchedPages), since(Metric::kPrefetchedPages),
      since(Metric::kEvictedPages), since(Metric::kCleanPages), since(Metric::kSweeps),
      since(Metric::kInlineSweeps), since(Metric::kShootdowns), since(Metric::kRescues),
      since(Metric::kFrameStalls), since(Metric::kEvictorWakes), faults.Quantile(0.5),
      faults.Quantile(0.99));
}

#endif

FarBlock::FarBlock(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FarBlock::FarBlock(FarBlock&&) noexcept = default;
FarBlock& FarBlock::operator=(FarBlock&&) noexcept = default;
FarBlock::~FarBlock() = default;

std::byte* FarBlock::data() const { return impl_->begin; }
Bytes FarBlock::size() const { return impl_->size; }

}  // namespace spiritos::bench
