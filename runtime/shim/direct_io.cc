// SPDX-License-Identifier: Apache-2.0
// read(2) and its family past the page cache (O_DIRECT): by way of near memory.
//
// The kernel pins the frames of the buffer for such a call, and the device stores to them
// unseen: a sweep could take a page's bytes before, and its frame after. So the device
// stores to a near buffer, and ordinary stores do the rest. What devices read is safe as it
// is: a pinned frame keeps the bytes that it had.
//
// Not seen: reads that the C library makes for itself (fread(3) on a descriptor that was
// opened with O_DIRECT), and system calls that a program makes by itself.
#include <aio.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <span>
#include <utility>

#include "libos/base/export.h"
#include "libos/base/units.h"
#include "runtime/shim/kernel.h"
#include "runtime/shim/next.h"
#include "runtime/shim/shim.h"

extern "C" [[noreturn]] void __chk_fail();  // Of the C library: a fortified call is wrong.

namespace spiritos::shim {
namespace {

// There is, or may be, a descriptor with O_DIRECT: until then nobody is asked about his.
constinit std::atomic<bool> direct_files{false};

void NoteFlags(int flags) {
  if ((flags & O_DIRECT) != 0 && !InRuntime()) direct_files.store(true, std::memory_order_release);
}

bool IsDirect(int fd) {
  const int saved_errno = errno;
  const long flags = kernel::Call(SYS_fcntl, fd, F_GETFL);
  errno = saved_errno;
  return flags >= 0 && (flags & O_DIRECT) != 0;
}

// Near memory for a while; a few are kept. A page more than kSize, so that it can be as
// aligned as what it stands for.
class NearBuffer {
 public:
  static constexpr size_t kSize = size_t{1} << 20;

  NearBuffer() {
    for (std::atomic<std::byte*>& idle : idle_) {
      at_ = idle.exchange(nullptr, std::memory_order_acquire);
      if (at_ != nullptr) return;
    }
    void* const at = kernel::Map(nullptr, kSize + kPageSize, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at != MAP_FAILED) at_ = static_cast<std::byte*>(at);
  }
  ~NearBuffer() {
    if (at_ == nullptr) return;
    for (std::atomic<std::byte*>& idle : idle_) {
      std::byte* none = nullptr;
      if (idle.compare_exchange_strong(none, at_, std::memory_order_release)) return;
    }
    kernel::Unmap(at_, kSize + kPageSize);
  }
  NearBuffer(const NearBuffer&) = delete;
  NearBuffer& operator=(const NearBuffer&) = delete;
  std::byte* data() const { return at_; }

 private:
  static constinit std::array<std::atomic<std::byte*>, 4> idle_;
  std::byte* at_ = nullptr;
};
constinit std::array<std::atomic<std::byte*>, 4> NearBuffer::idle_{};

// The map whose memory a device would store to, if it is that and can be; else null.
FarMap* MapOf(int fd, std::span<const iovec> buffers) {
  if (!direct_files.load(std::memory_order_acquire) || InRuntime()) return nullptr;
  FarMap* const map = far_map.load(std::memory_order_acquire);
  if (map == nullptr || !IsDirect(fd)) return nullptr;
  const NearScope near;
  bool far = false;
  if (buffers.size() > IOV_MAX) return nullptr;  // The kernel says what is wrong.
  for (const iovec& buffer : buffers) {
    if (buffer.iov_len > SSIZE_MAX) return nullptr;
    auto* const at = static_cast<std::byte*>(buffer.iov_base);
    if (buffer.iov_len == 0 || !map->MayHold(at, buffer.iov_len)) continue;
    const size_t within = reinterpret_cast<uintptr_t>(at) % kPageSize;
    const size_t size = (within + buffer.iov_len + kPageSize - 1) & ~(kPageSize - 1);
    far = map->IsWritable({at - within, Bytes(size)}) || far;
  }
  return far ? map : nullptr;
}

// preadv2(2); `offset` -1 is the file's own.
ssize_t ReadByNear(int fd, std::span<const iovec> buffers, off_t offset, int flags) {
  const NearBuffer near;
  if (near.data() == nullptr) {
    errno = ENOMEM;
    return -1;
  }
  ssize_t total = 0;
  for (const iovec& buffer : buffers) {
    for (size_t done = 0; done < buffer.iov_len;) {
      std::byte* const at = static_cast<std::byte*>(buffer.iov_base) + done;
      const iovec piece{near.data() + reinterpret_cast<uintptr_t>(at) % kPageSize,
                        std::min(buffer.iov_len - done, NearBuffer::kSize)};
      const ssize_t count = kernel::Call(SYS_preadv2, fd, kernel::Word(&piece), 1,
                                         offset < 0 ? -1 : offset + total, 0, flags);
      if (count < 0) return total != 0 ? total : -1;
      std::memcpy(at, piece.iov_base, static_cast<size_t>(count));
      total += count;
      done += static_cast<size_t>(count);
      if (static_cast<size_t>(count) < piece.iov_len) return total;
    }
  }
  return total;
}

std::span<const iovec> Buffers(const iovec* first, int count) {
  return {first, static_cast<size_t>(std::max(count, 0))};
}

// The mode of open(2), where there is one.
mode_t ModeOf(int flags, va_list rest) {
  return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
}

bool MayReadDirectly(const aiocb* const* requests, int count) {
  if (!direct_files.load(std::memory_order_acquire)) return true;
  const bool direct = std::any_of(requests, requests + count, [](const aiocb* request) {
    return request != nullptr && request->aio_lio_opcode != LIO_WRITE &&
           IsDirect(request->aio_fildes);
  });
  return !direct || MayPin("aio_read");
}

}  // namespace

void NoteDirectFiles(bool some) { NoteFlags(some ? O_DIRECT : 0); }

void FindDirectFiles() {
  constexpr int kUsual = 1024;
  for (int fd = 0; fd < kUsual; ++fd) {
    if (IsDirect(fd)) direct_files.store(true, std::memory_order_release);
  }
}

extern "C" {

SPIRITOS_PUBLIC ssize_t read(int fd, void* to, size_t size) {
  const iovec buffer{to, size};
  return MapOf(fd, {&buffer, 1}) == nullptr ? FoundNext().read(fd, to, size)
                                            : ReadByNear(fd, {&buffer, 1}, -1, 0);
}

SPIRITOS_PUBLIC ssize_t pread64(int fd, void* to, size_t size, off_t offset) {
  const iovec buffer{to, size};
  return offset < 0 || MapOf(fd, {&buffer, 1}) == nullptr ? FoundNext().pread(fd, to, size, offset)
                                                          : ReadByNear(fd, {&buffer, 1}, offset, 0);
}

SPIRITOS_PUBLIC ssize_t pread(int fd, void* to, size_t size, off_t offset) {
  return pread64(fd, to, size, offset);
}

SPIRITOS_PUBLIC ssize_t readv(int fd, const iovec* to, int count) {
  return MapOf(fd, Buffers(to, count)) == nullptr ? FoundNext().readv(fd, to, count)
                                                  : ReadByNear(fd, Buffers(to, count), -1, 0);
}

SPIRITOS_PUBLIC ssize_t preadv64(int fd, const iovec* to, int count, off_t offset) {
  return offset < 0 || MapOf(fd, Buffers(to, count)) == nullptr
             ? FoundNext().preadv(fd, to, count, offset)
             : ReadByNear(fd, Buffers(to, count), offset, 0);
}

SPIRITOS_PUBLIC ssize_t preadv(int fd, const iovec* to, int count, off_t offset) {
  return preadv64(fd, to, count, offset);
}

SPIRITOS_PUBLIC ssize_t preadv64v2(int fd, const iovec* to, int count, off_t offset, int flags) {
  return offset < -1 || MapOf(fd, Buffers(to, count)) == nullptr
             ? FoundNext().preadv2(fd, to, count, offset, flags)
             : ReadByNear(fd, Buffers(to, count), offset, flags);
}

SPIRITOS_PUBLIC ssize_t preadv2(int fd, const iovec* to, int count, off_t offset, int flags) {
  return preadv64v2(fd, to, count, offset, flags);
}

SPIRITOS_PUBLIC ssize_t __read_chk(int fd, void* to, size_t size, size_t room) {
  if (size > room) __chk_fail();
  return read(fd, to, size);
}

SPIRITOS_PUBLIC ssize_t __pread64_chk(int fd, void* to, size_t size, off_t offset, size_t room) {
  if (size > room) __chk_fail();
  return pread64(fd, to, size, offset);
}

SPIRITOS_PUBLIC ssize_t __pread_chk(int fd, void* to, size_t size, off_t offset, size_t room) {
  return __pread64_chk(fd, to, size, offset, room);
}

SPIRITOS_PUBLIC int open64(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = ModeOf(flags, rest);
  va_end(rest);
  NoteFlags(flags);
  return FoundNext().open(path, flags, mode);
}

SPIRITOS_PUBLIC int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = ModeOf(flags, rest);
  va_end(rest);
  return open64(path, flags, mode);
}

SPIRITOS_PUBLIC int openat64(int folder, const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = ModeOf(flags, rest);
  va_end(rest);
  NoteFlags(flags);
  return FoundNext().openat(folder, path, flags, mode);
}

SPIRITOS_PUBLIC int openat(int folder, const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = ModeOf(flags, rest);
  va_end(rest);
  return openat64(folder, path, flags, mode);
}

// Fortified: without a mode, so it had better not be needed.
SPIRITOS_PUBLIC int __open64_2(const char* path, int flags) {
  if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) __chk_fail();
  return open64(path, flags);
}
SPIRITOS_PUBLIC int __open_2(const char* path, int flags) { return __open64_2(path, flags); }
SPIRITOS_PUBLIC int __openat64_2(int folder, const char* path, int flags) {
  if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE) __chk_fail();
  return openat64(folder, path, flags);
}
SPIRITOS_PUBLIC int __openat_2(int folder, const char* path, int flags) {
  return __openat64_2(folder, path, flags);
}

SPIRITOS_PUBLIC int fcntl64(int fd, int command, ...) {
  va_list rest;
  va_start(rest, command);
  void* const argument = va_arg(rest, void*);
  va_end(rest);
  if (command == F_SETFL) NoteFlags(static_cast<int>(reinterpret_cast<intptr_t>(argument)));
  return FoundNext().fcntl(fd, command, argument);
}

SPIRITOS_PUBLIC int fcntl(int fd, int command, ...) {
  va_list rest;
  va_start(rest, command);
  void* const argument = va_arg(rest, void*);
  va_end(rest);
  return fcntl64(fd, command, argument);
}

// Descriptors that another process sends may be anything.
SPIRITOS_PUBLIC ssize_t recvmsg(int fd, msghdr* message, int flags) {
  const ssize_t size = FoundNext().recvmsg(fd, message, flags);
  if (size < 0 || message->msg_controllen == 0) return size;
  for (cmsghdr* part = CMSG_FIRSTHDR(message); part != nullptr; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS) NoteDirectFiles(true);
  }
  return size;
}

SPIRITOS_PUBLIC int aio_read64(aiocb64* request) noexcept {
  const auto* const same = reinterpret_cast<const aiocb*>(request);
  if (!MayReadDirectly(&same, 1)) {
    errno = ENOSYS;
    return -1;
  }
  return NextOf<int (*)(aiocb64*)>("aio_read64", nullptr)(request);
}

SPIRITOS_PUBLIC int aio_read(aiocb* request) noexcept {
  return aio_read64(reinterpret_cast<aiocb64*>(request));
}

SPIRITOS_PUBLIC int lio_listio64(int mode, aiocb64* const* requests, int count,
                                 sigevent* event) noexcept {
  if (!MayReadDirectly(reinterpret_cast<const aiocb* const*>(requests), count)) {
    errno = ENOSYS;
    return -1;
  }
  using ListIo = int (*)(int, aiocb64* const*, int, sigevent*);
  return NextOf<ListIo>("lio_listio64", nullptr)(mode, requests, count, event);
}

SPIRITOS_PUBLIC int lio_listio(int mode, aiocb* const* requests, int count,
                               sigevent* event) noexcept {
  return lio_listio64(mode, reinterpret_cast<aiocb64* const*>(requests), count, event);
}

}  // extern "C"

}  // namespace spiritos::shim
