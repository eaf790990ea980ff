// SPDX-License-Identifier: Apache-2.0
// PinnedArena: near memory for the runtime's own books.
//
// Under a preload shim malloc() may itself be far memory, and a page table that
// lived there would fault on itself. Everything the fault and eviction path
// touches comes from here: anonymous mappings outside every region, locked when
// RLIMIT_MEMLOCK allows (best effort; the kernel could otherwise swap them, which
// is slow but not wrong).
//
// Objects are carved from chunks and never given back one by one, except whole
// blocks of one size through free lists that their owners keep. The arena ends
// with its space.
#pragma once

#include <atomic>
#include <cstddef>
#include <new>
#include <utility>

#include "libos/base/lock.h"
#include "libos/base/units.h"

namespace spiritos {

class PinnedArena {
 public:
  PinnedArena() = default;
  ~PinnedArena();
  PinnedArena(const PinnedArena&) = delete;
  PinnedArena& operator=(const PinnedArena&) = delete;

  // Zeroed memory, or null when the kernel refuses. Context: signal.
  void* Allocate(size_t size, size_t alignment) noexcept;

  // Constructs a T that is destroyed never: T owns nothing outside the arena.
  template <typename T, typename... Args>
  T* New(Args&&... args) noexcept {
    static_assert(std::is_trivially_destructible_v<T>);
    void* p = Allocate(sizeof(T), alignof(T));
    return p == nullptr ? nullptr : ::new (p) T(std::forward<Args>(args)...);
  }
  template <typename T>
  T* NewArray(size_t n) noexcept {
    static_assert(std::is_trivially_destructible_v<T>);
    void* p = Allocate(n * sizeof(T), alignof(T));
    return p == nullptr ? nullptr : ::new (p) T[n];
  }

  // Memory that is locked is not in a child of fork(2).
  void LockAgain() noexcept;

  Bytes used() const { return Bytes(used_.load(std::memory_order_relaxed)); }

 private:
  struct Chunk {
    Chunk* next;
    size_t size;
  };
  static Chunk* MapChunk(size_t size, Chunk* next) noexcept;
  // One huge page, where the kernel gives it: books of random pages are read at
  // every fault.
  static constexpr size_t kChunkSize = size_t{1} << 21;

  SpinLock lock_{LockRank::kArena};
  Chunk* chunks_ ABSL_GUARDED_BY(lock_) = nullptr;
  std::byte* cursor_ ABSL_GUARDED_BY(lock_) = nullptr;
  std::byte* limit_ ABSL_GUARDED_BY(lock_) = nullptr;
  std::atomic<uint64_t> used_{0};
};

}  // namespace spiritos
