// SPDX-License-Identifier: Apache-2.0
// Search: queries of two words, both wanted, best-ranked packages first.
//
// A query takes its words from the description of a random package, so that it
// finds something. It then scans two posting lists, reads the rank of each hit
// and the records of the best three.
#pragma once

#include <cstdint>
#include <memory_resource>
#include <vector>

#include "examples/package_graph/corpus.h"
#include "examples/package_graph/progress.h"

namespace package_graph {

struct SearchResult {
  uint64_t hits = 0;
  uint64_t hash = 0;  // Of every query's hits, and of the records of its best.
};

// The result does not depend on the number of threads.
SearchResult Search(const Corpus& corpus, const std::pmr::vector<double>& rank, uint64_t queries,
                    uint64_t seed, unsigned threads, Progress& progress);

}  // namespace package_graph
