// SPDX-License-Identifier: Apache-2.0
#include "examples/package_graph/search.h"

#include <algorithm>
#include <string>
#include <utility>

#include "examples/package_graph/threads.h"

namespace package_graph {
namespace {

constexpr size_t kBest = 3;

// The two longest words, since they say most; the same one twice where there is
// no other.
std::pair<std::string, std::string> PickWords(std::string_view description) {
  std::string longest;
  std::string second;
  ForEachWord(description, [&](std::string_view word) {
    if (word.size() > longest.size()) {
      second = std::exchange(longest, std::string(word));
    } else if (word.size() > second.size() && word != longest) {
      second = word;
    }
  });
  return {longest, second.empty() ? longest : second};
}

SearchResult RunQuery(const Corpus& corpus, const std::pmr::vector<double>& rank, PackageId about) {
  auto [first, second] = PickWords(corpus.catalog[about].description());
  std::vector<PackageId> hits = Intersect(corpus.index.Find(first), corpus.index.Find(second));
  SearchResult result{.hits = hits.size(), .hash = HashBytes(first + " " + second)};
  std::vector<std::pair<double, PackageId>> ranked;
  ranked.reserve(hits.size());
  for (PackageId hit : hits) {
    result.hash = Mix(result.hash ^ hit);
    ranked.emplace_back(-rank[hit], hit);  // Best first; equal ranks by number.
  }
  size_t best = std::min(kBest, ranked.size());
  std::partial_sort(ranked.begin(), ranked.begin() + static_cast<ptrdiff_t>(best), ranked.end());
  for (size_t i = 0; i < best; ++i) {
    const Record& record = corpus.catalog[ranked[i].second];
    result.hash = HashBytes(record.description(), HashBytes(record.name(), result.hash));
  }
  return result;
}

}  // namespace

SearchResult Search(const Corpus& corpus, const std::pmr::vector<double>& rank, uint64_t queries,
                    uint64_t seed, unsigned threads, Progress& progress) {
  progress.Begin("queries", queries);
  std::vector<SearchResult> sums(threads);
  RunThreads(threads, [&](unsigned thread) {
    SearchResult sum;
    for (uint64_t i = thread; i < queries; i += threads) {
      auto about = static_cast<PackageId>(Random(Mix(seed) ^ i).Below(corpus.catalog.size()));
      SearchResult result = RunQuery(corpus, rank, about);
      sum.hits += result.hits;
      sum.hash += Mix(result.hash ^ i);  // A sum, so that the order does not matter.
      progress.Advance();
    }
    sums[thread] = sum;
  });
  SearchResult total;
  for (const SearchResult& sum : sums) {
    total.hits += sum.hits;
    total.hash += sum.hash;
  }
  return total;
}

}  // namespace package_graph
