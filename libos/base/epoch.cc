// SPDX-License-Identifier: Apache-2.0
// Waits for readers of a phase to leave.
#include "libos/base/epoch.h"

#include <sched.h>

namespace spiritos {

void Epoch::Synchronize() noexcept {
  for (int flip = 0; flip < 2; ++flip) {
    const uint32_t old_phase = phase_.fetch_add(1, std::memory_order_seq_cst) & 1;
    while (true) {
      int64_t readers = 0;
      for (const Cell& cell : cells_) {
        readers += cell.readers[old_phase].load(std::memory_order_seq_cst);
      }
      if (readers == 0) break;
      sched_yield();  // Readers are faults: microseconds, or one remote read.
    }
  }
}

}  // namespace spiritos
