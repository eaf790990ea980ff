// SPDX-License-Identifier: Apache-2.0
// Next: the functions that ours stand before, as the dynamic loader finds them.
//
// Looked up once, by the constructor: dlsym(3) may allocate.
#pragma once

#include <pthread.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

namespace spiritos::shim {

struct Next {
  size_t (*malloc_usable_size)(void*) = nullptr;
  int (*close)(int) = nullptr;  // A cancellation point: no plain system call.
  // Cancellation points as well.
  ssize_t (*read)(int, void*, size_t) = nullptr;
  ssize_t (*pread)(int, void*, size_t, off_t) = nullptr;
  ssize_t (*readv)(int, const iovec*, int) = nullptr;
  ssize_t (*preadv)(int, const iovec*, int, off_t) = nullptr;
  ssize_t (*preadv2)(int, const iovec*, int, off_t, int) = nullptr;
  ssize_t (*recvmsg)(int, msghdr*, int) = nullptr;
  int (*open)(const char*, int, ...) = nullptr;
  int (*openat)(int, const char*, int, ...) = nullptr;
  int (*fcntl)(int, int, ...) = nullptr;
  int (*pthread_create)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*) = nullptr;
};
extern constinit Next next;

// Again does no harm: constructors of other libraries may come before ours.
void FindNextFunctions();

// A function that is rarely called, looked up now: of the libraries after ours, or of
// `library` if that is loaded, or null.
void* FindNextOf(const char* name, const char* library);
template <typename Function>
Function NextOf(const char* name, const char* library) {
  return reinterpret_cast<Function>(FindNextOf(name, library));
}

// For calls that a library's constructor may make.
inline const Next& FoundNext() {
  if (next.read == nullptr) FindNextFunctions();
  return next;
}

}  // namespace spiritos::shim
