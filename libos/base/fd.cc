// SPDX-License-Identifier: Apache-2.0
// A bit for each descriptor; numbers beyond the bits are not on record.
#include "libos/base/fd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>

namespace spiritos {
namespace {

constinit std::array<std::atomic<uint64_t>, kMostFds / 64> own{};
constinit std::atomic<int> floor_fd{0};

}  // namespace

UniqueFd::UniqueFd(int fd) : fd_(fd) {
  if (fd_ < 0) return;
  if (const int floor = floor_fd.load(std::memory_order_relaxed); fd_ < floor) {
    const int moved = fcntl(fd_, F_DUPFD_CLOEXEC, floor);
    if (moved >= 0) {
      close(fd_);
      fd_ = moved;
    }
  }
  NoteOwnFd(fd_, true);
}

void UniqueFd::Reset() {
  if (fd_ < 0) return;
  NoteOwnFd(fd_, false);
  close(fd_);
  fd_ = -1;
}

UniqueFd NewMemoryFile(const char* name) {
  constexpr unsigned kNeverExecuted = 8;  // MFD_NOEXEC_SEAL
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  const int file = memfd_create(name, kFlags | kNeverExecuted);
  return UniqueFd(file < 0 && errno == EINVAL ? memfd_create(name, kFlags) : file);
}

void SetFdFloor(int floor) { floor_fd.store(floor, std::memory_order_relaxed); }

bool IsOwnFd(int fd) noexcept {
  if (fd < 0 || fd >= kMostFds) return false;
  const auto index = static_cast<size_t>(fd);
  return (own[index / 64].load(std::memory_order_relaxed) >> (index % 64) & 1) != 0;
}

void NoteOwnFd(int fd, bool is_own) noexcept {
  if (fd < 0 || fd >= kMostFds) return;
  const auto index = static_cast<size_t>(fd);
  const uint64_t bit = uint64_t{1} << (index % 64);
  if (is_own) {
    own[index / 64].fetch_or(bit, std::memory_order_relaxed);
  } else {
    own[index / 64].fetch_and(~bit, std::memory_order_relaxed);
  }
}

}  // namespace spiritos
