// SPDX-License-Identifier: Apache-2.0
// Uffd: userfaultfd(2) and its ioctls as typed calls.
//
// Every call reports its errno by value and leaves the thread's errno alone, so
// it may stand in a signal handler. Partial progress is returned, not hidden:
// PageMover resumes. The man pages are userfaultfd(2), ioctl_userfaultfd(2).
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libos/base/fd.h"
#include "libos/base/units.h"

namespace spiritos {

// What UFFDIO_API said this kernel has; bits of the kernel's ABI.
struct UffdFeatures {
  uint64_t bits = 0;
  bool sigbus() const;
  bool write_protect() const;
  bool move() const;
};

class Uffd {
 public:
  enum class Mode {
    kSigbus,      // Faults are signals; works for every user (user-mode only).
    kEvents,      // Faults are events, kernel-mode ones too; needs privilege.
    kEventsUser,  // Faults are events, user mode only. For measuring and tests.
  };

  // Opens and negotiates. kPermissionDenied and kUnimplemented say what to do.
  static absl::StatusOr<Uffd> Open(Mode mode);
  // The features of this kernel, asked of a descriptor of its own.
  static absl::StatusOr<UffdFeatures> Probe();

  absl::Status Register(AddressRange range);
  absl::Status Unregister(AddressRange range);

  struct Progress {
    uint64_t bytes = 0;  // Done before the error, from the start.
    int error = 0;       // 0, or errno.
  };
  Progress Copy(Vpn to, const std::byte* from, uint32_t pages, bool protect, bool wake) noexcept;
  Progress Move(Vpn to, Vpn from, uint32_t pages, bool wake) noexcept;
  int Protect(PageRun run) noexcept;               // 0 or errno.
  int Unprotect(PageRun run, bool wake) noexcept;  // 0 or errno.
  int Wake(PageRun run) noexcept;                  // 0 or errno.

  struct Event {
    Vpn vpn;
    bool write_protect = false;
    bool write = false;  // The access is a store.
  };
  // Reads waiting fault events; their number, or -errno (EAGAIN: none waits).
  int ReadEvents(std::span<Event> events) noexcept;

  int fd() const { return fd_.get(); }
  const UffdFeatures& features() const { return features_; }

 private:
  Uffd(UniqueFd fd, UffdFeatures features) : fd_(std::move(fd)), features_(features) {}

  UniqueFd fd_;
  UffdFeatures features_;
};

}  // namespace spiritos
