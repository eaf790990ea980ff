// SPDX-License-Identifier: Apache-2.0
// UniqueFd: a file descriptor with one owner.
//
// In a program that does not know of the runtime, its descriptors are in the way: programs
// close all that they did not open, and put theirs at numbers of their choice. So it is on
// record which are the runtime's, and they can be made to begin at a number.
#pragma once

#include <utility>

namespace spiritos {

class UniqueFd {
 public:
  UniqueFd() = default;
  // Owns a copy in its place where a floor is set.
  explicit UniqueFd(int fd);
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      Reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~UniqueFd() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  void Reset();

 private:
  int fd_ = -1;
};

// A file of its own in memory, which can be sealed (memfd_create(2)). It can never be
// executed where the kernel knows of that, since 6.3: vm.memfd_noexec may demand it. Invalid,
// and errno, where there cannot be one.
UniqueFd NewMemoryFile(const char* name);

// From now on descriptors are moved to `floor` or above, where the process may have so many.
void SetFdFloor(int floor);
// Numbers from here on are never on record.
inline constexpr int kMostFds = 1 << 16;
// Whether it is the runtime's. Context: signal.
bool IsOwnFd(int fd) noexcept;
// Puts one that no UniqueFd owns on record, or takes it off.
void NoteOwnFd(int fd, bool own) noexcept;

}  // namespace spiritos
