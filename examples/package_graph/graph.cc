// SPDX-License-Identifier: Apache-2.0
#include "examples/package_graph/graph.h"

namespace package_graph {

Rows Rows::Transposed() const {
  Rows result(offsets_.get_allocator().resource());
  const size_t rows = size();
  // Counting sort in place: offsets[v + 2] counts, the running sum moves the
  // counts to where rows begin, and filling moves each beginning to its end,
  // which is the next row's beginning. No second array of cursors.
  std::pmr::vector<uint64_t>& at = result.offsets_;
  at.assign(rows + 2, 0);
  for (const Edge& edge : edges_) ++at[edge.node + 2];
  for (size_t v = 2; v < at.size(); ++v) at[v] += at[v - 1];
  result.edges_.resize(edges_.size());
  for (size_t v = 0; v < rows; ++v) {
    for (const Edge& edge : (*this)[static_cast<PackageId>(v)]) {
      result.edges_[at[edge.node + 1]++] = {static_cast<PackageId>(v), edge.weight};
    }
  }
  at.pop_back();
  return result;
}

}  // namespace package_graph
