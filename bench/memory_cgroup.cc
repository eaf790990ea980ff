// SPDX-License-Identifier: Apache-2.0
// Finds the memory controller, makes a group under it and removes it.
#include "bench/memory_cgroup.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "bench/harness.h"
#include "libos/base/status.h"

namespace spiritos::bench {
namespace {

bool HasWord(const std::string& text, std::string_view word) {
  for (const std::string& line : SplitList(text, '\n')) {
    const auto words = SplitList(line, ' ');
    if (std::find(words.begin(), words.end(), word) != words.end()) return true;
  }
  return false;
}

struct Hierarchy {
  std::string v1;  // Mount point of the v1 controller, if any.
  std::string v2;
};

Hierarchy FindHierarchies() {
  Hierarchy found;
  const auto mounts = ReadTextFile("/proc/mounts");
  if (!mounts.ok()) return found;
  for (const std::string& line : SplitList(*mounts, '\n')) {
    const auto field = SplitList(line, ' ');  // device, mount point, type, options
    if (field.size() < 4) continue;
    const auto options = SplitList(field[3], ',');
    if (field[2] == "cgroup" &&
        std::find(options.begin(), options.end(), "memory") != options.end())
      found.v1 = field[1];
    if (field[2] == "cgroup2" && found.v2.empty()) found.v2 = field[1];
  }
  return found;
}

}  // namespace

MemoryCgroup::MemoryCgroup(std::string path)
    : path_(std::move(path)),
      version_(access((path_ + "/memory.limit_in_bytes").c_str(), F_OK) == 0 ? 1 : 2) {}

MemoryCgroup::MemoryCgroup(MemoryCgroup&& other) noexcept
    : path_(std::move(other.path_)),
      version_(other.version_),
      owned_(std::exchange(other.owned_, false)),
      enabled_in_(std::move(other.enabled_in_)) {}

absl::StatusOr<MemoryCgroup> MemoryCgroup::Create(const std::string& name) {
  const Hierarchy found = FindHierarchies();
  std::string root = found.v1, enabled_in;
  if (root.empty()) {
    root = found.v2;
    const auto controllers = ReadTextFile(root + "/cgroup.controllers");
    if (root.empty() || !controllers.ok() || !HasWord(*controllers, "memory"))
      return absl::UnavailableError("no cgroup hierarchy with a memory controller is mounted");
    const std::string control = root + "/cgroup.subtree_control";
    const auto enabled = ReadTextFile(control);
    if (!enabled.ok() || !HasWord(*enabled, "memory")) {
      if (const auto status = WriteTextFile(control, "+memory"); !status.ok())
        return absl::UnavailableError(
            fmt::format("the memory controller cannot be enabled: {}", MessageOf(status)));
      enabled_in = control;
    }
  }
  const std::string path = root + "/" + name;
  if (mkdir(path.c_str(), 0755) != 0)
    return absl::UnavailableError(MessageOf(ErrnoStatus(errno, "making " + path)));
  MemoryCgroup group(path);
  group.owned_ = true;
  group.enabled_in_ = enabled_in;
  return group;
}

MemoryCgroup::~MemoryCgroup() {
  if (!owned_) return;
  // A process just reaped may still be leaving.
  for (int tries = 0; rmdir(path_.c_str()) != 0 && errno == EBUSY && tries < 200; ++tries)
    usleep(10'000);
  if (access(path_.c_str(), F_OK) == 0) fmt::print(stderr, "could not remove {}\n", path_);
  if (!enabled_in_.empty()) (void)WriteTextFile(enabled_in_, "-memory");
}

bool MemoryCgroup::JoinByPath(const char* procs_path) noexcept {
  const int fd = open(procs_path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool joined = write(fd, "0", 1) == 1;
  close(fd);
  return joined;
}

absl::Status MemoryCgroup::SetLimit(Bytes limit) const {
  const std::string file = path_ + (version_ == 1 ? "/memory.limit_in_bytes" : "/memory.max");
  return WriteTextFile(file, fmt::format("{}", limit.raw()));
}

absl::StatusOr<Bytes> MemoryCgroup::Usage() const {
  const std::string file = path_ + (version_ == 1 ? "/memory.usage_in_bytes" : "/memory.current");
  SPIRITOS_ASSIGN_OR_RETURN(const uint64_t bytes, ReadNumberFile(file));
  return Bytes(bytes);
}

void MemoryCgroup::RefreshStatistics() const { (void)ReadTextFile(path_ + "/memory.stat"); }

uint64_t MemoryCgroup::OomKills() const {
  return ReadKeyedNumber(path_ + (version_ == 1 ? "/memory.oom_control" : "/memory.events"),
                         "oom_kill");
}

}  // namespace spiritos::bench
