// SPDX-License-Identifier: Apache-2.0
// pthread_create(3): threads that the runtime makes are the runtime's; those of the program
// have their control blocks here.
#include <pthread.h>
#include <stdint.h>

#include <memory>

#include "libos/base/export.h"
#include "runtime/shim/near_scope.h"
#include "runtime/shim/next.h"
#include "runtime/shim/shim.h"

namespace spiritos::shim {
namespace {

struct Start {
  void* (*body)(void*);
  void* argument;
};

void* RunInside(void* start) {
  ++near_depth;  // For the thread's life.
  const Start copy = *std::unique_ptr<Start>(static_cast<Start*>(start));
  return copy.body(copy.argument);
}

// The C library puts a thread's control block at the end of its stack, which the program may
// have given it. When the thread ends the kernel says so there, for who joins it, and does not
// wait for a page that is away: it would say so to nobody.
void KeepControlBlock(const pthread_attr_t& attributes) {
  constexpr size_t kMostSize = kPageSize;
  FarMap* const map = far_map.load(std::memory_order_acquire);
  void* stack = nullptr;
  size_t size = 0;
  if (map == nullptr || pthread_attr_getstack(&attributes, &stack, &size) != 0) return;
  const uintptr_t end = reinterpret_cast<uintptr_t>(stack) + size;
  const uintptr_t first = (end - kMostSize) & ~(kPageSize - 1);
  auto* const begin = reinterpret_cast<std::byte*>(first);
  const size_t pages = (end - first + kPageSize - 1) & ~(kPageSize - 1);
  if (size < kMostSize || !map->MayHold(begin, pages)) return;
  const NearScope near;
  // Where there is no room for it, all is as it would be without.
  static_cast<void>(map->Lock({begin, Bytes(pages)}, 0));
}

}  // namespace

extern "C" SPIRITOS_PUBLIC int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                                              void* (*body)(void*), void* argument) noexcept {
  if (next.pthread_create == nullptr) FindNextFunctions();  // A library's constructor calls.
  if (!InRuntime()) {
    if (attributes != nullptr) KeepControlBlock(*attributes);
    return next.pthread_create(thread, attributes, body, argument);
  }
  auto start = std::make_unique<Start>(Start{body, argument});
  const int error = next.pthread_create(thread, attributes, RunInside, start.get());
  if (error == 0) static_cast<void>(start.release());
  return error;
}

}  // namespace spiritos::shim
