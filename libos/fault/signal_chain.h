// SPDX-License-Identifier: Apache-2.0
// SignalChain: our SIGBUS handler in front of the application's.
//
// A fault in a covered range goes to its sink; every other SIGBUS goes to the
// handler that was installed before, with its own flags and mask, or has the
// default effect. SIGSEGV is never taken: the application keeps it.
//
// The handler runs with all asynchronous signals blocked, so that no other
// handler can fault while a page is claimed. SIGBUS itself is not: a sweep in
// the handler may read a page that was discarded behind the runtime's back.
#pragma once

#include "absl/status/status.h"
#include "libos/base/range_map.h"
#include "libos/base/units.h"
#include "libos/fault/fault_backend.h"

namespace spiritos {

// Which sink serves an address: the one global, because signal handlers have no
// other way to find anything.
RangeMap<FaultSink>& covered_ranges();

class SignalChain {
 public:
  // Installs the handler, counted: the last Uninstall() puts the old one back,
  // unless somebody has replaced ours since.
  static absl::Status Install();
  static void Uninstall();
};

}  // namespace spiritos
