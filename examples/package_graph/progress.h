// SPDX-License-Identifier: Apache-2.0
// Progress: what the job is doing now, for whoever draws it.
//
// Threads: the job writes, the sampling thread reads; hints, so relaxed.
#pragma once

#include <atomic>
#include <cstdint>

namespace package_graph {

class Progress {
 public:
  // `phase` is a literal.
  void Begin(const char* phase, uint64_t total) {
    done_.store(0, std::memory_order_relaxed);
    total_.store(total, std::memory_order_relaxed);
    phase_.store(phase, std::memory_order_relaxed);
  }
  void Advance(uint64_t n = 1) { done_.fetch_add(n, std::memory_order_relaxed); }

  const char* phase() const { return phase_.load(std::memory_order_relaxed); }
  uint64_t done() const { return done_.load(std::memory_order_relaxed); }
  uint64_t total() const { return total_.load(std::memory_order_relaxed); }

 private:
  std::atomic<const char*> phase_{"start"};
  std::atomic<uint64_t> done_{0};
  std::atomic<uint64_t> total_{0};
};

}  // namespace package_graph
