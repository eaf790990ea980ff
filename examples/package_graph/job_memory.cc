// SPDX-License-Identifier: Apache-2.0
// The counting resource, and the memory of the reference run.
#include "examples/package_graph/job_memory.h"

#include <bit>

namespace package_graph {
namespace {

constexpr size_t kGrain = 16;

size_t SizeClass(size_t bytes) {
  if (bytes <= 8 * kGrain) return (bytes + kGrain - 1) / kGrain * kGrain;
  size_t step = std::bit_floor(bytes - 1) / 4;
  return (bytes + step - 1) / step * step;
}

class LocalMemory final : public JobMemory {
 public:
  LocalMemory() : JobMemory(std::pmr::new_delete_resource()) {}

  MemorySample Sample() override { return Totals(); }
  MemorySample Totals() override {
    MemorySample sample;
    sample.resident_bytes = counted().live_bytes();
    return sample;
  }
  void MarkBuilt() override {}
  std::string Describe() const override { return "the process's own heap"; }
};

}  // namespace

void* CountingResource::do_allocate(size_t bytes, size_t alignment) {
  void* block = below_->allocate(bytes, alignment);
  size_t size = SizeClass(bytes);
  size_t live = live_.fetch_add(size, std::memory_order_relaxed) + size;
  size_t peak = peak_.load(std::memory_order_relaxed);
  while (live > peak && !peak_.compare_exchange_weak(peak, live, std::memory_order_relaxed)) {
  }
  return block;
}

void CountingResource::do_deallocate(void* block, size_t bytes, size_t alignment) {
  live_.fetch_sub(SizeClass(bytes), std::memory_order_relaxed);
  below_->deallocate(block, bytes, alignment);
}

std::unique_ptr<JobMemory> MakeLocalMemory() { return std::make_unique<LocalMemory>(); }

}  // namespace package_graph
