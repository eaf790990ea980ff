// SPDX-License-Identifier: Apache-2.0
// Counts allocations: malloc() and its kin in place of the C library's, for every library
// of the program. One source file of a program includes this.
//
// Not under sanitizers, which have their own: SPIRITOS_COUNTS_ALLOCATIONS is missing then.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SPIRITOS_COUNTS_ALLOCATIONS 1

namespace spiritos {
// Of this thread, while it counts them.
inline thread_local bool counts_allocations = false;
inline thread_local uint32_t allocations = 0;
}  // namespace spiritos

extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* block, size_t size);

void* malloc(size_t size) {
  spiritos::allocations += spiritos::counts_allocations;
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  spiritos::allocations += spiritos::counts_allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* block, size_t size) {
  spiritos::allocations += spiritos::counts_allocations;
  return __libc_realloc(block, size);
}
}
#endif
