// SPDX-License-Identifier: Apache-2.0
// WordIndex: from a word of a description to the packages that have it.
//
// Each word owns a posting list of package numbers in rising order, so that AND
// is a merge of two sequential scans.
#pragma once

#include <cstdint>
#include <functional>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "examples/package_graph/catalog.h"

namespace package_graph {

// Calls `visit` with each run of at least three letters and digits, lower case.
// The view lasts for the call.
void ForEachWord(std::string_view text, const std::function<void(std::string_view)>& visit);

class WordIndex {
 public:
  explicit WordIndex(std::pmr::memory_resource* memory) : lists_(memory) {}

  // REQUIRES: `id` is larger than any before it.
  void Add(PackageId id, std::string_view description);

  // Makes room in every list for `factor` times what it has: a list that grows in
  // steps would be copied, and in far memory a copy is traffic.
  void ReserveTimes(size_t factor);

  std::span<const PackageId> Find(std::string_view word) const;  // Empty when unknown.

  size_t words() const { return lists_.size(); }
  uint64_t postings() const { return postings_; }

 private:
  struct HashWord {
    using is_transparent = void;
    size_t operator()(std::string_view word) const { return HashBytes(word); }
  };

  std::pmr::unordered_map<std::pmr::string, std::pmr::vector<PackageId>, HashWord, std::equal_to<>>
      lists_;
  uint64_t postings_ = 0;
};

// The numbers that both lists have.
std::vector<PackageId> Intersect(std::span<const PackageId> a, std::span<const PackageId> b);

}  // namespace package_graph
