// SPDX-License-Identifier: Apache-2.0
// The one file of this example that calls libspiritos. A space holds the budget
// and serves faults, a heap carves blocks out of it, a memory resource hands
// them to the standard containers. The job does nothing else to be in far memory.
#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "alloc/far_allocator.h"
#include "alloc/far_malloc.h"
#include "examples/package_graph/job_memory.h"
#include "libos/space.h"
#include "libos/stats.h"

namespace package_graph {
namespace {

using spiritos::Metric;

class FarMemory final : public JobMemory {
 public:
  FarMemory(std::unique_ptr<spiritos::Space> space, std::unique_ptr<spiritos::FarHeap> heap,
            std::unique_ptr<spiritos::FarResource> resource)
      : JobMemory(resource.get()),
        space_(std::move(space)),
        heap_(std::move(heap)),
        resource_(std::move(resource)) {}

  MemorySample Sample() override {
    spiritos::Stats stats = space_->GetStats();
    MemorySample sample = Read(stats, stats.fault_ns.Since(last_sample_));
    last_sample_ = stats.fault_ns;
    return sample;
  }
  MemorySample Totals() override {
    spiritos::Stats stats = space_->GetStats();
    return Read(stats, stats.fault_ns.Since(at_built_));
  }
  void MarkBuilt() override { at_built_ = space_->GetStats().fault_ns; }
  std::string Describe() const override { return space_->description(); }

 private:
  using Histogram = decltype(spiritos::Stats::fault_ns);

  static MemorySample Read(const spiritos::Stats& stats, const Histogram& latencies) {
    MemorySample sample;
    sample.resident_bytes = spiritos::BytesOf(stats.used_frames).raw();
    sample.faults = stats[Metric::kFaults];
    sample.fetches = stats[Metric::kFetches];
    sample.fetched_bytes = stats[Metric::kFetchedPages] * spiritos::kPageSize;
    sample.written_bytes = stats[Metric::kWrittenPages] * spiritos::kPageSize;
    if (latencies.count() > 0) {
      sample.p50_ns = latencies.Quantile(0.50);
      sample.p99_ns = latencies.Quantile(0.99);
    }
    return sample;
  }

  // Destroyed from the last to the first: the space outlives its heap.
  std::unique_ptr<spiritos::Space> space_;
  std::unique_ptr<spiritos::FarHeap> heap_;
  std::unique_ptr<spiritos::FarResource> resource_;
  Histogram last_sample_{};
  Histogram at_built_{};
};

}  // namespace

absl::StatusOr<std::unique_ptr<JobMemory>> MakeFarMemory(const FarMemoryOptions& options) {
  spiritos::Options space_options;
  space_options.budget = std::max(spiritos::Bytes(options.budget_bytes), spiritos::kMinBudget);
  if (!options.pool.empty()) space_options.remote.pool = options.pool;
  auto space = spiritos::Space::Create(space_options);
  if (!space.ok()) return space.status();

  spiritos::FarHeapOptions heap_options;
  heap_options.max_size = spiritos::Bytes(options.heap_bytes);
  auto heap = spiritos::FarHeap::Create(**space, heap_options);
  if (!heap.ok()) return heap.status();

  auto resource = std::make_unique<spiritos::FarResource>(**heap);
  return std::make_unique<FarMemory>(*std::move(space), *std::move(heap), std::move(resource));
}

}  // namespace package_graph
