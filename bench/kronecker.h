// SPDX-License-Identifier: Apache-2.0
// Kronecker: graphs with a few very popular vertices, as Graph500 draws them.
//
//   offsets[vertices + 1] | targets[edges]     the adjacency of all vertices;
//   8 bytes each          | 4 bytes each       both on page boundaries
//
// Each edge picks one quadrant of the adjacency matrix per level, with
// probabilities 0.57, 0.19, 0.19, 0.05 (to 1/256); vertex names are scattered;
// every undirected edge is stored at both ends. Loops and repeated edges stay.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "libos/base/fd.h"
#include "libos/base/units.h"

namespace spiritos::bench {

struct GraphShape {
  unsigned scale = 0;  // log2 of the number of vertices.
  uint64_t vertices = 0;
  uint64_t edges = 0;  // Entries of `targets`: two per undirected edge.
  Bytes offsets_size;  // In whole pages.
  Bytes targets_size;  // In whole pages.
  Bytes ranks_size;    // Of one array of doubles, in whole pages.

  Bytes graph_size() const { return offsets_size + targets_size; }
};

// The graph that, with two arrays of ranks, fills `size`: 128 to 256 bytes per
// vertex, an average degree of 26 for sizes that are powers of two.
GraphShape ShapeForSize(Bytes size);

// Writes the two arrays. Touches memory at random: meant for near memory.
void MakeGraph(const GraphShape& shape, uint64_t seed, uint64_t* offsets, uint32_t* targets);

// The graph in a memfd that child processes inherit: made once, copied often.
absl::StatusOr<UniqueFd> WriteGraph(const GraphShape& shape, uint64_t seed);

}  // namespace spiritos::bench
