// SPDX-License-Identifier: Apache-2.0
// Graph: who depends on whom, in compressed sparse rows.
//
//   offsets:  | 0 | 3 | 3 | 5 | ...        row v is edges[offsets[v], offsets[v+1])
//   edges:    | t w | t w | t w | t w | ...
//
// Both directions are kept: `out` answers "what does it need", `in` is what
// PageRank pulls along. A row's weights in `out` sum to 1, the share of its rank
// that a package hands to each dependency; `in` carries the same weights.
#pragma once

#include <cstdint>
#include <memory_resource>
#include <span>
#include <vector>

#include "examples/package_graph/catalog.h"

namespace package_graph {

struct Edge {
  PackageId node;
  float weight;
};

class Rows {
 public:
  explicit Rows(std::pmr::memory_resource* memory) : offsets_(1, 0, memory), edges_(memory) {}

  void Reserve(size_t rows, size_t edges) {
    offsets_.reserve(rows + 1);
    edges_.reserve(edges);
  }
  void AddRow(std::span<const Edge> row) {
    edges_.insert(edges_.end(), row.begin(), row.end());
    offsets_.push_back(edges_.size());
  }

  // The same edges, each seen from its other end.
  Rows Transposed() const;

  size_t size() const { return offsets_.size() - 1; }
  size_t edges() const { return edges_.size(); }
  std::span<const Edge> operator[](PackageId v) const {
    return {edges_.data() + offsets_[v], edges_.data() + offsets_[v + 1]};
  }

 private:
  std::pmr::vector<uint64_t> offsets_;
  std::pmr::vector<Edge> edges_;
};

struct Graph {
  explicit Graph(std::pmr::memory_resource* memory) : out(memory), in(memory) {}
  Rows out;
  Rows in;
};

}  // namespace package_graph
