// SPDX-License-Identifier: Apache-2.0
// Next: the functions that ours stand before, as the dynamic loader finds them.
//
// Looked up once, by the constructor: dlsym(3) may allocate.
#pragma once

#include <pthread.h>
#include <stddef.h>

namespace spiritos::shim {

struct Next {
  size_t (*malloc_usable_size)(void*) = nullptr;
  int (*close)(int) = nullptr;  // A cancellation point: no plain system call.
  int (*pthread_create)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*) = nullptr;
};
extern constinit Next next;

// Again does no harm: constructors of other libraries may come before ours.
void FindNextFunctions();

}  // namespace spiritos::shim
