// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <thread>
#include <vector>

namespace package_graph {

// Runs `body(0)` ... `body(count - 1)`, each in a thread of its own, the first in
// the caller's. Returns when all have.
inline void RunThreads(unsigned count, const std::function<void(unsigned)>& body) {
  std::vector<std::jthread> threads;
  for (unsigned i = 1; i < count; ++i) threads.emplace_back(body, i);
  body(0);
}

}  // namespace package_graph
