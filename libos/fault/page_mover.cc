// SPDX-License-Identifier: Apache-2.0
// Each call with its errors, as the kernel's mm/userfaultfd.c and mm/madvise.c give them.
#include "libos/fault/page_mover.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "libos/base/failpoint.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

// A call that fails without progress is repeated this often before its error is
// believed: EAGAIN says "layout changing", ENOMEM may pass.
constexpr int kAttempts = 16;

// process_madvise takes at most IOV_MAX (1024) pieces; a zone has fewer runs.
constexpr size_t kMaxPieces = 512;

int MadviseDontNeed(PageRun run) noexcept {
  const int saved_errno = errno;
  int error = SPIRITOS_FAILPOINT(kMadvise);
  if (error == 0 &&
      madvise(run.first.address(), size_t{run.count} << kPageShift, MADV_DONTNEED) != 0) {
    error = errno;
  }
  errno = saved_errno;
  return error;
}

MapOutcome Failed(int error, uint32_t done) {
  switch (error) {
    case ENOENT:
    case ESRCH:
      return {MapResult::kGone, done, error};
    case ENOMEM:
      return {MapResult::kNoMemory, done, error};
    default:
      return {MapResult::kFailed, done, error};
  }
}

}  // namespace

PageMover::PageMover(Uffd uffd, const KernelCalls& calls, Metrics& metrics, bool wake)
    : uffd_(std::move(uffd)), metrics_(metrics), wake_(wake) {
  caps_.batched_zap = calls.process_madvise_self;
  caps_.move = calls.uffd_move;
  caps_.shootdown_ns = calls.shootdown_ns;
  caps_.wakeup_ns = calls.wakeup_ns;
  caps_.fill_ns = calls.fill_ns;
  if (caps_.batched_zap) OpenSelf();
}

void PageMover::OpenSelf() {
  self_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  caps_.batched_zap = self_.valid();
}

absl::Status PageMover::Reopen(Uffd::Mode mode) {
  if (caps_.batched_zap) OpenSelf();
  SPIRITOS_ASSIGN_OR_RETURN(uffd_, Uffd::Open(mode));
  return unpinned_ == nullptr ? absl::OkStatus() : unpinned_->Reopen(uffd_);
}

MapOutcome PageMover::Fill(Vpn first, uint32_t count, const std::byte* bytes,
                           FillMode mode) noexcept {
  uint32_t done = 0;
  for (int attempt = 0; attempt < kAttempts;) {
    const Uffd::Progress progress =
        uffd_.Copy(first + PageCount(done), bytes + (size_t{done} << kPageShift), count - done,
                   mode == FillMode::kProtected, wake_);
    done += static_cast<uint32_t>(progress.bytes >> kPageShift);
    if (done == count) return {};
    if (progress.bytes != 0) continue;  // A partial copy is progress, not a failure.
    switch (progress.error) {
      case EEXIST:
        return {MapResult::kPresent, done, EEXIST};
      case ENOENT:
        // No single mapping holds the run: protections split it, or it is gone.
        if (count - done > 1) {
          MapOutcome rest = FillSingly(first + PageCount(done), count - done,
                                       bytes + (size_t{done} << kPageShift), mode);
          rest.done += done;
          return rest;
        }
        return Failed(ENOENT, done);
      case EINVAL:
      case EFAULT:
      case ESRCH:
        return Failed(progress.error, done);
      default:
        ++attempt;
        metrics_.Add(Metric::kKernelRetries);
        if (attempt == kAttempts) return Failed(progress.error, done);
        sched_yield();
    }
  }
  return Failed(EAGAIN, done);
}

MapOutcome PageMover::FillSingly(Vpn first, uint32_t count, const std::byte* bytes,
                                 FillMode mode) noexcept {
  for (uint32_t i = 0; i < count; ++i) {
    MapOutcome one = Fill(first + PageCount(i), 1, bytes + (size_t{i} << kPageShift), mode);
    if (one.result != MapResult::kOk) {
      one.done = i;
      return one;
    }
  }
  return {};
}

MapOutcome PageMover::ProtectRun(PageRun run, bool protect) noexcept {
  int error = 0;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    error = protect ? uffd_.Protect(run) : uffd_.Unprotect(run, wake_);
    if (error == 0) return {};
    if (error == ENOENT && run.count > 1) {  // Spans mappings: halve, the pieces fit one.
      const uint32_t half = run.count / 2;
      const MapOutcome low = ProtectRun({run.first, half}, protect);
      const MapOutcome high = ProtectRun({run.first + PageCount(half), run.count - half}, protect);
      if (low.result != MapResult::kOk) return low;
      return {high.result, high.done + half, high.error};
    }
    if (error == ENOENT || error == ESRCH || error == EINVAL) break;
    metrics_.Add(Metric::kKernelRetries);
    sched_yield();
  }
  return Failed(error, 0);
}

MapOutcome PageMover::Freeze(PageRun run) noexcept {
  metrics_.Add(Metric::kFreezes);
  metrics_.Add(Metric::kShootdowns);
  if (const int error = SPIRITOS_FAILPOINT(kFreeze)) return Failed(error, 0);
  return ProtectRun(run, true);
}

MapOutcome PageMover::Thaw(PageRun run) noexcept {
  metrics_.Add(Metric::kThaws);
  return ProtectRun(run, false);
}

MapOutcome PageMover::Drop(std::span<const PageRun> runs) noexcept {
  metrics_.Add(Metric::kDropRuns, runs.size());
  if (runs.size() <= 1 || !caps_.batched_zap) return DropSingly(runs, 0);
  uint32_t done = 0;
  while (!runs.empty()) {
    const auto piece = runs.first(std::min(runs.size(), kMaxPieces));
    MapOutcome outcome = DropBatch(piece);
    if (outcome.result != MapResult::kOk) {
      outcome.done += done;
      return outcome;
    }
    for (const PageRun& run : piece) done += run.count;
    runs = runs.subspan(piece.size());
  }
  return {};
}

MapOutcome PageMover::DropBatch(std::span<const PageRun> runs) noexcept {
  std::array<iovec, kMaxPieces> pieces;
  size_t total = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    pieces[i] = {runs[i].first.address(), size_t{runs[i].count} << kPageShift};
    total += pieces[i].iov_len;
  }
  const int saved_errno = errno;
  ssize_t zapped = 0;
  if (const int error = SPIRITOS_FAILPOINT(kMadvise)) {
    zapped = -1;
    errno = error;
  } else {
    zapped =
        syscall(SYS_process_madvise, self_.get(), pieces.data(), runs.size(), MADV_DONTNEED, 0);
  }
  errno = saved_errno;
  metrics_.Add(Metric::kDrops);
  metrics_.Add(Metric::kShootdowns);
  if (zapped == static_cast<ssize_t>(total)) return {};
  // Short or refused: whole runs done so far count, the rest goes run by run.
  metrics_.Add(Metric::kKernelRetries);
  uint32_t done = 0;
  size_t left = zapped > 0 ? static_cast<size_t>(zapped) : 0;
  while (!runs.empty() && left >= size_t{runs.front().count} << kPageShift) {
    left -= size_t{runs.front().count} << kPageShift;
    done += runs.front().count;
    runs = runs.subspan(1);
  }
  return DropSingly(runs, done);
}

MapOutcome PageMover::DropSingly(std::span<const PageRun> runs, uint32_t done) noexcept {
  for (const PageRun& run : runs) {
    metrics_.Add(Metric::kDrops);
    metrics_.Add(Metric::kShootdowns);
    int error = MadviseDontNeed(run);
    for (int attempt = 1; error != 0 && error != EINVAL && attempt < kAttempts; ++attempt) {
      metrics_.Add(Metric::kKernelRetries);
      sched_yield();
      error = MadviseDontNeed(run);
    }
    // Here ENOMEM does not mean memory: something in the range is not mapped.
    if (error == ENOMEM) return {MapResult::kGone, done, error};
    if (error != 0) return Failed(error, done);
    done += run.count;
  }
  return {};
}

absl::Status PageMover::CannotMove() {
  return absl::UnimplementedError(
      "memory that devices write to unseen can only be far where the kernel moves pages "
      "(UFFDIO_MOVE, Linux >= 6.8)");
}

absl::Status PageMover::AllowPins() {
  if (unpinned_ != nullptr) return absl::OkStatus();
  if (!caps_.move) return CannotMove();
  SPIRITOS_ASSIGN_OR_RETURN(unpinned_, UnpinnedDropper::Create(uffd_));
  return absl::OkStatus();
}

MapOutcome PageMover::DropUnpinned(
    std::span<const PageRun> runs,
    absl::FunctionRef<bool(Vpn, const std::byte*)> unchanged) noexcept {
  metrics_.Add(Metric::kDropRuns, runs.size());
  metrics_.Add(Metric::kDrops, runs.size());
  metrics_.Add(Metric::kShootdowns, runs.size());
  return unpinned_->Drop(uffd_, runs, unchanged);
}

bool PageMover::Present(Vpn vpn) noexcept {
  const int saved_errno = errno;
  unsigned char resident = 0;
  const bool known = mincore(vpn.address(), kPageSize, &resident) == 0;
  errno = saved_errno;
  return known && (resident & 1) != 0;
}

void PageMover::Wake(Vpn vpn) noexcept {
  if (wake_) uffd_.Wake({vpn, 1});
}

}  // namespace spiritos
