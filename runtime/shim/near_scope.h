// SPDX-License-Identifier: Apache-2.0
// NearScope: this thread is inside the runtime.
//
// What it allocates then is near, and what it asks the kernel to map is not looked at:
// the runtime's own books must never lie in memory that the runtime brings in. Threads
// that are made inside the runtime stay inside.
//
// Context: signal.
#pragma once

namespace spiritos::shim {

// initial-exec: read in every malloc, and never allocated on demand.
extern thread_local constinit int near_depth __attribute__((tls_model("initial-exec")));

inline bool InRuntime() { return near_depth != 0; }

class NearScope {
 public:
  NearScope() { ++near_depth; }
  ~NearScope() { --near_depth; }
  NearScope(const NearScope&) = delete;
  NearScope& operator=(const NearScope&) = delete;
};

}  // namespace spiritos::shim
