// SPDX-License-Identifier: Apache-2.0
// FarHeap: malloc for far memory, jemalloc arenas over a region of a Space.
//
//   auto heap = FarHeap::Create(*space, {.max_size = 4_GiB});
//   void* p = (*heap)->Allocate(100);
//   (*heap)->Free(p);
//
// Linking this does not touch the program's own malloc: the allocator inside is
// a private copy under other names, and a far pointer must go back to the heap
// that made it. Metadata stays in near memory, so that allocating and freeing do
// not fault on the allocator's own books. Freed memory goes back to the space in
// the course of later calls (jemalloc's decay), at once when 8 MiB of it lie
// together, or by Purge().
//
// fork(2): the child has no heap where it has no regions. It may destroy the object.
//
// Threads: any, user threads included: no call is switched away in the middle,
// except where it zeroes or copies. Not from signal handlers. Sizes in bytes. Out
// of memory is a null pointer, as in malloc(3).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "libos/base/export.h"
#include "libos/base/units.h"

namespace spiritos {

class ExtentSource;
class Space;

struct FarHeapOptions {
  // Address space that the heap may grow to; the region is reserved at once,
  // slots and frames only as pages are touched.
  Bytes max_size = Bytes(uint64_t{16} << 30);
  // Freed pages are given back after this long, in milliseconds; 0 = at once,
  // -1 = never by themselves. Longer saves discards and faults when memory is
  // soon reused, and lets freed bytes be evicted as if they were data.
  int64_t decay_ms = 10'000;
  // Arenas that cores are spread over; 0 = one for four cores, at most eight.
  // More contend less and leave more pages partly used.
  uint32_t arenas = 0;
};

class SPIRITOS_PUBLIC FarHeap {
 public:
  // kInvalidArgument names the option; kResourceExhausted when the space has no
  // region of this size. `space` outlives the heap.
  static absl::StatusOr<std::unique_ptr<FarHeap>> Create(Space& space,
                                                         const FarHeapOptions& options = {});

  // Over memory of the caller's own (alloc/extent_hooks.h): for this library.
  SPIRITOS_HIDDEN static absl::StatusOr<std::unique_ptr<FarHeap>> CreateOver(
      std::unique_ptr<ExtentSource> source, const FarHeapOptions& options);

  // Frees whatever is still allocated. No other call may be under way, no page
  // pinned.
  ~FarHeap();
  FarHeap(const FarHeap&) = delete;
  FarHeap& operator=(const FarHeap&) = delete;

  // `alignment` is a power of two; 0 means alignof(max_align_t).
  void* Allocate(size_t size, size_t alignment = 0) noexcept;
  // Large allocations are zeroed by discarding their pages: nothing is fetched.
  void* AllocateZeroed(size_t size, size_t alignment = 0) noexcept;
  // Keeps the contents up to the smaller size; `alignment` as in Allocate(). Null
  // leaves the old allocation as it was. `size` 0 is 1.
  void* Reallocate(void* pointer, size_t size, size_t alignment = 0) noexcept;
  // Null is allowed; a pointer from elsewhere stops the process.
  void Free(void* pointer) noexcept;

  // Bytes that the caller may use, at least those asked for.
  size_t UsableSize(const void* pointer) const noexcept;
  // Whether the address is this heap's, allocated or not.
  bool Owns(const void* pointer) const noexcept;

  // Returns freed pages' frames and slots to the space now. Objects that other
  // threads free meanwhile may stay cached.
  void Purge() noexcept;

  // Around fork(2), in both processes afterwards, where the child has the heap's memory: no
  // other thread is inside. In two parts, as the caches' users may wait for jemalloc, and
  // jemalloc's for the source: handlers for the source are registered before StartJemalloc(),
  // which registers jemalloc's, those for the caches after it.
  SPIRITOS_HIDDEN static void StartJemalloc();
  void BeforeForkSource() noexcept;
  void AfterForkSource() noexcept;
  void BeforeForkCaches() noexcept;
  void AfterForkCaches() noexcept;

  struct Usage {
    size_t allocated = 0;  // In live allocations, and in freed objects that caches hold.
    size_t active = 0;     // In pages with an allocation on them.
    size_t mapped = 0;     // In active pages, and in free ones that have not decayed.
  };
  Usage GetUsage() const;

 private:
  friend class FarHeapTestPeer;
  class SPIRITOS_HIDDEN Impl;
  explicit FarHeap(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace spiritos
