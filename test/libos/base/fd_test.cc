// SPDX-License-Identifier: Apache-2.0
// UniqueFd: closed once, by its last owner.
#include "libos/base/fd.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>

namespace spiritos {
namespace {

bool IsOpen(int fd) { return fcntl(fd, F_GETFD) >= 0; }

TEST_CASE("the last owner closes a descriptor", "[base]") {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  {
    UniqueFd first(ends[0]);
    UniqueFd second(ends[1]);
    CHECK(first.valid());
    UniqueFd moved(std::move(first));
    CHECK_FALSE(first.valid());
    CHECK(moved.get() == ends[0]);
    moved = std::move(second);
    CHECK_FALSE(IsOpen(ends[0]));
    CHECK(moved.get() == ends[1]);
    CHECK(IsOpen(ends[1]));
  }
  CHECK_FALSE(IsOpen(ends[1]));
}

TEST_CASE("a descriptor moved onto itself stays open, reset it is closed", "[base]") {
  UniqueFd fd(dup(STDERR_FILENO));
  const int raw = fd.get();
  UniqueFd& same = fd;
  fd = std::move(same);
  CHECK(fd.get() == raw);
  CHECK(IsOpen(raw));
  fd.Reset();
  CHECK_FALSE(fd.valid());
  CHECK_FALSE(IsOpen(raw));
  fd.Reset();
  CHECK_FALSE(UniqueFd().valid());
}

TEST_CASE("a descriptor is on record while it is owned, and above the floor", "[base]") {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  UniqueFd low(ends[0]);
  CHECK(low.get() == ends[0]);
  CHECK(IsOwnFd(ends[0]));
  CHECK_FALSE(IsOwnFd(ends[1]));
  SetFdFloor(300);
  UniqueFd high(ends[1]);
  SetFdFloor(0);
  const int moved = high.get();
  CHECK(moved >= 300);
  CHECK_FALSE(IsOpen(ends[1]));
  CHECK(fcntl(moved, F_GETFD) == FD_CLOEXEC);
  CHECK(IsOwnFd(moved));
  char byte = 'x';
  CHECK(write(moved, &byte, 1) == 1);
  CHECK(read(low.get(), &byte, 1) == 1);
  low = std::move(high);
  CHECK_FALSE(IsOwnFd(ends[0]));
  CHECK(IsOwnFd(moved));
  low.Reset();
  CHECK_FALSE(IsOwnFd(moved));
  NoteOwnFd(-1, true);
  NoteOwnFd(1 << 20, true);
  CHECK_FALSE(IsOwnFd(-1));
  CHECK_FALSE(IsOwnFd(1 << 20));
}

TEST_CASE("a file in memory can be sealed, and not executed where that can be said", "[base]") {
  const UniqueFd file = NewMemoryFile("some-name");
  REQUIRE(file.valid());
  CHECK(IsOwnFd(file.get()));
  CHECK(fcntl(file.get(), F_GETFD) == FD_CLOEXEC);
  CHECK(fcntl(file.get(), F_ADD_SEALS, F_SEAL_GROW) == 0);
  struct stat info;
  REQUIRE(fstat(file.get(), &info) == 0);
  constexpr int kSealExec = 0x20;  // F_SEAL_EXEC
  const bool said = (fcntl(file.get(), F_GET_SEALS) & kSealExec) != 0;
  CHECK(said == ((info.st_mode & 0111) == 0));
}

}  // namespace
}  // namespace spiritos
