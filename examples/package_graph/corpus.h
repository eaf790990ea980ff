// SPDX-License-Identifier: Apache-2.0
// Corpus: the catalog, the word index and the graph, built from package lists.
//
// The lists are read once, into copy 0. Further copies are made from it inside
// the memory at hand: records are renamed by a suffix ("bash~7"), their
// descriptions are indexed word by word, their edges shifted to the copy's own
// packages. Everything is appended in order, in room that was reserved when the
// size was known; only the words' lists are many places written in turn.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <memory_resource>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "examples/package_graph/catalog.h"
#include "examples/package_graph/graph.h"
#include "examples/package_graph/progress.h"
#include "examples/package_graph/word_index.h"

namespace package_graph {

struct Corpus {
  explicit Corpus(std::pmr::memory_resource* memory)
      : catalog(memory), index(memory), graph(memory) {}

  // The name of package `id`, from near memory: what a client that looks a
  // package up knows without asking.
  std::string NameOf(PackageId id) const;

  Catalog catalog;
  WordIndex index;
  Graph graph;
  std::vector<std::string> base_names;  // Near. Those of copy 0.
};

absl::StatusOr<std::unique_ptr<Corpus>> BuildCorpus(const std::vector<std::filesystem::path>& lists,
                                                    unsigned copies,
                                                    std::pmr::memory_resource* memory,
                                                    Progress& progress);

}  // namespace package_graph
