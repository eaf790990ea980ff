// SPDX-License-Identifier: Apache-2.0
// The heaps that a call of the program's may mean: its own, which may be far, or the C
// library's. A pointer says by its address whose it is.
#pragma once

#include <cstddef>

#include "runtime/shim/shim.h"

// The C library's own, under the names that it keeps for interposers.
extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* pointer, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void __libc_free(void* pointer);
}

namespace spiritos::shim {

// Null: no memory. Alignments are powers of two.
inline void* Allocate(FarHeap* heap, size_t size) noexcept {
  return heap != nullptr ? heap->Allocate(size) : __libc_malloc(size);
}
inline void* AllocateAligned(FarHeap* heap, size_t alignment, size_t size) noexcept {
  return heap != nullptr ? heap->Allocate(size, alignment) : __libc_memalign(alignment, size);
}

// Null: it is the C library's.
inline FarHeap* OwnerOf(const void* pointer) noexcept {
  FarHeap* const heap = far_heap.load(std::memory_order_acquire);
  return heap != nullptr && heap->Owns(pointer) ? heap : nullptr;
}
inline void Free(void* pointer) noexcept {
  FarHeap* const owner = OwnerOf(pointer);
  owner != nullptr ? owner->Free(pointer) : __libc_free(pointer);
}

}  // namespace spiritos::shim
