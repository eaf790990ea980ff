// SPDX-License-Identifier: Apache-2.0
// Probe: what this kernel and user may do, why not, and what it costs here.
//
// Features are tried, never guessed from a version. The costs decide between
// waking and working: a shootdown that reaches a running core, waking a sleeping
// thread, filling one page.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace spiritos {

struct KernelCalls {
  absl::Status sigbus_mode;           // OK, or why uffd_sigbus cannot run.
  absl::Status thread_mode;           // OK, or why uffd_thread cannot run.
  bool uffd_move = false;             // UFFDIO_MOVE: Linux >= 6.8.
  bool process_madvise_self = false;  // MADV_DONTNEED on oneself: Linux >= 6.13.
  double shootdown_ns = 0;
  double wakeup_ns = 0;
  double fill_ns = 0;

  // One line a fact, for people.
  std::string ToText() const;
};

// Tries everything; about 10 ms. Context: any.
KernelCalls ProbeKernel();

// The same with all that Linux 6.1 lacks switched off.
KernelCalls OldestCalls(KernelCalls calls);

}  // namespace spiritos
