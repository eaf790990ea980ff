// SPDX-License-Identifier: Apache-2.0
// fork(2) of a program whose memory is far.
//
//   prepare   the program's handlers -> caches -> jemalloc -> heap, map, space
//   after     heap, map, space -> jemalloc -> caches -> the program's handlers
//
// Handlers run in the order in which they were registered, before the fork in the opposite
// one. So the first registration of anybody's is preceded by ours. What is not seen here
// (clone(2), _Fork(3)) leaves a child without far memory: a touch is a SIGSEGV.
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>

#include "libos/base/check.h"
#include "libos/base/export.h"
#include "runtime/shim/shim.h"

namespace spiritos::shim {
namespace {

void BeforeForkSource() {
  ++near_depth;
  if (FarHeap* const heap = far_heap.load()) heap->BeforeForkSource();
  if (FarMap* const map = far_map.load()) map->BeforeFork();
}

void AfterForkSource(void (FarMap::*after)()) {
  if (FarMap* const map = far_map.load()) (map->*after)();
  if (FarHeap* const heap = far_heap.load()) heap->AfterForkSource();
  --near_depth;
}

void InParent() { AfterForkSource(&FarMap::AfterForkInParent); }
void InChild() {
  AfterForkSource(&FarMap::AfterForkInChild);
  const NearScope near;
  RestartReports();
  RestartAutoBudget();
}

// A handler of a signal must not touch far memory while nobody serves it. Of the thread that
// forks: one at a time, as it holds the caches' locks.
constinit sigset_t signals_before{};

void BeforeForkCaches() {
  sigset_t most;
  sigset_t before;
  sigfillset(&most);
  for (const int fatal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP})
    sigdelset(&most, fatal);
  pthread_sigmask(SIG_BLOCK, &most, &before);
  if (FarHeap* const heap = far_heap.load()) heap->BeforeForkCaches();
  signals_before = before;
}

void AfterForkCaches() {
  const sigset_t before = signals_before;
  if (FarHeap* const heap = far_heap.load()) heap->AfterForkCaches();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace

void RegisterForkHandlers() {
  static constinit bool begun = false;  // By the loader, in one thread.
  if (begun) return;
  begun = true;
  const NearScope near;
  const int inner = pthread_atfork(BeforeForkSource, InParent, InChild);
  FarHeap::StartJemalloc();
  const int outer = pthread_atfork(BeforeForkCaches, AfterForkCaches, AfterForkCaches);
  SPIRITOS_CHECK(inner == 0 && outer == 0, "pthread_atfork: {} and {}", inner, outer);
}

// What pthread_atfork(3) is in every object, by an interface of the C library's.
extern "C" SPIRITOS_PUBLIC int __register_atfork(void (*prepare)(), void (*parent)(),
                                                 void (*child)(), void* object) noexcept {
  using Register = int (*)(void (*)(), void (*)(), void (*)(), void*);
  static const auto next_register =
      reinterpret_cast<Register>(dlsym(RTLD_NEXT, "__register_atfork"));
  RegisterForkHandlers();
  return next_register(prepare, parent, child, object);
}

}  // namespace spiritos::shim
