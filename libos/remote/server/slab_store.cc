// SPDX-License-Identifier: Apache-2.0
// Slab files: made, sealed, adopted.
#include "libos/remote/server/slab_store.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <mutex>
#include <utility>

#include "libos/base/status.h"

namespace spiritos {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

}  // namespace

absl::StatusOr<SlabMemory> SlabMemory::Make() {
  UniqueFd file(memfd_create("spiritos-slab", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file.valid()) return ErrnoStatus(errno, "making a slab's memory file");
  int error;
  do {
    error = fallocate(file.get(), 0, 0, static_cast<off_t>(kFileSize.raw())) == 0 ? 0 : errno;
  } while (error == EINTR);
  if (error != 0) return ErrnoStatus(error, "taking a slab's memory");
  if (fcntl(file.get(), F_ADD_SEALS, kSeals) != 0) return ErrnoStatus(errno, "sealing a slab");
  return Adopt(std::move(file));
}

absl::StatusOr<SlabMemory> SlabMemory::Adopt(UniqueFd file) {
  const int seals = fcntl(file.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals || (seals & F_SEAL_WRITE) != 0) {
    return InvalidArgument("a file with seals {:#x} is no slab", seals);
  }
  struct stat info;
  if (fstat(file.get(), &info) != 0) return ErrnoStatus(errno, "looking at a slab's file");
  if (info.st_size != static_cast<off_t>(kFileSize.raw())) {
    return InvalidArgument("a file of {} bytes is no slab of {}", info.st_size, kFileSize.raw());
  }
  SlabMemory slab;
  SPIRITOS_ASSIGN_OR_RETURN(slab.map_, Mapping::OfFile(file.get(), kFileSize, "a slab's memory"));
  slab.file_ = std::move(file);
  return slab;
}

bool SlabMemory::Lock() noexcept { return mlock(map_.data(), map_.size().raw()) == 0; }

absl::Status SlabStore::Refill() {
  while (true) {
    {
      LockGuard guard(mutex_);
      if (ready_.size() + rented() >= options_.slabs) return absl::OkStatus();
    }
    SPIRITOS_ASSIGN_OR_RETURN(SlabMemory slab, SlabMemory::Make());
    if (options_.lock && !slab.Lock()) locked_.store(false, std::memory_order_relaxed);
    LockGuard guard(mutex_);
    ready_.push_back(std::move(slab));
    ready_count_.store(ready_.size(), std::memory_order_relaxed);
  }
}

SlabMemory SlabStore::Take() {
  LockGuard guard(mutex_);
  if (ready_.empty()) return {};
  SlabMemory slab = std::move(ready_.back());
  ready_.pop_back();
  ready_count_.store(ready_.size(), std::memory_order_relaxed);
  rented_.fetch_add(1, std::memory_order_relaxed);
  return slab;
}

}  // namespace spiritos
