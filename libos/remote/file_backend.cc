// SPDX-License-Identifier: Apache-2.0
// The pool's file: taking it, its space, and which ring a request goes to.
#include "libos/remote/file_backend.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "libos/base/failpoint.h"
#include "libos/base/log.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

// Rings per lane at most: beyond a few, threads seldom meet at one's lock.
constexpr uint32_t kMaxGroups = 4;

// What a process can map: some file systems promise more to any who ask.
constexpr uint64_t kMaxPoolBytes = uint64_t{1} << 46;

uint64_t OffsetOf(SlotId slot) { return slot.raw() << kPageShift; }

int FallocateRetrying(int file, int mode, uint64_t offset, uint64_t bytes) noexcept {
  while (fallocate(file, mode, static_cast<off_t>(offset), static_cast<off_t>(bytes)) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

absl::StatusOr<UniqueFd> OpenFile(const std::string& path, const char* knob) {
  constexpr int kFlags = O_RDWR | O_CREAT | O_CLOEXEC;
  // Reading must not dirty the inode; but only its owner may ask for that.
  UniqueFd file(open(path.c_str(), kFlags | O_NOATIME, 0600));
  if (!file.valid() && errno == EPERM) file = UniqueFd(open(path.c_str(), kFlags, 0600));
  if (!file.valid()) {
    return ErrnoStatus(errno, fmt::format("opening pool file {} ({})", path, knob));
  }
  struct stat info;
  if (fstat(file.get(), &info) != 0) {
    return ErrnoStatus(errno, fmt::format("looking at pool file {} ({})", path, knob));
  }
  if (!S_ISREG(info.st_mode)) {
    return InvalidArgument("pool file {} is no regular file ({})", path, knob);
  }
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) {
      return ErrnoStatus(errno, fmt::format("locking pool file {} ({})", path, knob));
    }
    return absl::FailedPreconditionError(
        fmt::format("pool file {} is in use by another pool ({})", path, knob));
  }
  if (info.st_size % static_cast<off_t>(kSlabSize) != 0) {
    return absl::FailedPreconditionError(
        fmt::format("{} holds {} bytes and is no pool file: not overwritten; remove it or name "
                    "another ({})",
                    path, info.st_size, knob));
  }
  return file;
}

}  // namespace

FileBackend::FileBackend(std::string path, UniqueFd file, const char* knob)
    : path_(std::move(path)), file_(std::move(file)), knob_(knob), owner_(getpid()) {}

absl::StatusOr<std::unique_ptr<FileBackend>> FileBackend::Create(const std::string& path,
                                                                 Bytes capacity, Io io,
                                                                 const char* knob) {
  SPIRITOS_ASSIGN_OR_RETURN(UniqueFd file, OpenFile(path, knob));
  std::unique_ptr<FileBackend> backend(new FileBackend(path, std::move(file), knob));
  SPIRITOS_RETURN_IF_ERROR(backend->Prepare(capacity));
  if (io == Io::kRings) backend->StartRings();
  return backend;
}

FileBackend::~FileBackend() {
  if (getpid() == owner_) issuer_.Stop();
  for (uint32_t r = 0; r < kLanes * groups_; ++r) rings_[r].Close();
  if (getpid() != owner_) return;
  // A ring lets go of the file some time after it is closed: hence the explicit
  // end of the lock. Nothing is left to do if giving the space back fails.
  [[maybe_unused]] const int ignored = ftruncate(file_.get(), 0);
  flock(file_.get(), LOCK_UN);
}

absl::Status FileBackend::Prepare(Bytes capacity) {
  if (ftruncate(file_.get(), 0) != 0) {
    return ErrnoStatus(errno, fmt::format("emptying pool file {} ({})", path_, knob_));
  }
  SPIRITOS_RETURN_IF_ERROR(ChooseSize(capacity));
  // Sparse: full size at once, so that no read ends early; space comes by slabs.
  if (ftruncate(file_.get(), static_cast<off_t>(slab_count_ * kSlabSize)) != 0) {
    return ErrnoStatus(errno, fmt::format("pool file {} cannot have {} bytes (SPIRITOS_POOL_SIZE)",
                                          path_, slab_count_ * kSlabSize));
  }
  released_.reserve(slab_count_);
  return ProbeFile();
}

absl::Status FileBackend::ChooseSize(Bytes capacity) {
  rlimit limit{RLIM_INFINITY, RLIM_INFINITY};
  getrlimit(RLIMIT_FSIZE, &limit);  // Beyond it there is not an error but a signal.
  uint64_t bytes = capacity.raw();
  if (bytes == 0) {
    struct statvfs space;
    if (fstatvfs(file_.get(), &space) != 0) {
      return ErrnoStatus(errno, fmt::format("free space beside {} ({})", path_, knob_));
    }
    bytes = std::min<uint64_t>({space.f_bavail * space.f_frsize, limit.rlim_cur, kMaxPoolBytes});
    if (bytes < kSlabSize) {
      return absl::ResourceExhaustedError(
          fmt::format("{} bytes are free for pool file {}, less than a slab of {} bytes "
                      "({})",
                      bytes, path_, kSlabSize, knob_));
    }
  }
  if (bytes > kMaxPoolBytes) {
    return InvalidArgument("pool size {} is above the maximum of {} bytes (SPIRITOS_POOL_SIZE)",
                           bytes, kMaxPoolBytes);
  }
  slab_count_ = bytes / kSlabSize;
  if (slab_count_ == 0) {
    return InvalidArgument("pool size {} is below a slab of {} bytes (SPIRITOS_POOL_SIZE)", bytes,
                           kSlabSize);
  }
  if (bytes > limit.rlim_cur) {
    return InvalidArgument(
        "pool size {} is above the limit of {} bytes a file (SPIRITOS_POOL_SIZE, "
        "ulimit -f)",
        bytes, limit.rlim_cur);
  }
  return absl::OkStatus();
}

absl::Status FileBackend::ProbeFile() {
  // The page cache would hold in this machine's memory what was sent away from it.
  // Some file systems refuse direct I/O when the flag is set, others at the I/O.
  alignas(kPageSize) std::byte page[kPageSize]{};
  const int flags = fcntl(file_.get(), F_GETFL);
  direct_ = fcntl(file_.get(), F_SETFL, flags | O_DIRECT) == 0;
  const auto write_page = [&] { return pwrite(file_.get(), page, kPageSize, 0); };
  ssize_t written = write_page();
  if (direct_ && written < 0 && (errno == EINVAL || errno == EOPNOTSUPP)) {
    direct_ = false;
    fcntl(file_.get(), F_SETFL, flags);
    written = write_page();
  }
  if (written != static_cast<ssize_t>(kPageSize)) {
    return ErrnoStatus(written < 0 ? errno : ENOSPC,
                       fmt::format("writing to pool file {} ({})", path_, knob_));
  }
  if (!direct_) {
    LogWarning(
        fmt::format("pool file {}: its file system has no direct I/O; its pages will also "
                    "take page cache ({})",
                    path_, knob_));
  }
  const int error = FallocateRetrying(file_.get(), 0, 0, kPageSize);
  allocates_ = error != EOPNOTSUPP && error != ENOSYS;
  if (!allocates_) {
    LogWarning(
        fmt::format("pool file {}: its file system cannot reserve space; when it is full, "
                    "writes will fail ({})",
                    path_, knob_));
  }
  Punch(0, kPageSize);
  return absl::OkStatus();
}

void FileBackend::StartRings() {
  const uint32_t groups = std::min(CoreCount(), kMaxGroups);
  rings_ = arena_.NewArray<FileRing>(kLanes * groups);
  int error = rings_ == nullptr ? ENOMEM : 0;
  const uint32_t issued_begin = static_cast<uint32_t>(Lane::kPrefetch) * groups;
  uint32_t started = 0;
  while (error == 0 && started < kLanes * groups) {
    const bool issued = started >= issued_begin && started < issued_begin + groups;
    error = rings_[started].Init(file_.get(), issued ? &issuer_ : nullptr);
    if (error == 0) ++started;
  }
  if (error == 0 && !issuer_.Start(rings_ + issued_begin, groups)) error = EAGAIN;
  if (error == 0) {
    groups_ = groups;
    return;
  }
  for (uint32_t r = 0; r < started; ++r) rings_[r].Close();
  LogWarning(
      fmt::format("pool file {}: no io_uring ({}); going on with one request at a time a "
                  "thread ({})",
                  path_, std::strerror(error), knob_));
}

bool FileBackend::Allocate(size_t slab) noexcept {
  if (!allocates_) return true;
  const int saved_errno = errno;
  const int error = FallocateRetrying(file_.get(), 0, slab * kSlabSize, kSlabSize);
  if (error != 0) Punch(slab * kSlabSize, kSlabSize);  // It may have got half-way.
  errno = saved_errno;
  return error == 0;
}

void FileBackend::Punch(uint64_t offset, uint64_t bytes) noexcept {
  const int saved_errno = errno;
  FallocateRetrying(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes);
  errno = saved_errno;
}

IoResult FileBackend::PlaceSlab(SlotId* first) noexcept {
  size_t slab = 0;
  {
    LockGuard guard(lock_);
    if (!released_.empty()) {
      slab = released_.back();
      released_.pop_back();
    } else if (unused_ < slab_count_) {
      slab = unused_++;
    } else {
      return IoResult::kNoSpace;
    }
  }
  if (!Allocate(slab)) {
    LockGuard guard(lock_);
    released_.push_back(static_cast<uint32_t>(slab));  // Within the reserve.
    return IoResult::kNoSpace;
  }
  *first = SlotId(slab * kSlabPages);
  return IoResult::kOk;
}

void FileBackend::ReleaseSlab(SlotId first) noexcept {
  Punch(OffsetOf(first), kSlabSize);
  LockGuard guard(lock_);
  released_.push_back(static_cast<uint32_t>(first.raw() / kSlabPages));  // Within the reserve.
}

void FileBackend::Forget(SlotId first, uint32_t pages) noexcept {
  Punch(OffsetOf(first), uint64_t{pages} << kPageShift);
}

IoResult FileBackend::Submit(IoRequest& request) noexcept {
  if (groups_ != 0) [[likely]] {
    const size_t lane = static_cast<size_t>(request.lane);
    return rings_[lane * groups_ + CurrentCore() % groups_].Submit(request);
  }
  int error = Transfer(request);
  if (error == 0) {
    error = request.op == IoOp::kRead ? SPIRITOS_FAILPOINT(kBackendRead)
                                      : SPIRITOS_FAILPOINT(kBackendWrite);
  }
  request.Finish(error);
  return IoResult::kOk;
}

int FileBackend::Transfer(const IoRequest& request) noexcept {
  const int saved_errno = errno;
  const uint64_t all = uint64_t{request.pages} << kPageShift;
  const uint64_t offset = OffsetOf(request.first);
  int error = 0;
  for (uint64_t done = 0; done < all && error == 0;) {
    const auto place = static_cast<off_t>(offset + done);
    const ssize_t moved = request.op == IoOp::kRead
                              ? pread(file_.get(), request.memory + done, all - done, place)
                              : pwrite(file_.get(), request.memory + done, all - done, place);
    // Direct I/O goes on at a page: the piece of one that was moved is moved again.
    const uint64_t whole = moved > 0 ? static_cast<uint64_t>(moved) & ~uint64_t{kPageSize - 1} : 0;
    done += whole;
    if (moved < 0 && errno != EINTR) error = errno;
    if (moved >= 0 && whole == 0) error = EIO;
  }
  errno = saved_errno;
  return error;
}

bool FileBackend::Poll(Lane lane) noexcept {
  FileRing* const rings = rings_ + static_cast<size_t>(lane) * groups_;
  bool any = false;
  for (uint32_t g = 0; g < groups_; ++g) any |= rings[g].Poll();
  return any;
}

void FileBackend::Wait(IoRequest& request) noexcept {
  if (groups_ != 0) FileRing::Wait(request);
}

std::string FileBackend::description() const {
  return fmt::format("file pool {}, {} slabs of 64 MiB, {} through {}", path_, slab_count_,
                     direct_ ? "direct I/O" : "page cache",
                     groups_ != 0 ? "io_uring" : "pread and pwrite");
}

}  // namespace spiritos
