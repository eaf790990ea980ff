// SPDX-License-Identifier: Apache-2.0
// The floor of a fault: what the kernel alone costs, with nothing of ours.
//
// signal -> UFFDIO_COPY from a pool in memory -> return, by a handler of a dozen
// lines, on pages (or aligned runs of pages) in random order; and its parts by
// themselves. All figures are for one fault.
#pragma once

#include <cstdint>

namespace spiritos::bench {

struct FloorCosts {
  double fault_ns = 0;   // The whole: fault, signal, copy, return.
  double signal_ns = 0;  // Fault, signal and return; the handler steps over the load.
  double copy_ns = 0;    // UFFDIO_COPY of the run, random, called in a loop.
  double load_ns = 0;    // A load of a random resident page: TLB and cache miss.
  double two_ns = 0;     // Wall time per fault where two threads take half of them each.
};

// In the calling process, which must have no space: it takes SIGBUS. `pages`
// pages, in runs of `run` that one fault brings, out of as many in a pool. The
// second thread of two is pinned to CPU 1 if `pinned`.
FloorCosts MeasureFloor(uint32_t pages, uint32_t run = 1, bool pinned = false);

}  // namespace spiritos::bench
