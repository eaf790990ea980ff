// SPDX-License-Identifier: Apache-2.0
// The phases in order, each with its time and the hash of its result.
#include "examples/package_graph/job.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "examples/package_graph/corpus.h"
#include "examples/package_graph/key_value.h"
#include "examples/package_graph/page_rank.h"
#include "examples/package_graph/search.h"

namespace package_graph {
namespace {

constexpr size_t kTop = 10;

class Stopwatch {
 public:
  // Seconds since the last call, or since it was made.
  double Lap() {
    auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(last_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

uint64_t HashRanks(const std::pmr::vector<double>& rank) {
  return HashBytes({reinterpret_cast<const char*>(rank.data()), rank.size() * sizeof(double)});
}

std::vector<TopPackage> TopOf(const Corpus& corpus, const std::pmr::vector<double>& rank) {
  std::vector<std::pair<double, PackageId>> order;
  for (PackageId id = 0; id < corpus.base_names.size(); ++id) order.emplace_back(-rank[id], id);
  size_t top = std::min(kTop, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<ptrdiff_t>(top), order.end());
  std::vector<TopPackage> result;
  for (size_t i = 0; i < top; ++i) {
    result.push_back(
        {corpus.NameOf(order[i].second), -order[i].first * static_cast<double>(rank.size())});
  }
  return result;
}

}  // namespace

absl::StatusOr<JobResult> RunJob(const JobOptions& options, std::pmr::memory_resource* memory,
                                 Progress& progress, const JobHooks& hooks) {
  JobResult result;
  Stopwatch watch;
  auto built_corpus = BuildCorpus(options.lists, options.copies, memory, progress);
  if (!built_corpus.ok()) return built_corpus.status();
  Corpus& corpus = **built_corpus;
  result.build_s = watch.Lap();
  result.packages = corpus.catalog.size();
  result.edges = corpus.graph.out.edges();
  result.words = corpus.index.words();
  result.postings = corpus.index.postings();
  hooks.built();

  watch.Lap();
  std::pmr::vector<double> rank =
      PageRank(corpus.graph, options.iterations, options.threads, memory, progress);
  result.pagerank_s = watch.Lap();
  result.rank_hash = HashRanks(rank);
  result.top = TopOf(corpus, rank);

  watch.Lap();
  SearchResult search =
      Search(corpus, rank, options.queries, options.seed, options.threads, progress);
  result.queries_s = watch.Lap();
  result.query_hits = search.hits;
  result.query_hash = search.hash;

  KeyValueResult kv = RunKeyValue(corpus, options.gets, options.seed, options.threads, progress);
  result.kv_s = watch.Lap();
  result.kv_gets = kv.gets;
  result.kv_updates = kv.updates;
  result.kv_hash = kv.hash;
  result.bad_records = kv.bad_records;
  hooks.finished();
  progress.Begin("free", 0);
  return result;
}

std::string Differences(const JobResult& expected, const JobResult& found) {
  std::string differences;
  auto compare = [&](const char* what, uint64_t want, uint64_t have) {
    if (want == have) return;
    differences.append(differences.empty() ? "" : ", ").append(what).append(" ");
    differences.append(std::to_string(have)).append(" instead of ").append(std::to_string(want));
  };
  compare("packages", expected.packages, found.packages);
  compare("edges", expected.edges, found.edges);
  compare("words", expected.words, found.words);
  compare("postings", expected.postings, found.postings);
  compare("pagerank hash", expected.rank_hash, found.rank_hash);
  compare("query hits", expected.query_hits, found.query_hits);
  compare("query hash", expected.query_hash, found.query_hash);
  compare("gets", expected.kv_gets, found.kv_gets);
  compare("updates", expected.kv_updates, found.kv_updates);
  compare("key-value hash", expected.kv_hash, found.kv_hash);
  compare("bad records", 0, found.bad_records);
  return differences;
}

}  // namespace package_graph
