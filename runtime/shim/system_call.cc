// SPDX-License-Identifier: Apache-2.0
// syscall(2): by number as by name. What the shim stands before goes there, the rest on.
//
// A system call that a program makes by an instruction of its own is not seen.
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

#include "libos/base/export.h"
#include "runtime/shim/kernel.h"
#include "runtime/shim/shim.h"

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

namespace spiritos::shim {
namespace {

template <typename Pointer>
Pointer* To(long word) {
  return reinterpret_cast<Pointer*>(word);
}

int Refused() {
  errno = ENOSYS;
  return -1;
}

}  // namespace

extern "C" SPIRITOS_PUBLIC long syscall(long number, ...) noexcept {
  va_list rest;
  va_start(rest, number);
  // More than there may be: what is read too much is not looked at.
  const auto a = va_arg(rest, long);
  const auto b = va_arg(rest, long);
  const auto c = va_arg(rest, long);
  const auto d = va_arg(rest, long);
  const auto e = va_arg(rest, long);
  const auto f = va_arg(rest, long);
  va_end(rest);
  if (InRuntime()) return kernel::Call(number, a, b, c, d, e, f);
  const auto fd = static_cast<int>(a);
  const auto at = To<void>(a);
  const auto size = static_cast<size_t>(b);
  const auto third = static_cast<int>(c);
  switch (number) {
    case SYS_mmap:
      return kernel::Word(mmap(at, size, third, static_cast<int>(d), static_cast<int>(e), f));
    case SYS_munmap:
      return munmap(at, size);
    case SYS_mremap:
      return kernel::Word(
          mremap(at, size, static_cast<size_t>(c), static_cast<int>(d), To<void>(e)));
    case SYS_mprotect:
      return mprotect(at, size, third);
    case SYS_madvise:
      return madvise(at, size, third);
    case SYS_mlock:
      return mlock(at, size);
    case SYS_mlock2:
      return mlock2(at, size, static_cast<unsigned>(c));
    case SYS_mlockall:
      return mlockall(static_cast<int>(a));
    case SYS_munlock:
      return munlock(at, size);
    case SYS_close:
      return close(fd);
    case SYS_close_range:
      return close_range(static_cast<unsigned>(a), static_cast<unsigned>(b), third);
    case SYS_dup2:
      return dup2(fd, static_cast<int>(b));
    case SYS_dup3:
      return dup3(fd, static_cast<int>(b), third);
    case SYS_read:
      return read(fd, To<void>(b), static_cast<size_t>(c));
    case SYS_pread64:
      return pread(fd, To<void>(b), static_cast<size_t>(c), d);
    case SYS_readv:
      return readv(fd, To<iovec>(b), third);
    case SYS_preadv:
      return preadv(fd, To<iovec>(b), third, d);
    case SYS_preadv2:
      return preadv2(fd, To<iovec>(b), third, d, static_cast<int>(f));
    case SYS_open:
      return open(To<char>(a), static_cast<int>(b), c);
    case SYS_openat:
      return openat(fd, To<char>(b), third, d);
    case SYS_openat2: {
      const long opened = kernel::Call(number, a, b, c, d, e, f);
      // The kernel has read it: it is there.
      if (opened >= 0) NoteDirectFiles((To<open_how>(c)->flags & O_DIRECT) != 0);
      return opened;
    }
    case SYS_pidfd_getfd:
      NoteDirectFiles(true);
      break;
    case SYS_fcntl:
      return fcntl(fd, static_cast<int>(b), c);
    case SYS_recvmsg:
      return recvmsg(fd, To<msghdr>(b), third);
    case SYS_process_vm_writev:
      return process_vm_writev(fd, To<iovec>(b), static_cast<unsigned long>(c), To<iovec>(d),
                               static_cast<unsigned long>(e), static_cast<unsigned long>(f));
    case SYS_io_uring_setup:
      if (!MayPin("io_uring_setup")) return Refused();
      break;
    case SYS_io_setup:
      if (!MayPin("io_setup")) return Refused();
      break;
    default:
      break;
  }
  return kernel::Call(number, a, b, c, d, e, f);
}

}  // namespace spiritos::shim
