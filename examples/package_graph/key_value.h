// SPDX-License-Identifier: Apache-2.0
// KeyValue: gets and updates of records by name, a few names most of the time.
//
// Which package is asked for follows Zipf's law (exponent 0.99, as YCSB has it);
// the favourites lie anywhere in the catalog. A get reads the whole record and
// checks it against the checksum that was stored with it; every twentieth
// operation writes a new version instead.
#pragma once

#include <cstdint>

#include "examples/package_graph/corpus.h"
#include "examples/package_graph/progress.h"

namespace package_graph {

struct KeyValueResult {
  uint64_t gets = 0;
  uint64_t updates = 0;
  uint64_t bad_records = 0;  // Missing, or with a checksum that does not match.
  uint64_t hash = 0;         // Of what the gets read, in each package's order.
};

// Runs `operations` in all. Each package belongs to one thread, so operations on
// it keep their order and the result does not depend on the number of threads.
KeyValueResult RunKeyValue(Corpus& corpus, uint64_t operations, uint64_t seed, unsigned threads,
                           Progress& progress);

}  // namespace package_graph
