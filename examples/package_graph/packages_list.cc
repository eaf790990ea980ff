// SPDX-License-Identifier: Apache-2.0
#include "examples/package_graph/packages_list.h"

#include <algorithm>
#include <memory>
#include <system_error>

#include "examples/package_graph/byte_source.h"

// The build names the sample by its full path; by hand, run from the tree's root.
#ifndef PACKAGE_GRAPH_SAMPLE
#define PACKAGE_GRAPH_SAMPLE "examples/package_graph/sample_packages.txt"
#endif

namespace package_graph {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAptLists = "/var/lib/apt/lists";

// Lists are far smaller; what is longer than this is not one.
constexpr size_t kMaxStanza = size_t{16} << 20;

bool IsList(const fs::path& path) {
  std::string name = path.filename().string();
  for (std::string_view ending : {"", ".gz", ".xz", ".lz4", ".zst"}) {
    if (name.ends_with(std::string("Packages").append(ending))) return true;
  }
  return false;
}

std::vector<fs::path> ListsIn(const fs::path& directory) {
  std::vector<fs::path> lists;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error)) {
    if (IsList(it->path()) && it->is_regular_file(error)) lists.push_back(it->path());
  }
  std::sort(lists.begin(), lists.end());
  return lists;
}

std::string_view Trim(std::string_view text) {
  size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

}  // namespace

void Stanza::Parse(std::string_view text) {
  fields_.clear();
  while (!text.empty()) {
    // A field ends at the first line break that no blank follows.
    size_t end = text.find('\n');
    while (end != std::string_view::npos && end + 1 < text.size() &&
           (text[end + 1] == ' ' || text[end + 1] == '\t')) {
      end = text.find('\n', end + 1);
    }
    std::string_view field = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
    size_t colon = field.find(':');
    if (colon == std::string_view::npos) continue;
    fields_.emplace_back(field.substr(0, colon), Trim(field.substr(colon + 1)));
  }
}

std::string_view Stanza::Get(std::string_view key) const {
  for (const Field& field : fields_) {
    if (field.first == key) return field.second;
  }
  return {};
}

absl::StatusOr<std::vector<fs::path>> FindLists(const std::string& directory) {
  std::vector<fs::path> lists = ListsIn(directory.empty() ? kAptLists : directory.c_str());
  if (!lists.empty()) return lists;
  if (!directory.empty()) {
    return absl::NotFoundError("no file named *Packages[.gz|.xz|.lz4|.zst] in " + directory +
                               " (--lists)");
  }
  fs::path sample = PACKAGE_GRAPH_SAMPLE;
  std::error_code error;
  if (!fs::exists(sample, error)) {
    return absl::NotFoundError(std::string("no package lists in ") + kAptLists +
                               " (apt-get update makes them), and no sample at " + sample.string());
  }
  return std::vector<fs::path>{sample};
}

absl::Status ReadList(const fs::path& file, const std::function<void(const Stanza&)>& visit) {
  absl::StatusOr<std::unique_ptr<ByteSource>> source = ByteSource::Open(file);
  if (!source.ok()) return source.status();
  std::string text;  // What is read and not yet visited.
  std::array<char, 64 << 10> chunk;
  Stanza stanza;
  auto take = [&](std::string_view piece) {
    stanza.Parse(piece);
    if (!stanza.fields().empty()) visit(stanza);
  };
  while (true) {
    absl::StatusOr<size_t> n = (*source)->Read(chunk);
    if (!n.ok()) return n.status();
    if (*n == 0) break;
    text.append(chunk.data(), *n);
    size_t begin = 0;
    for (size_t end; (end = text.find("\n\n", begin)) != std::string::npos; begin = end + 2) {
      take(std::string_view(text).substr(begin, end - begin));
    }
    text.erase(0, begin);
    if (text.size() > kMaxStanza) {
      return absl::InvalidArgumentError(file.string() + " is not a Packages file");
    }
  }
  take(text);
  return absl::OkStatus();
}

}  // namespace package_graph
