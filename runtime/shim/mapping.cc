// SPDX-License-Identifier: Apache-2.0
// mmap(2) and its family: large anonymous mappings of the program may be far.
//
// What stays near: mappings of files, shared ones, stacks, what is to be locked, in huge
// pages, executable or at an address that the program insists on, unless that is far
// already; and small ones, whose faults would cost more than their memory.
#include <errno.h>
#include <stdarg.h>
#include <sys/mman.h>

#include <atomic>

#include "libos/base/export.h"
#include "libos/base/log.h"
#include "libos/base/units.h"
#include "runtime/shim/kernel.h"
#include "runtime/shim/shim.h"

namespace spiritos::shim {
namespace {

constexpr size_t kSmallestFar = size_t{1} << 20;
constexpr int kNearFlags = MAP_SHARED | MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_GROWSDOWN |
                           MAP_STACK | MAP_LOCKED | MAP_HUGETLB | MAP_32BIT;

bool MayBeFar(size_t size, int protection, int flags) {
  return size >= kSmallestFar && size <= SIZE_MAX - kPageSize && (flags & MAP_ANONYMOUS) != 0 &&
         (flags & MAP_PRIVATE) != 0 && (flags & kNearFlags) == 0 && (protection & PROT_EXEC) == 0;
}

size_t Pages(size_t size) { return (size + kPageSize - 1) & ~(kPageSize - 1); }

// Ours to handle: the program's call, on a range that may hold far memory.
FarMap* MapFor(const void* at, size_t size) {
  if (InRuntime()) return nullptr;
  FarMap* const map = far_map.load(std::memory_order_acquire);
  const bool aligned =
      reinterpret_cast<uintptr_t>(at) % kPageSize == 0;  // Else the kernel says so.
  return map != nullptr && aligned && size != 0 && size <= SIZE_MAX - kPageSize &&
                 map->MayHold(at, Pages(size))
             ? map
             : nullptr;
}

AddressRange Range(void* at, size_t size) {
  return {static_cast<std::byte*>(at), Bytes(Pages(size))};
}

// mlock(2) takes any address: of the pages that hold it.
struct LockedPages {
  LockedPages(const void* at, size_t size) {
    const size_t within = reinterpret_cast<uintptr_t>(at) % kPageSize;
    auto* const page = static_cast<std::byte*>(const_cast<void*>(at)) - within;
    if (size > SIZE_MAX - 2 * kPageSize) return;
    map = MapFor(page, size + within);
    range = Range(page, size + within);
  }
  FarMap* map = nullptr;
  AddressRange range;
};

int Answer(int error) {
  if (error == 0) return 0;
  errno = error;
  return -1;
}

}  // namespace

extern "C" {

SPIRITOS_PUBLIC void* mmap(void* at, size_t size, int protection, int flags, int file,
                           off_t offset) noexcept {
  FarMap* const map = InRuntime() ? nullptr : far_map.load(std::memory_order_acquire);
  if (map == nullptr) return kernel::Map(at, size, protection, flags, file, offset);
  if (MayBeFar(size, protection, flags)) {
    const NearScope near;
    return map->Map(at, Pages(size), protection, flags);
  }
  if ((flags & MAP_FIXED) != 0 && MapFor(at, size) != nullptr) {
    const NearScope near;
    return map->Replace(Range(at, size), protection, flags, file, offset);
  }
  return kernel::Map(at, size, protection, flags, file, offset);
}

SPIRITOS_PUBLIC void* mmap64(void* at, size_t size, int protection, int flags, int file,
                             off_t offset) noexcept {
  return mmap(at, size, protection, flags, file, offset);
}

SPIRITOS_PUBLIC int munmap(void* at, size_t size) noexcept {
  FarMap* const map = MapFor(at, size);
  if (map == nullptr) return kernel::Unmap(at, size);
  const NearScope near;
  return Answer(map->Unmap(Range(at, size)));
}

SPIRITOS_PUBLIC int mprotect(void* at, size_t size, int protection) noexcept {
  FarMap* const map = MapFor(at, size);
  if (map == nullptr) return kernel::Protect(at, size, protection);
  const NearScope near;
  return Answer(map->Protect(Range(at, size), protection));
}

SPIRITOS_PUBLIC int madvise(void* at, size_t size, int advice) noexcept {
  FarMap* const map = MapFor(at, size);
  if (map == nullptr) return kernel::Advise(at, size, advice);
  const NearScope near;
  return Answer(map->Advise(Range(at, size), advice));
}

SPIRITOS_PUBLIC int posix_madvise(void* at, size_t size, int advice) noexcept {
  if (advice == POSIX_MADV_DONTNEED) return 0;  // Keeps the bytes, unlike MADV_DONTNEED.
  const int saved_errno = errno;
  const int error = madvise(at, size, advice) == 0 ? 0 : errno;
  errno = saved_errno;
  return error;
}

SPIRITOS_PUBLIC void* mremap(void* at, size_t old_size, size_t size, int flags, ...) noexcept {
  void* to = nullptr;
  if ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) != 0) {
    va_list rest;
    va_start(rest, flags);
    to = va_arg(rest, void*);
    va_end(rest);
  }
  FarMap* map = MapFor(at, old_size);
  if (map == nullptr && (flags & MREMAP_FIXED) != 0) map = MapFor(to, size);
  if (map == nullptr || size == 0) return kernel::Remap(at, old_size, size, flags, to);
  const NearScope near;
  return map->Remap(Range(at, old_size), Pages(size), flags, to);
}

SPIRITOS_PUBLIC int mlock2(const void* at, size_t size, unsigned flags) noexcept {
  const LockedPages pages(at, size);
  if (pages.map == nullptr || (flags & ~unsigned{MLOCK_ONFAULT}) != 0) {
    return kernel::Lock(at, size, flags);
  }
  const NearScope near;
  return Answer(pages.map->Lock(pages.range, flags));
}

SPIRITOS_PUBLIC int mlock(const void* at, size_t size) noexcept { return mlock2(at, size, 0); }

// What may be far cannot all be here. Programs know the refusal from RLIMIT_MEMLOCK.
SPIRITOS_PUBLIC int mlockall(int flags) noexcept {
  constexpr int kKnown = MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT;
  const bool known = (flags & (MCL_CURRENT | MCL_FUTURE)) != 0 && (flags & ~kKnown) == 0;
  if (!known || InRuntime() || far_map.load(std::memory_order_acquire) == nullptr) {
    return static_cast<int>(kernel::Call(SYS_mlockall, flags));
  }
  static constinit std::atomic<bool> told{false};
  const NearScope near;
  if (!told.exchange(true)) {
    LogWarning("mlockall: memory that may be far cannot all be locked; refused (mlock can)");
  }
  errno = ENOMEM;
  return -1;
}

SPIRITOS_PUBLIC int munlock(const void* at, size_t size) noexcept {
  const LockedPages pages(at, size);
  if (pages.map == nullptr) return kernel::Unlock(at, size);
  const NearScope near;
  return Answer(pages.map->Unlock(pages.range));
}

}  // extern "C"

}  // namespace spiritos::shim
