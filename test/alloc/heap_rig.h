// SPDX-License-Identifier: Apache-2.0
// HeapRig: a FarHeap over plain memory that can be closed and watched.
//
// Discards are real (the pages read as zeroes), counted, and refused on demand.
// While closed, any touch of the heap's memory is a SIGSEGV: what a far page
// costs, made fatal.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cstdint>
#include <memory>
#include <utility>

#include "alloc/extent_hooks.h"
#include "alloc/far_malloc.h"
#include "libos/base/mapping.h"
#include "libos/base/units.h"

namespace spiritos {

class FakeSource final : public ExtentSource {
 public:
  struct Counters {
    std::atomic<uint64_t> discards{0};
    std::atomic<uint64_t> discarded_bytes{0};
    std::atomic<bool> refuse{false};
    std::atomic<bool> alive{true};
  };

  FakeSource(Bytes size, Counters& counters)
      : memory_(*Mapping::Anonymous(size, kZoneSize, "test heap")), counters_(counters) {}
  ~FakeSource() override { counters_.alive = false; }

  AddressRange range() const override { return memory_.range(); }
  bool Discard(AddressRange range) noexcept override {
    if (counters_.refuse) return false;
    ++counters_.discards;
    counters_.discarded_bytes += range.size.raw();
    return madvise(range.begin, range.size.raw(), MADV_DONTNEED) == 0;
  }

 private:
  Mapping memory_;
  Counters& counters_;
};

class FarHeapTestPeer {
 public:
  static absl::StatusOr<std::unique_ptr<FarHeap>> CreateOver(std::unique_ptr<ExtentSource> source,
                                                             const FarHeapOptions& options) {
    return FarHeap::CreateOver(std::move(source), options);
  }
};

class HeapRig {
 public:
  explicit HeapRig(Bytes size = Bytes(uint64_t{256} << 20), FarHeapOptions options = {}) {
    options.max_size = size;
    auto source = std::make_unique<FakeSource>(size, counters_);
    range_ = source->range();
    auto heap = FarHeapTestPeer::CreateOver(std::move(source), options);
    REQUIRE(heap.ok());
    heap_ = *std::move(heap);
  }
  ~HeapRig() { Open(); }

  FarHeap& operator*() { return *heap_; }
  FarHeap* operator->() { return heap_.get(); }
  void Destroy() { heap_.reset(); }

  FakeSource::Counters& counters() { return counters_; }
  AddressRange range() const { return range_; }

  void Close() { mprotect(range_.begin, range_.size.raw(), PROT_NONE); }
  void Open() { mprotect(range_.begin, range_.size.raw(), PROT_READ | PROT_WRITE); }

 private:
  FakeSource::Counters counters_;
  AddressRange range_;
  std::unique_ptr<FarHeap> heap_;
};

}  // namespace spiritos
