// SPDX-License-Identifier: Apache-2.0
#include "examples/package_graph/corpus.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "examples/package_graph/packages_list.h"
#include "examples/package_graph/relations.h"

namespace package_graph {
namespace {

// Fields that a record does not keep: its own parts, the relations, which become
// the graph, and what only a download needs.
constexpr std::string_view kNotKept[] = {
    "Package",     "Version",   "Description", "Description-md5", "Depends",
    "Pre-Depends", "Provides",  "Suggests",    "Recommends",      "Enhances",
    "Replaces",    "Conflicts", "Breaks",      "Filename",        "Size",
    "MD5sum",      "SHA1",      "SHA256",      "SHA512"};

// What a requirement weighs against the others of its package.
constexpr float kDependsWeight = 1.0f;
constexpr float kRecommendsWeight = 0.5f;

std::string CopyName(std::string_view base, size_t copy) {
  // No Debian name has a tilde, so no copy meets another package.
  return copy == 0 ? std::string(base) : std::string(base) + "~" + std::to_string(copy);
}

// What is needed until the edges of copy 0 are known. In the job's memory too.
class Relations {
 public:
  explicit Relations(std::pmr::memory_resource* memory) : wants_(memory), providers_(memory) {}

  void Add(PackageId id, const Stanza& stanza) {
    std::string depends(stanza.Get("Pre-Depends"));
    depends.append(",").append(stanza.Get("Depends"));
    wants_.emplace_back(depends, stanza.Get("Recommends"));
    ForEachRequirement(stanza.Get("Provides"), [&](const std::vector<std::string_view>& names) {
      providers_[std::pmr::string(names.front())].push_back(id);
    });
  }

  // The edges of package `id`: each requirement's weight is shared by those of
  // its alternatives that exist, an alternative's by the package of that name
  // and those that provide it. Weights sum to 1.
  std::vector<Edge> Resolve(PackageId id, const Catalog& catalog) const {
    std::vector<Edge> row;
    ResolveField(wants_[id].first, kDependsWeight, catalog, row);
    ResolveField(wants_[id].second, kRecommendsWeight, catalog, row);
    std::erase_if(row, [id](const Edge& edge) { return edge.node == id; });
    std::stable_sort(row.begin(), row.end(),
                     [](const Edge& a, const Edge& b) { return a.node < b.node; });
    float sum = 0;
    size_t used = 0;
    for (const Edge& edge : row) {
      sum += edge.weight;
      if (used > 0 && row[used - 1].node == edge.node) {
        row[used - 1].weight += edge.weight;
      } else {
        row[used++] = edge;
      }
    }
    row.resize(used);
    for (Edge& edge : row) edge.weight /= sum;
    return row;
  }

 private:
  void ResolveField(std::string_view field, float weight, const Catalog& catalog,
                    std::vector<Edge>& row) const {
    std::vector<std::vector<PackageId>> found;
    ForEachRequirement(field, [&](const std::vector<std::string_view>& names) {
      found.clear();
      for (std::string_view name : names) {
        std::vector<PackageId> packages;
        if (auto id = catalog.Find(name)) packages.push_back(*id);
        if (auto it = providers_.find(name); it != providers_.end()) {
          for (PackageId provider : it->second) packages.push_back(provider);
        }
        if (!packages.empty()) found.push_back(std::move(packages));
      }
      for (const std::vector<PackageId>& packages : found) {
        float share = weight / static_cast<float>(found.size() * packages.size());
        for (PackageId package : packages) row.push_back({package, share});
      }
    });
  }

  struct HashName {
    using is_transparent = void;
    size_t operator()(std::string_view name) const { return HashBytes(name); }
  };

  std::pmr::vector<std::pair<std::pmr::string, std::pmr::string>> wants_;  // Hard, soft.
  std::pmr::unordered_map<std::pmr::string, std::pmr::vector<PackageId>, HashName, std::equal_to<>>
      providers_;
};

absl::Status ReadCopy0(const std::vector<std::filesystem::path>& lists, Corpus& corpus,
                       Relations& relations, Progress& progress) {
  std::string fields;
  for (const std::filesystem::path& list : lists) {
    absl::Status status = ReadList(list, [&](const Stanza& stanza) {
      fields.clear();
      for (const auto& [key, value] : stanza.fields()) {
        if (std::find(std::begin(kNotKept), std::end(kNotKept), key) != std::end(kNotKept))
          continue;
        fields.append(key).append(": ").append(value).append("\n");
      }
      Record::Parts parts{stanza.Get("Package"), stanza.Get("Version"), stanza.Get("Description"),
                          fields};
      if (parts.name.empty()) return;
      // A name that comes again, in another suite's list, is passed over.
      std::optional<PackageId> id = corpus.catalog.Add(parts);
      if (!id) return;
      corpus.index.Add(*id, parts.description);
      corpus.base_names.emplace_back(parts.name);
      relations.Add(*id, stanza);
      progress.Advance();
    });
    if (!status.ok()) return status;
  }
  if (corpus.catalog.size() == 0) return absl::NotFoundError("the package lists are empty");
  return absl::OkStatus();
}

void AddCopy(size_t copy, Corpus& corpus, Progress& progress) {
  const size_t base = corpus.base_names.size();
  const auto shift = static_cast<PackageId>(copy * base);
  std::vector<Edge> row;
  for (PackageId from = 0; from < base; ++from) {
    const Record& record = corpus.catalog[from];  // Stays where it is: room is reserved.
    std::optional<PackageId> id =
        corpus.catalog.Add({CopyName(corpus.base_names[from], copy), record.version(),
                            record.description(), record.fields()});
    corpus.index.Add(*id, corpus.catalog[*id].description());
    std::span<const Edge> edges = corpus.graph.out[from];
    row.assign(edges.begin(), edges.end());
    for (Edge& edge : row) edge.node += shift;
    corpus.graph.out.AddRow(row);
    progress.Advance();
  }
}

}  // namespace

std::string Corpus::NameOf(PackageId id) const {
  return CopyName(base_names[id % base_names.size()], id / base_names.size());
}

absl::StatusOr<std::unique_ptr<Corpus>> BuildCorpus(const std::vector<std::filesystem::path>& lists,
                                                    unsigned copies,
                                                    std::pmr::memory_resource* memory,
                                                    Progress& progress) {
  auto corpus = std::make_unique<Corpus>(memory);
  Rows& out = corpus->graph.out;
  progress.Begin("read lists", 0);
  {
    Relations relations(memory);
    absl::Status status = ReadCopy0(lists, *corpus, relations, progress);
    if (!status.ok()) return status;
    for (size_t id = 0; id < corpus->catalog.size(); ++id) {
      out.AddRow(relations.Resolve(static_cast<PackageId>(id), corpus->catalog));
    }
  }
  const size_t base = corpus->catalog.size();
  if (copies > UINT32_MAX / base) return absl::OutOfRangeError("too many copies (--size)");

  progress.Begin("copy", base * (copies - 1));
  corpus->catalog.Reserve(base * copies);
  corpus->index.ReserveTimes(copies);
  out.Reserve(base * copies, out.edges() * copies);
  for (size_t copy = 1; copy < copies; ++copy) AddCopy(copy, *corpus, progress);

  progress.Begin("transpose", 0);
  corpus->graph.in = out.Transposed();
  return corpus;
}

}  // namespace package_graph
