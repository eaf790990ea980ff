// SPDX-License-Identifier: Apache-2.0
// malloc(3) and its family: far for the program, the C library's for everybody else.
//
// A pointer says by its address whose it is, so either may free what the other made.
#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#include <bit>
#include <cstring>

#include "libos/base/export.h"
#include "libos/base/units.h"
#include "runtime/shim/heaps.h"
#include "runtime/shim/next.h"

namespace spiritos::shim {
namespace {

void* OrNoMemory(void* pointer) {
  if (pointer == nullptr) errno = ENOMEM;
  return pointer;
}

void* Aligned(FarHeap* heap, size_t alignment, size_t size) {
  return OrNoMemory(AllocateAligned(heap, alignment, size));
}

void* Reallocate(void* pointer, size_t size, const void* caller) {
  if (FarHeap* const owner = OwnerOf(pointer); owner != nullptr) {
    if (size != 0) return OrNoMemory(owner->Reallocate(pointer, size));
    owner->Free(pointer);  // As the C library does.
    return nullptr;
  }
  FarHeap* const heap = pointer == nullptr ? HeapFor(caller) : nullptr;
  return heap != nullptr ? OrNoMemory(heap->Allocate(size)) : __libc_realloc(pointer, size);
}

}  // namespace

extern "C" {

SPIRITOS_PUBLIC void* malloc(size_t size) noexcept {
  return OrNoMemory(Allocate(HeapFor(__builtin_return_address(0)), size));
}

SPIRITOS_PUBLIC void* calloc(size_t count, size_t size) noexcept {
  FarHeap* const heap = HeapFor(__builtin_return_address(0));
  if (heap == nullptr) return __libc_calloc(count, size);
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) return OrNoMemory(nullptr);
  return OrNoMemory(heap->AllocateZeroed(bytes));
}

SPIRITOS_PUBLIC void* realloc(void* pointer, size_t size) noexcept {
  return Reallocate(pointer, size, __builtin_return_address(0));
}

SPIRITOS_PUBLIC void* reallocarray(void* pointer, size_t count, size_t size) noexcept {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) return OrNoMemory(nullptr);
  return Reallocate(pointer, bytes, __builtin_return_address(0));
}

SPIRITOS_PUBLIC void free(void* pointer) noexcept { Free(pointer); }

SPIRITOS_PUBLIC int posix_memalign(void** result, size_t alignment, size_t size) noexcept {
  if (alignment % sizeof(void*) != 0 || !std::has_single_bit(alignment)) return EINVAL;
  const int saved_errno = errno;
  void* const pointer = Aligned(HeapFor(__builtin_return_address(0)), alignment, size);
  errno = saved_errno;
  if (pointer == nullptr) return ENOMEM;
  *result = pointer;
  return 0;
}

SPIRITOS_PUBLIC void* aligned_alloc(size_t alignment, size_t size) noexcept {
  if (!std::has_single_bit(alignment)) {
    errno = EINVAL;
    return nullptr;
  }
  return Aligned(HeapFor(__builtin_return_address(0)), alignment, size);
}

SPIRITOS_PUBLIC void* memalign(size_t alignment, size_t size) noexcept {
  return Aligned(HeapFor(__builtin_return_address(0)), std::bit_ceil(alignment), size);
}

SPIRITOS_PUBLIC void* valloc(size_t size) noexcept {
  return Aligned(HeapFor(__builtin_return_address(0)), kPageSize, size);
}

SPIRITOS_PUBLIC void* pvalloc(size_t size) noexcept {
  const size_t pages = (size + kPageSize - 1) / kPageSize;
  return Aligned(HeapFor(__builtin_return_address(0)), kPageSize, pages * kPageSize);
}

SPIRITOS_PUBLIC size_t malloc_usable_size(void* pointer) noexcept {
  if (pointer == nullptr) return 0;
  FarHeap* const owner = OwnerOf(pointer);
  if (owner != nullptr) return owner->UsableSize(pointer);
  if (next.malloc_usable_size == nullptr) FindNextFunctions();
  return next.malloc_usable_size(pointer);
}

}  // extern "C"

}  // namespace spiritos::shim
