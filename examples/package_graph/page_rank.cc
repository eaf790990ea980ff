// SPDX-License-Identifier: Apache-2.0
#include "examples/package_graph/page_rank.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <barrier>
#include <utility>

#include "examples/package_graph/threads.h"

namespace package_graph {
namespace {

constexpr double kDamping = 0.85;

// Threads take nodes by the chunk. The number is fixed, since the order in which
// partial sums are added must not depend on the number of threads.
constexpr size_t kChunks = 256;

}  // namespace

std::pmr::vector<double> PageRank(const Graph& graph, unsigned iterations, unsigned threads,
                                  std::pmr::memory_resource* memory, Progress& progress) {
  const size_t nodes = graph.in.size();
  const double even = 1.0 / static_cast<double>(std::max<size_t>(nodes, 1));
  std::pmr::vector<double> rank(nodes, even, memory);
  std::pmr::vector<double> next(nodes, 0.0, memory);

  // What nodes without dependencies would hand on goes to everyone alike.
  std::array<double, kChunks> chunk_lost{};
  for (size_t v = 0; v < nodes; ++v) {
    if (graph.out[static_cast<PackageId>(v)].empty()) chunk_lost[v * kChunks / nodes] += even;
  }
  double lost = 0;
  std::atomic<size_t> next_chunk{0};
  auto sum_lost = [&] {
    lost = 0;
    for (double part : chunk_lost) lost += part;
    next_chunk.store(0, std::memory_order_relaxed);
  };
  sum_lost();

  progress.Begin("pagerank", uint64_t{iterations} * kChunks);
  std::barrier turn(static_cast<ptrdiff_t>(threads), [&]() noexcept {
    rank.swap(next);
    sum_lost();
  });
  RunThreads(threads, [&](unsigned) {
    for (unsigned i = 0; i < iterations; ++i) {
      for (size_t chunk; (chunk = next_chunk.fetch_add(1, std::memory_order_relaxed)) < kChunks;) {
        // The nodes v with v * kChunks / nodes == chunk.
        size_t begin = (chunk * nodes + kChunks - 1) / kChunks;
        size_t end = ((chunk + 1) * nodes + kChunks - 1) / kChunks;
        double chunk_sum = 0;
        for (size_t v = begin; v < end; ++v) {
          auto node = static_cast<PackageId>(v);
          double sum = lost * even;
          for (const Edge& edge : graph.in[node]) {
            sum += rank[edge.node] * static_cast<double>(edge.weight);
          }
          next[v] = (1 - kDamping) * even + kDamping * sum;
          if (graph.out[node].empty()) chunk_sum += next[v];
        }
        chunk_lost[chunk] = chunk_sum;
        progress.Advance();
      }
      turn.arrive_and_wait();
    }
  });
  return rank;
}

}  // namespace package_graph
