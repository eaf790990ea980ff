// SPDX-License-Identifier: Apache-2.0
#include "examples/package_graph/word_index.h"

#include <algorithm>

namespace package_graph {
namespace {

constexpr size_t kMinWord = 3;

// From this ratio of lengths on, searching the long list beats reading it.
constexpr size_t kSearchRatio = 32;

// 0 for what is no part of a word. ASCII: the indices are, but for some names.
char WordLetter(char c) {
  if (c >= 'A' && c <= 'Z') return static_cast<char>(c - 'A' + 'a');
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ? c : '\0';
}

}  // namespace

void ForEachWord(std::string_view text, const std::function<void(std::string_view)>& visit) {
  std::string word;
  for (size_t i = 0; i <= text.size(); ++i) {
    char letter = i < text.size() ? WordLetter(text[i]) : '\0';
    if (letter != '\0') {
      word.push_back(letter);
      continue;
    }
    if (word.size() >= kMinWord) visit(word);
    word.clear();
  }
}

void WordIndex::Add(PackageId id, std::string_view description) {
  ForEachWord(description, [&](std::string_view word) {
    auto it = lists_.find(word);
    if (it == lists_.end()) it = lists_.try_emplace(std::pmr::string(word)).first;
    std::pmr::vector<PackageId>& list = it->second;
    if (!list.empty() && list.back() == id) return;  // The word comes twice.
    list.push_back(id);
    ++postings_;
  });
}

void WordIndex::ReserveTimes(size_t factor) {
  for (auto& [word, list] : lists_) list.reserve(list.size() * factor);
}

std::span<const PackageId> WordIndex::Find(std::string_view word) const {
  auto it = lists_.find(word);
  if (it == lists_.end()) return {};
  return it->second;
}

std::vector<PackageId> Intersect(std::span<const PackageId> a, std::span<const PackageId> b) {
  if (a.size() > b.size()) std::swap(a, b);
  std::vector<PackageId> both;
  if (b.size() / kSearchRatio < a.size()) {
    std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
    return both;
  }
  for (PackageId id : a) {
    auto it = std::lower_bound(b.begin(), b.end(), id);
    if (it != b.end() && *it == id) both.push_back(id);
    b = b.subspan(static_cast<size_t>(it - b.begin()));
  }
  return both;
}

}  // namespace package_graph
