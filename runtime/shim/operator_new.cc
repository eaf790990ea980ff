// SPDX-License-Identifier: Apache-2.0
// operator new and delete: a program's library of its own (jemalloc, tcmalloc) may offer
// them too, and would then serve the runtime as well.
#include <new>

#include "libos/base/export.h"
#include "runtime/shim/heaps.h"

namespace spiritos::shim {
namespace {

// [new.delete.single]: the new-handler is called until there is memory. Null: there is no
// handler.
template <typename Try>
[[gnu::always_inline]] inline void* Insist(Try&& attempt) {
  while (true) {
    if (void* const pointer = attempt(); pointer != nullptr) return pointer;
    const std::new_handler handler = std::get_new_handler();
    if (handler == nullptr) return nullptr;
    handler();
  }
}

void* New(size_t size, const void* caller) {
  return Insist([=] { return Allocate(HeapFor(caller), size == 0 ? 1 : size); });
}

void* NewAligned(size_t size, std::align_val_t alignment, const void* caller) {
  return Insist([=] {
    return AllocateAligned(HeapFor(caller), static_cast<size_t>(alignment), size == 0 ? 1 : size);
  });
}

void* OrThrow(void* pointer) {
  if (pointer == nullptr) std::__throw_bad_alloc();
  return pointer;
}

}  // namespace
}  // namespace spiritos::shim

using spiritos::shim::Free;
using spiritos::shim::New;
using spiritos::shim::NewAligned;
using spiritos::shim::OrThrow;

#define CALLER __builtin_return_address(0)

SPIRITOS_PUBLIC void* operator new(size_t size) { return OrThrow(New(size, CALLER)); }
SPIRITOS_PUBLIC void* operator new[](size_t size) { return OrThrow(New(size, CALLER)); }
SPIRITOS_PUBLIC void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return New(size, CALLER);
}
SPIRITOS_PUBLIC void* operator new[](size_t size, const std::nothrow_t&) noexcept {
  return New(size, CALLER);
}
SPIRITOS_PUBLIC void* operator new(size_t size, std::align_val_t alignment) {
  return OrThrow(NewAligned(size, alignment, CALLER));
}
SPIRITOS_PUBLIC void* operator new[](size_t size, std::align_val_t alignment) {
  return OrThrow(NewAligned(size, alignment, CALLER));
}
SPIRITOS_PUBLIC void* operator new(size_t size, std::align_val_t alignment,
                                   const std::nothrow_t&) noexcept {
  return NewAligned(size, alignment, CALLER);
}
SPIRITOS_PUBLIC void* operator new[](size_t size, std::align_val_t alignment,
                                     const std::nothrow_t&) noexcept {
  return NewAligned(size, alignment, CALLER);
}

SPIRITOS_PUBLIC void operator delete(void* pointer) noexcept { Free(pointer); }
SPIRITOS_PUBLIC void operator delete[](void* pointer) noexcept { Free(pointer); }
SPIRITOS_PUBLIC void operator delete(void* pointer, size_t) noexcept { Free(pointer); }
SPIRITOS_PUBLIC void operator delete[](void* pointer, size_t) noexcept { Free(pointer); }
SPIRITOS_PUBLIC void operator delete(void* pointer, const std::nothrow_t&) noexcept {
  Free(pointer);
}
SPIRITOS_PUBLIC void operator delete[](void* pointer, const std::nothrow_t&) noexcept {
  Free(pointer);
}
SPIRITOS_PUBLIC void operator delete(void* pointer, std::align_val_t) noexcept { Free(pointer); }
SPIRITOS_PUBLIC void operator delete[](void* pointer, std::align_val_t) noexcept { Free(pointer); }
SPIRITOS_PUBLIC void operator delete(void* pointer, size_t, std::align_val_t) noexcept {
  Free(pointer);
}
SPIRITOS_PUBLIC void operator delete[](void* pointer, size_t, std::align_val_t) noexcept {
  Free(pointer);
}
SPIRITOS_PUBLIC void operator delete(void* pointer, std::align_val_t,
                                     const std::nothrow_t&) noexcept {
  Free(pointer);
}
SPIRITOS_PUBLIC void operator delete[](void* pointer, std::align_val_t,
                                       const std::nothrow_t&) noexcept {
  Free(pointer);
}
