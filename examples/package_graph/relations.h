// SPDX-License-Identifier: Apache-2.0
// Relations: the grammar of Depends, Recommends and Provides.
//
//   libc6 (>= 2.36), default-mta | mail-transport-agent, python3:any
//
// Commas part requirements, bars part the alternatives of one. Versions,
// architectures and build profiles are dropped: the graph has one node per name.
#pragma once

#include <string_view>
#include <vector>

namespace package_graph {

// The package name at the front of one alternative, "" when there is none.
inline std::string_view RelationName(std::string_view alternative) {
  size_t begin = alternative.find_first_not_of(" \t\n");
  if (begin == std::string_view::npos) return {};
  size_t end = alternative.find_first_of(" \t\n:([<", begin);
  return alternative.substr(begin, end == std::string_view::npos ? end : end - begin);
}

// Calls `visit` with the names of each requirement's alternatives.
template <typename Visit>
void ForEachRequirement(std::string_view relations, Visit visit) {
  std::vector<std::string_view> names;
  while (!relations.empty()) {
    size_t comma = relations.find(',');
    std::string_view requirement = relations.substr(0, comma);
    relations = comma == std::string_view::npos ? std::string_view{} : relations.substr(comma + 1);
    names.clear();
    while (true) {
      size_t bar = requirement.find('|');
      std::string_view name = RelationName(requirement.substr(0, bar));
      if (!name.empty()) names.push_back(name);
      if (bar == std::string_view::npos) break;
      requirement = requirement.substr(bar + 1);
    }
    if (!names.empty()) visit(names);
  }
}

}  // namespace package_graph
