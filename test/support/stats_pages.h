// SPDX-License-Identifier: Apache-2.0
// The pages of statistics of this process, as another process would see them.
#pragma once

#include <fcntl.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "libos/base/fd.h"
#include "libos/stats_page.h"

namespace spiritos {

inline std::vector<UniqueFd> StatsPages() {
  std::vector<UniqueFd> pages;
  for (const auto& link : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(link.path(), gone) != StatsPage::kLink) continue;
    pages.emplace_back(open(link.path().c_str(), O_RDONLY | O_CLOEXEC));
  }
  return pages;
}

// Null where there are none or several, or the one is being written.
inline nlohmann::json OnlyStatsPage() {
  const std::vector<UniqueFd> pages = StatsPages();
  if (pages.size() != 1) return {};
  const absl::StatusOr<std::string> text = StatsPage::Read(pages[0].get());
  return text.ok() ? nlohmann::json::parse(*text) : nlohmann::json();
}

}  // namespace spiritos
