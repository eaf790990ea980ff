// SPDX-License-Identifier: Apache-2.0
// The mapping calls themselves, past every interposed name: mmap(2), munmap(2),
// mremap(2), mprotect(2), madvise(2). They set errno as the C library's do.
//
// Context: signal.
#pragma once

#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <cstddef>

namespace spiritos::shim::kernel {

inline void* Map(void* at, size_t size, int protection, int flags, int file, off_t offset) {
  return reinterpret_cast<void*>(syscall(SYS_mmap, at, size, protection, flags, file, offset));
}
inline int Unmap(void* at, size_t size) { return static_cast<int>(syscall(SYS_munmap, at, size)); }
inline void* Remap(void* at, size_t old_size, size_t size, int flags, void* to) {
  return reinterpret_cast<void*>(syscall(SYS_mremap, at, old_size, size, flags, to));
}
inline int Protect(void* at, size_t size, int protection) {
  return static_cast<int>(syscall(SYS_mprotect, at, size, protection));
}
inline int Advise(void* at, size_t size, int advice) {
  return static_cast<int>(syscall(SYS_madvise, at, size, advice));
}

}  // namespace spiritos::shim::kernel
