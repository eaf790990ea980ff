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
#include "runtime/settings.h"
#include "runtime/shim/far_map.h"
#include "runtime/shim/near_scope.h"

namespace spiritos::shim {

// Both live until the process ends, and are null before the shim is at work.
extern constinit std::atomic<FarMap*> far_map;
extern constinit std::atomic<FarHeap*> far_heap;

// Where an object's code is.
struct Code {
  uintptr_t begin = 0;
  uintptr_t end = 0;
  bool holds(uintptr_t address) const { return address - begin < end - begin; }
};
extern constinit Code loader;
extern constinit Code libc;

// The heap for this call of the program's; null when it is the runtime's own, or when
// `caller` is the dynamic loader, which allocates threads' control blocks, or the C library,
// which uses some of what it allocates in a child of fork(2) before anybody else runs there.
inline FarHeap* HeapFor(const void* caller) {
  if (InRuntime()) return nullptr;
  const auto at = reinterpret_cast<uintptr_t>(caller);
  if (loader.holds(at) || libc.holds(at)) return nullptr;
  return far_heap.load(std::memory_order_acquire);
}

// Of the files that the process has begun with, some may be read past the page cache.
void FindDirectFiles();
// There may be others, from now on.
void NoteDirectFiles(bool some);

// Whether `call`, which may pin far memory unseen, may be made: false where the kernel
// cannot keep what is pinned, and then a warning has been said.
bool MayPin(const char* call);

// Statistics as the settings say (report.cc); all of them, now; and in a child of fork(2).
void StartReports(const Settings& settings);
void ReportAll();
void RestartReports();

// The same for the thread that changes the budget, where the settings say so (budget.cc).
void StartAutoBudget(const Settings& settings);
void RestartAutoBudget();

// Once, before anybody else's: ours come last before a fork and first after it, when other
// handlers may use far memory.
void RegisterForkHandlers();

}  // namespace spiritos::shim
