// SPDX-License-Identifier: Apache-2.0
// Slab files: made, sealed, adopted.
#include "libos/remote/server/slab_store.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <mutex>
#include <utility>

#include "libos/base/status.h"

namespace spiritos {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

// All the pages of an empty file.
absl::Status TakePages(int file) {
  int error;
  do {
    error = fallocate(file, 0, 0, static_cast<off_t>(SlabMemory::kFileSize.raw())) == 0 ? 0 : errno;
  } while (error == EINTR);
  return error == 0 ? absl::OkStatus() : ErrnoStatus(error, "taking a slab's memory (--memory)");
}

}  // namespace

absl::StatusOr<SlabMemory> SlabMemory::Make() {
  UniqueFd file = NewMemoryFile("spiritos-slab");
  if (!file.valid()) return ErrnoStatus(errno, "making a slab's memory file");
  SPIRITOS_RETURN_IF_ERROR(TakePages(file.get()));
  if (fcntl(file.get(), F_ADD_SEALS, kSeals) != 0) return ErrnoStatus(errno, "sealing a slab");
  return Adopt(std::move(file));
}

absl::StatusOr<SlabMemory> SlabMemory::MakeIn(StateFolder& state, uint32_t number) {
  SPIRITOS_ASSIGN_OR_RETURN(UniqueFd file, state.MakeSlab(number));
  SPIRITOS_RETURN_IF_ERROR(TakePages(file.get()));
  return Map(std::move(file), number);
}

absl::StatusOr<SlabMemory> SlabMemory::FindIn(StateFolder& state, uint32_t number) {
  SPIRITOS_ASSIGN_OR_RETURN(UniqueFd file, state.OpenSlab(number));
  return Map(std::move(file), number);
}

absl::StatusOr<SlabMemory> SlabMemory::Adopt(UniqueFd file) {
  const int seals = fcntl(file.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals || (seals & F_SEAL_WRITE) != 0) {
    return InvalidArgument("a file with seals {:#x} is no slab", seals);
  }
  return Map(std::move(file), 0);
}

absl::StatusOr<SlabMemory> SlabMemory::Map(UniqueFd file, uint32_t number) {
  struct stat info;
  if (fstat(file.get(), &info) != 0) return ErrnoStatus(errno, "looking at a slab's file");
  if (info.st_size != static_cast<off_t>(kFileSize.raw())) {
    return InvalidArgument("a file of {} bytes is no slab of {}", info.st_size, kFileSize.raw());
  }
  SlabMemory slab;
  SPIRITOS_ASSIGN_OR_RETURN(slab.map_, Mapping::OfFile(file.get(), kFileSize, "a slab's memory"));
  slab.file_ = std::move(file);
  slab.number_ = number;
  return slab;
}

bool SlabMemory::Lock() noexcept { return mlock(map_.data(), map_.size().raw()) == 0; }

SlabStore::SlabStore(const Options& options)
    : options_(options), limit_(options.slabs), locked_(options.lock) {
  if (options.state != nullptr) used_.resize(options.state->directory().size());
}

void SlabStore::Lock(SlabMemory& slab) {
  if (options_.lock && !slab.Lock()) locked_.store(false, std::memory_order_relaxed);
}

absl::StatusOr<SlabMemory> SlabStore::Make() {
  if (options_.state == nullptr) return SlabMemory::Make();
  uint32_t number;
  {
    // There is one: what is ready or rented is less than the limit, and that no more than
    // max_limit().
    LockGuard guard(mutex_);
    number = static_cast<uint32_t>(std::find(used_.begin(), used_.end(), false) - used_.begin());
    used_[number] = true;
  }
  absl::StatusOr<SlabMemory> slab = SlabMemory::MakeIn(*options_.state, number);
  if (!slab.ok()) {
    options_.state->RemoveSlab(number);
    LockGuard guard(mutex_);
    used_[number] = false;
  }
  return slab;
}

absl::Status SlabStore::Refill() {
  while (true) {
    SlabMemory spare;
    {
      LockGuard guard(mutex_);
      const uint64_t there = ready_.size() + rented();
      if (there == limit() || (there > limit() && ready_.empty())) return absl::OkStatus();
      if (there > limit()) spare = PopReady();
    }
    if (spare.valid()) {
      Close(std::move(spare));
      continue;
    }
    SPIRITOS_ASSIGN_OR_RETURN(SlabMemory slab, Make());
    Lock(slab);
    LockGuard guard(mutex_);
    ready_.push_back(std::move(slab));
    ready_count_.store(ready_.size(), std::memory_order_relaxed);
  }
}

uint64_t SlabStore::max_limit() const {
  return options_.state == nullptr ? UINT64_MAX : options_.state->directory().size();
}

SlabMemory SlabStore::PopReady() {
  SlabMemory slab = std::move(ready_.back());
  ready_.pop_back();
  ready_count_.store(ready_.size(), std::memory_order_relaxed);
  return slab;
}

SlabMemory SlabStore::Take() {
  LockGuard guard(mutex_);
  if (ready_.empty() || rented() >= limit()) return {};
  SlabMemory slab = PopReady();
  rented_.fetch_add(1, std::memory_order_relaxed);
  return slab;
}

absl::StatusOr<SlabMemory> SlabStore::Restore(uint32_t number) {
  SPIRITOS_ASSIGN_OR_RETURN(SlabMemory slab, SlabMemory::FindIn(*options_.state, number));
  Lock(slab);
  LockGuard guard(mutex_);
  used_[number] = true;
  CountRented();
  return slab;
}

void SlabStore::Return(SlabMemory slab) {
  Close(std::move(slab));
  rented_.fetch_sub(1, std::memory_order_relaxed);
}

void SlabStore::Close(SlabMemory slab) {
  const uint32_t number = slab.number();
  slab = {};
  if (options_.state != nullptr) {
    options_.state->RemoveSlab(number);
    LockGuard guard(mutex_);
    used_[number] = false;
  }
}

}  // namespace spiritos
