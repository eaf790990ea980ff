// SPDX-License-Identifier: Apache-2.0
// Sets a zram device up for swapping and takes it down again.
#include "bench/zram_swap.h"

#include <fmt/core.h>
#include <spawn.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <initializer_list>
#include <utility>
#include <vector>

#include "bench/harness.h"
#include "libos/base/status.h"

extern char** environ;

namespace spiritos::bench {
namespace {

constexpr const char* kControl = "/sys/class/zram-control";
// Above whatever other swap the machine has: ours is filled first.
constexpr int kSwapPriority = 32000;

// Runs a program to its end with its output dropped.
absl::Status RunQuietly(const char* path, const std::string& argument) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", 1, 0);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", 1, 0);
  char* const argv[] = {const_cast<char*>(path), const_cast<char*>(argument.c_str()), nullptr};
  pid_t pid = 0;
  const int error = posix_spawn(&pid, path, &actions, nullptr, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return ErrnoStatus(error, fmt::format("starting {}", path));
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    return absl::UnavailableError(fmt::format("{} {} failed (status {})", path, argument, status));
  return absl::OkStatus();
}

const char* FindProgram(std::initializer_list<const char*> paths) {
  for (const char* path : paths)
    if (access(path, X_OK) == 0) return path;
  return nullptr;
}

const char* MkswapPath() {
  return FindProgram({"/sbin/mkswap", "/usr/sbin/mkswap", "/bin/mkswap", "/usr/bin/mkswap"});
}

// Device managers open a new block device for a moment: EBUSY passes.
template <typename Try>
absl::Status RetryWhileBusy(Try attempt) {
  for (int tries = 0;; ++tries) {
    absl::Status status = attempt();
    if (status.ok() || tries == 200) return status;
    usleep(10'000);
  }
}

}  // namespace

absl::Status ZramSwap::Probe() {
  if (access(kControl, F_OK) != 0) {
    const char* modprobe = FindProgram({"/sbin/modprobe", "/usr/sbin/modprobe"});
    if (modprobe != nullptr) (void)RunQuietly(modprobe, "zram");
  }
  const std::string hot_add = fmt::format("{}/hot_add", kControl);
  if (access(hot_add.c_str(), R_OK) != 0)
    return absl::UnavailableError("this kernel has no zram (modprobe zram, or CONFIG_ZRAM)");
  if (MkswapPath() == nullptr)
    return absl::UnavailableError("no mkswap found (package util-linux)");
  return absl::OkStatus();
}

ZramSwap::ZramSwap(uint64_t id) : id_(id), name_(fmt::format("zram{}", id)) {}

ZramSwap::ZramSwap(ZramSwap&& other) noexcept
    : id_(other.id_),
      name_(std::exchange(other.name_, {})),
      swapping_(std::exchange(other.swapping_, false)) {}

absl::StatusOr<ZramSwap> ZramSwap::Create(Bytes disk_size, const std::string& algorithm) {
  SPIRITOS_ASSIGN_OR_RETURN(const uint64_t id, ReadNumberFile(fmt::format("{}/hot_add", kControl)));
  ZramSwap swap(id);
  const std::string block = "/sys/block/" + swap.name_ + "/";
  const std::string device = "/dev/" + swap.name_;
  SPIRITOS_RETURN_IF_ERROR(WriteTextFile(block + "comp_algorithm", algorithm));
  SPIRITOS_RETURN_IF_ERROR(WriteTextFile(block + "disksize", fmt::format("{}", disk_size.raw())));
  SPIRITOS_RETURN_IF_ERROR(RetryWhileBusy([&] { return RunQuietly(MkswapPath(), device); }));
  SPIRITOS_RETURN_IF_ERROR(RetryWhileBusy([&] {
    if (swapon(device.c_str(), SWAP_FLAG_PREFER | kSwapPriority) == 0) return absl::OkStatus();
    return ErrnoStatus(errno, "swapon " + device);
  }));
  swap.swapping_ = true;
  return swap;
}

ZramSwap::~ZramSwap() {
  if (name_.empty()) return;
  absl::Status status;
  if (swapping_ && swapoff(("/dev/" + name_).c_str()) != 0)
    status = ErrnoStatus(errno, "swapoff " + name_);
  if (status.ok())
    status = RetryWhileBusy([&] { return WriteTextFile("/sys/block/" + name_ + "/reset", "1"); });
  if (status.ok())
    status = RetryWhileBusy([&] {
      return WriteTextFile(fmt::format("{}/hot_remove", kControl), fmt::format("{}", id_));
    });
  if (!status.ok()) fmt::print(stderr, "could not remove {}: {}\n", name_, MessageOf(status));
}

ZramSwap::Contents ZramSwap::ReadContents(const std::string& name) {
  const auto text = ReadTextFile("/sys/block/" + name + "/mm_stat");
  if (!text.ok()) return {};
  const auto field = SplitList(*text, ' ');  // original, compressed, ...
  if (field.size() < 2) return {};
  return {Bytes(std::strtoull(field[0].c_str(), nullptr, 10)),
          Bytes(std::strtoull(field[1].c_str(), nullptr, 10))};
}

absl::StatusOr<ScopedSysctl> ScopedSysctl::Create(const std::string& path) {
  SPIRITOS_ASSIGN_OR_RETURN(const uint64_t old, ReadNumberFile(path));
  return ScopedSysctl(path, old);
}

ScopedSysctl::ScopedSysctl(ScopedSysctl&& other) noexcept
    : path_(std::move(other.path_)),
      old_(other.old_),
      changed_(std::exchange(other.changed_, false)) {}

absl::Status ScopedSysctl::Set(uint64_t value) {
  changed_ = true;
  return WriteTextFile(path_, fmt::format("{}", value));
}

ScopedSysctl::~ScopedSysctl() {
  if (!changed_) return;
  if (const auto status = WriteTextFile(path_, fmt::format("{}", old_)); !status.ok())
    fmt::print(stderr, "could not restore: {}\n", MessageOf(status));
}

}  // namespace spiritos::bench
