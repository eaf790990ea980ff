// SPDX-License-Identifier: Apache-2.0
// close(2) and its family: the runtime's descriptors are not there for the program.
//
// Programs close what they did not open, before they start another or become a daemon. As
// that would end a child whose memory is far, these calls leave out what is ours: close()
// says EBADF, as it would without us.
#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>

#include "libos/base/export.h"
#include "libos/base/fd.h"
#include "runtime/shim/kernel.h"
#include "runtime/shim/near_scope.h"
#include "runtime/shim/next.h"

namespace spiritos::shim {
namespace {

bool IsHidden(int fd) { return IsOwnFd(fd) && !InRuntime(); }

int CloseRange(unsigned first, unsigned last, int flags) {
  return static_cast<int>(kernel::Call(SYS_close_range, first, last, flags));
}

}  // namespace

extern "C" {

SPIRITOS_PUBLIC int close(int fd) {
  if (!IsHidden(fd)) {
    return next.close != nullptr ? next.close(fd) : static_cast<int>(kernel::Call(SYS_close, fd));
  }
  errno = EBADF;
  return -1;
}

SPIRITOS_PUBLIC int close_range(unsigned first, unsigned last, int flags) noexcept {
  if (InRuntime()) return CloseRange(first, last, flags);
  for (unsigned fd = first; fd <= last && fd < unsigned{kMostFds}; ++fd) {
    if (!IsOwnFd(static_cast<int>(fd))) continue;
    if (fd > first && CloseRange(first, fd - 1, flags) != 0) return -1;
    if (fd == last) return 0;
    first = fd + 1;
  }
  return CloseRange(first, last, flags);
}

SPIRITOS_PUBLIC void closefrom(int first) noexcept {
  close_range(first < 0 ? 0 : static_cast<unsigned>(first), ~0u, 0);
}

// A number of ours is out of range.
SPIRITOS_PUBLIC int dup2(int from, int to) noexcept {
  if (!IsHidden(to)) return static_cast<int>(kernel::Call(SYS_dup2, from, to));
  errno = EBADF;
  return -1;
}

SPIRITOS_PUBLIC int dup3(int from, int to, int flags) noexcept {
  if (!IsHidden(to)) return static_cast<int>(kernel::Call(SYS_dup3, from, to, flags));
  errno = EBADF;
  return -1;
}

}  // extern "C"

}  // namespace spiritos::shim
