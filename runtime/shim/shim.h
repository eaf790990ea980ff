// SPDX-License-Identifier: Apache-2.0
// Shim: what the interposed functions of one process share.
//
//   unset --constructor: SPIRITOS_CONF--> at work, for the life of the process
//
// Without SPIRITOS_CONF, and in set-user-ID programs, it stays unset and every call goes
// where it would have gone.
#pragma once

#include <atomic>

#include "alloc/far_malloc.h"
#include "runtime/shim/far_map.h"
#include "runtime/shim/near_scope.h"

namespace spiritos::shim {

// Both live until the process ends, and are null before the shim is at work.
extern constinit std::atomic<FarMap*> far_map;
extern constinit std::atomic<FarHeap*> far_heap;

// Where the loader's code is.
extern constinit uintptr_t loader_begin;
extern constinit uintptr_t loader_end;

// The heap for this call of the program's; null when it is the runtime's own, or when
// `caller` is the dynamic loader: what it allocates is threads' control blocks.
inline FarHeap* HeapFor(const void* caller) {
  if (InRuntime()) return nullptr;
  const auto at = reinterpret_cast<uintptr_t>(caller);
  if (at - loader_begin < loader_end - loader_begin) return nullptr;
  return far_heap.load(std::memory_order_acquire);
}

}  // namespace spiritos::shim
