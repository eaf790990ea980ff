// SPDX-License-Identifier: Apache-2.0
// The least of the limits of the process's control groups and of those above them.
#include "runtime/memory_limit.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <fstream>

#include "libos/base/status.h"
#include "libos/options_env.h"

namespace spiritos {
namespace {

constexpr uint64_t kNone = UINT64_MAX;

uint64_t NumberIn(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  uint64_t number = kNone;
  if (file >> word) std::from_chars(word.data(), word.data() + word.size(), number);
  return number;  // "max" is none.
}

// A container may see its own group as the root of all: what is not there is passed over.
uint64_t LeastUpwards(const std::string& mount, std::string group, const char* file) {
  uint64_t least = NumberIn(mount + "/" + file);
  while (!group.empty() && group != "/") {
    least = std::min(least, NumberIn(mount + group + "/" + file));
    const size_t slash = group.rfind('/');
    group.resize(slash == group.npos ? 0 : slash);
  }
  return least;
}

}  // namespace

Bytes MemoryLimit(const std::string& root) {
  uint64_t least =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(kPageSize);
  std::ifstream groups(root + "/proc/self/cgroup");
  // hierarchy:controllers:path
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = first == line.npos ? line.npos : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const std::string group = line.substr(second + 1);
    if (controllers == ",,") {
      least = std::min(least, LeastUpwards(root + "/sys/fs/cgroup", group, "memory.max"));
    } else if (controllers.find(",memory,") != controllers.npos) {
      least = std::min(
          least, LeastUpwards(root + "/sys/fs/cgroup/memory", group, "memory.limit_in_bytes"));
    }
  }
  return Bytes(least);
}

absl::StatusOr<Bytes> ParseBudget(std::string_view key, std::string_view text,
                                  const std::string& root) {
  if (!text.ends_with('%')) {
    absl::StatusOr<Bytes> bytes = ParseBytes(text);
    if (bytes.ok()) return bytes;
    return InvalidArgument("{}={}: neither a size, as 256M, nor a share of the memory, as 25%", key,
                           text);
  }
  uint32_t percent = 0;
  const char* const end = text.data() + text.size() - 1;
  const auto [stopped, error] = std::from_chars(text.data(), end, percent);
  if (error != std::errc() || stopped != end || percent == 0 || percent > 100) {
    return InvalidArgument("{}={}: a share of the memory is from 1% to 100%", key, text);
  }
  const uint64_t share = MemoryLimit(root).raw() / 100 * percent;
  return Bytes(share / kPageSize * kPageSize);
}

}  // namespace spiritos
