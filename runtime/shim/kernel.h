// SPDX-License-Identifier: Apache-2.0
// System calls themselves, past every interposed name: they set errno as the C library's
// do, and are no cancellation points.
//
// Context: signal.
#pragma once

#include <errno.h>
#include <sys/syscall.h>
#include <sys/types.h>

#include <cstddef>

namespace spiritos::shim::kernel {

// System V ABI, x86-64 supplement, A.2.1: the numbers' registers, and what a call destroys.
inline long Call(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0,
                 long f = 0) {
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  long result = number;
  asm volatile("syscall"
               : "+a"(result)
               : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  constexpr long kLastErrno = 4095;
  if (result < 0 && result >= -kLastErrno) {
    errno = static_cast<int>(-result);
    return -1;
  }
  return result;
}

inline long Word(const void* at) { return reinterpret_cast<long>(at); }
inline long Word(size_t size) { return static_cast<long>(size); }

inline void* Map(void* at, size_t size, int protection, int flags, int file, off_t offset) {
  return reinterpret_cast<void*>(
      Call(SYS_mmap, Word(at), Word(size), protection, flags, file, offset));
}
inline int Unmap(void* at, size_t size) {
  return static_cast<int>(Call(SYS_munmap, Word(at), Word(size)));
}
inline void* Remap(void* at, size_t old_size, size_t size, int flags, void* to) {
  return reinterpret_cast<void*>(
      Call(SYS_mremap, Word(at), Word(old_size), Word(size), flags, Word(to)));
}
inline int Protect(void* at, size_t size, int protection) {
  return static_cast<int>(Call(SYS_mprotect, Word(at), Word(size), protection));
}
inline int Advise(void* at, size_t size, int advice) {
  return static_cast<int>(Call(SYS_madvise, Word(at), Word(size), advice));
}
inline int Lock(const void* at, size_t size, unsigned flags) {
  return static_cast<int>(flags == 0 ? Call(SYS_mlock, Word(at), Word(size))
                                     : Call(SYS_mlock2, Word(at), Word(size), flags));
}
inline int Unlock(const void* at, size_t size) {
  return static_cast<int>(Call(SYS_munlock, Word(at), Word(size)));
}

}  // namespace spiritos::shim::kernel
