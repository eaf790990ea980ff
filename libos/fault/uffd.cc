// SPDX-License-Identifier: Apache-2.0
// The ioctls, and the structures that Debian 12's headers do not have yet.
#include "libos/fault/uffd.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "libos/base/failpoint.h"
#include "libos/base/status.h"

// Linux 6.8; from the kernel's include/uapi/linux/userfaultfd.h.
#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
#define _UFFDIO_MOVE (0x05)
struct uffdio_move {
  __u64 dst;
  __u64 src;
  __u64 len;
  __u64 mode;
  __s64 move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, _UFFDIO_MOVE, struct uffdio_move)
#define UFFDIO_MOVE_MODE_DONTWAKE (static_cast<__u64>(1) << 0)
#endif
// Linux 5.11.
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
// Linux 6.1: /dev/userfaultfd.
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace spiritos {
namespace {

constexpr const char* kKernelFix =
    "needs Linux 5.11 or newer with CONFIG_USERFAULTFD and write-protect support";

// Restores errno on leaving.
class ErrnoScope {
 public:
  ErrnoScope() : saved_(errno) {}
  ~ErrnoScope() { errno = saved_; }

 private:
  const int saved_;
};

// 0 or the errno of ioctl(2).
int Call(int fd, unsigned long request, void* argument) noexcept {
  ErrnoScope scope;
  if (const int error = SPIRITOS_FAILPOINT(kUffdIoctlAny)) return error;
  return ioctl(fd, request, argument) == 0 ? 0 : errno;
}

absl::StatusOr<UniqueFd> OpenDescriptor(Uffd::Mode mode) {
  const int flags = O_CLOEXEC | O_NONBLOCK;
  if (mode == Uffd::Mode::kEvents) {
    // The device grants kernel-mode faults by its file mode; the system call
    // wants CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1.
    UniqueFd device(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
    if (device.valid()) {
      UniqueFd fd(ioctl(device.get(), USERFAULTFD_IOC_NEW, flags));
      if (fd.valid()) return fd;
    }
  }
  const int user_only = mode == Uffd::Mode::kEvents ? 0 : UFFD_USER_MODE_ONLY;
  UniqueFd fd(static_cast<int>(syscall(SYS_userfaultfd, flags | user_only)));
  if (fd.valid()) return fd;
  if (errno == ENOSYS) {
    return absl::UnimplementedError(
        fmt::format("userfaultfd is not in this kernel or is blocked by seccomp: {}; in a "
                    "container allow the system call userfaultfd",
                    kKernelFix));
  }
  if (errno == EPERM && mode == Uffd::Mode::kEvents) {
    return absl::PermissionDeniedError(
        "this user may not handle kernel-mode faults, which SPIRITOS_FAULT_MODE=thread needs: "
        "grant access to /dev/userfaultfd (a udev rule with GROUP and MODE=\"0660\"), or "
        "CAP_SYS_PTRACE, or use SPIRITOS_FAULT_MODE=sigbus");
  }
  if (errno == EPERM) {
    return absl::PermissionDeniedError(
        "userfaultfd is refused: in a container allow the system call userfaultfd in its seccomp "
        "profile");
  }
  return ErrnoStatus(errno, "userfaultfd");
}

absl::StatusOr<UffdFeatures> Negotiate(int fd, uint64_t wanted) {
  uffdio_api api{.api = UFFD_API, .features = wanted, .ioctls = 0};
  if (const int error = Call(fd, UFFDIO_API, &api)) {
    return ErrnoStatus(error,
                       fmt::format("UFFDIO_API with features {:#x}: {}", wanted, kKernelFix));
  }
  return UffdFeatures{api.features};
}

}  // namespace

bool UffdFeatures::sigbus() const { return (bits & UFFD_FEATURE_SIGBUS) != 0; }
bool UffdFeatures::write_protect() const { return (bits & UFFD_FEATURE_PAGEFAULT_FLAG_WP) != 0; }
bool UffdFeatures::move() const { return (bits & UFFD_FEATURE_MOVE) != 0; }

absl::StatusOr<UffdFeatures> Uffd::Probe() {
  SPIRITOS_ASSIGN_OR_RETURN(UniqueFd fd, OpenDescriptor(Mode::kSigbus));
  return Negotiate(fd.get(), 0);
}

absl::StatusOr<Uffd> Uffd::Open(Mode mode) {
  SPIRITOS_ASSIGN_OR_RETURN(const UffdFeatures known, Probe());
  if (!known.write_protect() || !known.sigbus()) {
    return absl::UnimplementedError(fmt::format(
        "userfaultfd features {:#x} lack write-protect or SIGBUS: {}", known.bits, kKernelFix));
  }
  uint64_t wanted = UFFD_FEATURE_PAGEFAULT_FLAG_WP | (known.bits & UFFD_FEATURE_MOVE);
  if (mode == Mode::kSigbus) wanted |= UFFD_FEATURE_SIGBUS;
  SPIRITOS_ASSIGN_OR_RETURN(UniqueFd fd, OpenDescriptor(mode));
  SPIRITOS_ASSIGN_OR_RETURN(UffdFeatures features, Negotiate(fd.get(), wanted));
  return Uffd(std::move(fd), features);
}

absl::Status Uffd::Register(AddressRange range) {
  uffdio_register request{
      .range = {.start = reinterpret_cast<uintptr_t>(range.begin), .len = range.size.raw()},
      .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP,
      .ioctls = 0};
  if (const int error = Call(fd_.get(), UFFDIO_REGISTER, &request)) {
    return ErrnoStatus(error, fmt::format("UFFDIO_REGISTER of {} bytes at {}", range.size.raw(),
                                          static_cast<void*>(range.begin)));
  }
  return absl::OkStatus();
}

absl::Status Uffd::Unregister(AddressRange range) {
  uffdio_range request{.start = reinterpret_cast<uintptr_t>(range.begin), .len = range.size.raw()};
  if (const int error = Call(fd_.get(), UFFDIO_UNREGISTER, &request)) {
    return ErrnoStatus(error,
                       fmt::format("UFFDIO_UNREGISTER at {}", static_cast<void*>(range.begin)));
  }
  return absl::OkStatus();
}

Uffd::Progress Uffd::Copy(Vpn to, const std::byte* from, uint32_t pages, bool protect,
                          bool wake) noexcept {
  if (const int error = SPIRITOS_FAILPOINT(kUffdCopy)) return {0, error};
  uffdio_copy request{
      .dst = to.raw() << kPageShift,
      .src = reinterpret_cast<uintptr_t>(from),
      .len = uint64_t{pages} << kPageShift,
      .mode = (wake ? 0 : UFFDIO_COPY_MODE_DONTWAKE) | (protect ? UFFDIO_COPY_MODE_WP : 0),
      .copy = 0};
  const int error = Call(fd_.get(), UFFDIO_COPY, &request);
  if (error == 0) return {request.len, 0};
  // On a partial copy the kernel says EAGAIN and counts; otherwise `copy` is the
  // negative error, or untouched.
  return {request.copy > 0 ? static_cast<uint64_t>(request.copy) : 0, error};
}

Uffd::Progress Uffd::Move(Vpn to, Vpn from, uint32_t pages, bool wake) noexcept {
  uffdio_move request{.dst = to.raw() << kPageShift,
                      .src = from.raw() << kPageShift,
                      .len = uint64_t{pages} << kPageShift,
                      .mode = wake ? 0 : UFFDIO_MOVE_MODE_DONTWAKE,
                      .move = 0};
  const int error = Call(fd_.get(), UFFDIO_MOVE, &request);
  if (error == 0) return {request.len, 0};
  return {request.move > 0 ? static_cast<uint64_t>(request.move) : 0, error};
}

int Uffd::Protect(PageRun run) noexcept {
  if (const int error = SPIRITOS_FAILPOINT(kUffdWriteProtect)) return error;
  uffdio_writeprotect request{
      .range = {.start = run.first.raw() << kPageShift, .len = uint64_t{run.count} << kPageShift},
      .mode = UFFDIO_WRITEPROTECT_MODE_WP};
  return Call(fd_.get(), UFFDIO_WRITEPROTECT, &request);
}

int Uffd::Unprotect(PageRun run, bool wake) noexcept {
  if (const int error = SPIRITOS_FAILPOINT(kUffdWriteProtect)) return error;
  uffdio_writeprotect request{
      .range = {.start = run.first.raw() << kPageShift, .len = uint64_t{run.count} << kPageShift},
      .mode = wake ? 0 : UFFDIO_WRITEPROTECT_MODE_DONTWAKE};
  return Call(fd_.get(), UFFDIO_WRITEPROTECT, &request);
}

int Uffd::Wake(PageRun run) noexcept {
  uffdio_range request{.start = run.first.raw() << kPageShift,
                       .len = uint64_t{run.count} << kPageShift};
  return Call(fd_.get(), UFFDIO_WAKE, &request);
}

int Uffd::ReadEvents(std::span<Event> events) noexcept {
  ErrnoScope scope;
  std::array<uffd_msg, 16> messages;
  const size_t wanted = std::min(events.size(), messages.size());
  const ssize_t bytes = read(fd_.get(), messages.data(), wanted * sizeof(uffd_msg));
  if (bytes < 0) return -errno;
  int n = 0;
  for (size_t i = 0; i < static_cast<size_t>(bytes) / sizeof(uffd_msg); ++i) {
    if (messages[i].event != UFFD_EVENT_PAGEFAULT) continue;  // No other event is asked for.
    const auto& fault = messages[i].arg.pagefault;
    events[static_cast<size_t>(n++)] = {Vpn(fault.address >> kPageShift),
                                        (fault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0,
                                        (fault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0};
  }
  return n;
}

}  // namespace spiritos
