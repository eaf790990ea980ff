// SPDX-License-Identifier: Apache-2.0
// Taking a folder, and the names of the files in it.
#include "libos/remote/server/state_folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <cerrno>
#include <charconv>
#include <string_view>
#include <utility>
#include <vector>

#include "libos/base/log.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

constexpr std::string_view kSlabPrefix = "slab-";

std::string SlabName(uint32_t number) { return fmt::format("{}{}", kSlabPrefix, number); }

// The number of a slab's file; false for other names.
bool ParseSlabName(std::string_view name, uint32_t* number) {
  if (!name.starts_with(kSlabPrefix)) return false;
  const char* const end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + kSlabPrefix.size(), end, *number);
  return error == std::errc() && rest == end;
}

// Ours alone, and memory.
absl::Status CheckFolder(int folder, const std::string& path) {
  struct stat info;
  if (fstat(folder, &info) != 0) return ErrnoStatus(errno, fmt::format("{} (--state)", path));
  if (info.st_uid != geteuid() || (info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return absl::PermissionDeniedError(fmt::format(
        "{} belongs to user {} with mode {:o}: who may write there may read and change tenants' "
        "memory; give the server a folder of its own with mode 700 (--state)",
        path, info.st_uid, info.st_mode & 07777));
  }
  struct statfs system;
  if (fstatfs(folder, &system) == 0 && system.f_type != TMPFS_MAGIC) {
    LogWarning(fmt::format(
        "{} is not in memory: the kernel writes slabs to its device; use a folder in a tmpfs, such "
        "as /dev/shm (--state)",
        path));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<StateFolder>> StateFolder::Open(const std::string& path,
                                                               uint32_t slabs) {
  const std::string what = fmt::format("opening {} (--state)", path);
  if (mkdir(path.c_str(), S_IRWXU) != 0 && errno != EEXIST) return ErrnoStatus(errno, what);
  UniqueFd folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!folder.valid()) return ErrnoStatus(errno, what);
  SPIRITOS_RETURN_IF_ERROR(CheckFolder(folder.get(), path));
  UniqueFd lock(
      openat(folder.get(), "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, S_IRUSR | S_IWUSR));
  if (!lock.valid()) return ErrnoStatus(errno, what);
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, what);
    return absl::FailedPreconditionError(
        fmt::format("another server runs with the state in {} (--state)", path));
  }
  std::unique_ptr<StateFolder> state(new StateFolder(path, std::move(folder), std::move(lock)));
  SPIRITOS_RETURN_IF_ERROR(state->OpenDirectory(slabs));
  SPIRITOS_RETURN_IF_ERROR(state->RemoveUnrented());
  return state;
}

absl::StatusOr<UniqueFd> StateFolder::OpenFile(const std::string& name, int flags) const {
  UniqueFd file(openat(folder_.get(), name.c_str(), flags | O_RDWR | O_NOFOLLOW | O_CLOEXEC,
                       S_IRUSR | S_IWUSR));
  if (!file.valid()) return ErrnoStatus(errno, fmt::format("opening {}/{} (--state)", path_, name));
  return file;
}

absl::Status StateFolder::OpenDirectory(uint32_t slabs) {
  const auto open_directory = [&]() -> absl::StatusOr<SlabDirectory> {
    SPIRITOS_ASSIGN_OR_RETURN(UniqueFd file, OpenFile("directory", O_CREAT));
    return SlabDirectory::Open(std::move(file), slabs);
  };
  absl::StatusOr<SlabDirectory> opened = open_directory();
  if (absl::IsFailedPrecondition(opened.status())) {
    LogWarning(
        fmt::format("the state in {} is of another boot of this machine: begun anew", path_));
    unlinkat(folder_.get(), "directory", 0);
    opened = open_directory();
  }
  if (!opened.ok()) {
    return absl::Status(
        opened.status().code(),
        fmt::format("{}/directory: {} (--state)", path_, std::string(opened.status().message())));
  }
  directory_ = std::make_unique<SlabDirectory>(*std::move(opened));
  return absl::OkStatus();
}

absl::Status StateFolder::RemoveUnrented() {
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(opendir(path_.c_str()), closedir);
  if (entries == nullptr) return ErrnoStatus(errno, fmt::format("reading {} (--state)", path_));
  std::vector<uint32_t> unrented;
  while (const dirent* entry = readdir(entries.get())) {
    uint32_t number;
    if (!ParseSlabName(entry->d_name, &number)) continue;
    const auto record =
        number < directory_->size() ? directory_->Read(number) : std::optional<SlabRecord>();
    if (!record || record->references == 0) unrented.push_back(number);
  }
  for (const uint32_t number : unrented) RemoveSlab(number);
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> StateFolder::MakeSlab(uint32_t number) {
  return OpenFile(SlabName(number), O_CREAT | O_EXCL);
}

absl::StatusOr<UniqueFd> StateFolder::OpenSlab(uint32_t number) {
  return OpenFile(SlabName(number), 0);
}

void StateFolder::RemoveSlab(uint32_t number) {
  unlinkat(folder_.get(), SlabName(number).c_str(), 0);
}

}  // namespace spiritos
