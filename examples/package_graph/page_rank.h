// SPDX-License-Identifier: Apache-2.0
// PageRank over the dependency graph: a package matters when much that matters
// needs it.
//
// Pull: each node sums what its in-edges bring, in the order they are stored, and
// is summed by one thread, so the result is the same to the last bit for any
// number of threads. Pages are touched in order, but for the ranks that edges
// read; those lie within one copy of the catalog, half a megabyte.
#pragma once

#include <memory_resource>
#include <vector>

#include "examples/package_graph/graph.h"
#include "examples/package_graph/progress.h"

namespace package_graph {

std::pmr::vector<double> PageRank(const Graph& graph, unsigned iterations, unsigned threads,
                                  std::pmr::memory_resource* memory, Progress& progress);

}  // namespace package_graph
