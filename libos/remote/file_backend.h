// SPDX-License-Identifier: Apache-2.0
// FileBackend: slots in a file, by direct I/O through io_uring.
//
// Slot n is at n * 4096 of a sparse file. A slab's space is allocated when the
// slab is placed, so that a full file system shows there, as kNoSpace. Forget()
// and ReleaseSlab() punch holes: writing into a hole needs space again, and where
// that is gone meanwhile the write fails.
//
// The file belongs to one process at a time (flock). Its bytes mean nothing to
// the next: it is emptied at start and at the end, and keeps its name. What holds
// something other than whole slabs is not taken for a pool's file and not touched.
//
// Each lane has a ring per group of cores; what goes into those of the read-ahead
// lane, whose threads do not wait, a thread of the backend submits. Without io_uring (seccomp,
// kernel.io_uring_disabled) a request is done by pread and pwrite inside Submit().
// Writes read straight from frozen application memory, reads go to near memory;
// both begin at a page. A child of fork() does not touch the pool.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "libos/base/fd.h"
#include "libos/base/lock.h"
#include "libos/base/pinned_arena.h"
#include "libos/remote/file_ring.h"
#include "libos/remote/remote_backend.h"
#include "libos/remote/ring_issuer.h"

namespace spiritos {

class FileBackend final : public RemoteBackend {
 public:
  enum class Io { kRings, kSynchronous };  // kRings falls back, with a warning.

  // `capacity` in bytes, rounded down to slabs; 0 = what the file system has free. Errors
  // name `knob`, by which the file was chosen.
  static absl::StatusOr<std::unique_ptr<FileBackend>> Create(const std::string& path,
                                                             Bytes capacity, Io io = Io::kRings,
                                                             const char* knob = "SPIRITOS_POOL");
  // REQUIRES: no request is pending.
  ~FileBackend() override;

  IoResult PlaceSlab(SlotId* first) noexcept override;
  void ReleaseSlab(SlotId first) noexcept override;
  bool addressable() const override { return false; }
  std::byte* Direct(SlotId) noexcept override { return nullptr; }
  IoResult Submit(IoRequest& request) noexcept override;
  bool Poll(Lane lane) noexcept override;
  void Wait(IoRequest& request) noexcept override;
  void Forget(SlotId first, uint32_t pages) noexcept override;
  Bytes capacity() const override { return Bytes(slab_count_ * kSlabSize); }
  std::string description() const override;
  const std::string& path() const { return path_; }

 private:
  FileBackend(std::string path, UniqueFd file, const char* knob);

  absl::Status Prepare(Bytes capacity);
  absl::Status ChooseSize(Bytes capacity);
  absl::Status ProbeFile();
  void StartRings();
  // Moves `request`'s bytes; 0 or an errno.
  int Transfer(const IoRequest& request) noexcept;
  bool Allocate(size_t slab) noexcept;
  void Punch(uint64_t offset, uint64_t bytes) noexcept;

  const std::string path_;
  const UniqueFd file_;
  const char* const knob_;
  const pid_t owner_;  // A child that exits does not empty the file.
  size_t slab_count_ = 0;
  bool direct_ = true;     // Past the page cache.
  bool allocates_ = true;  // The file system can reserve space.
  PinnedArena arena_;
  uint32_t groups_ = 0;        // Of cores; 0 = no rings.
  FileRing* rings_ = nullptr;  // Of lane l and group g: rings_[l * groups_ + g].
  RingIssuer issuer_;          // Of the read-ahead lane.

  SpinLock lock_{LockRank::kSlabMap};
  size_t unused_ ABSL_GUARDED_BY(lock_) = 0;               // Never placed from here on.
  std::vector<uint32_t> released_ ABSL_GUARDED_BY(lock_);  // Reserved for slab_count_.
};

}  // namespace spiritos
