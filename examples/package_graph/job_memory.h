// SPDX-License-Identifier: Apache-2.0
// JobMemory: where a run of the job keeps its data, and what that costs.
//
// Two kinds behind one memory resource: the process's own heap, for the
// reference, and a far heap under a budget.
//
// Threads: resource() any; Sample() one; Totals() and MarkBuilt() the job's.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <string>

#include "absl/status/statusor.h"

namespace package_graph {

struct MemorySample {
  uint64_t resident_bytes = 0;
  uint64_t faults = 0;
  uint64_t fetches = 0;  // Faults that read a page from the pool.
  uint64_t fetched_bytes = 0;
  uint64_t written_bytes = 0;
  uint64_t p50_ns = 0;  // Of a fault; 0 when there was none.
  uint64_t p99_ns = 0;
};

// Counts what passes through to another resource. A block counts as the size
// class that it falls into, four to each power of two, as general heaps round
// it: the same number in every run, whatever heap is below.
class CountingResource final : public std::pmr::memory_resource {
 public:
  explicit CountingResource(std::pmr::memory_resource* below) : below_(below) {}

  size_t live_bytes() const { return live_.load(std::memory_order_relaxed); }
  size_t peak_bytes() const { return peak_.load(std::memory_order_relaxed); }

 private:
  void* do_allocate(size_t bytes, size_t alignment) override;
  void do_deallocate(void* block, size_t bytes, size_t alignment) override;
  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }

  std::pmr::memory_resource* below_;
  std::atomic<size_t> live_{0};
  std::atomic<size_t> peak_{0};
};

class JobMemory {
 public:
  virtual ~JobMemory() = default;
  JobMemory(const JobMemory&) = delete;
  JobMemory& operator=(const JobMemory&) = delete;

  std::pmr::memory_resource* resource() { return &counted_; }
  const CountingResource& counted() const { return counted_; }

  // Counters so far. Latencies: of Sample(), since the call before it; of
  // Totals(), since MarkBuilt().
  virtual MemorySample Sample() = 0;
  virtual MemorySample Totals() = 0;
  virtual void MarkBuilt() = 0;
  // What the memory is made of, a few lines.
  virtual std::string Describe() const = 0;

 protected:
  explicit JobMemory(std::pmr::memory_resource* below) : counted_(below) {}

 private:
  CountingResource counted_;
};

std::unique_ptr<JobMemory> MakeLocalMemory();

struct FarMemoryOptions {
  uint64_t budget_bytes = 0;
  uint64_t heap_bytes = 0;  // Address space that the far heap may use.
  std::string pool;         // Where evicted pages go, "" = the library's default.
};

absl::StatusOr<std::unique_ptr<JobMemory>> MakeFarMemory(const FarMemoryOptions& options);

}  // namespace package_graph
