// SPDX-License-Identifier: Apache-2.0
// pthread_create(3): threads that the runtime makes are the runtime's.
#include <pthread.h>

#include <memory>

#include "libos/base/export.h"
#include "runtime/shim/near_scope.h"
#include "runtime/shim/next.h"

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

}  // namespace

extern "C" SPIRITOS_PUBLIC int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                                              void* (*body)(void*), void* argument) noexcept {
  if (next.pthread_create == nullptr) FindNextFunctions();  // A library's constructor calls.
  if (!InRuntime()) return next.pthread_create(thread, attributes, body, argument);
  auto start = std::make_unique<Start>(Start{body, argument});
  const int error = next.pthread_create(thread, attributes, RunInside, start.get());
  if (error == 0) static_cast<void>(start.release());
  return error;
}

}  // namespace spiritos::shim
