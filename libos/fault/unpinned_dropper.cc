// SPDX-License-Identifier: Apache-2.0
// The calls, with their errors as the kernel's mm/userfaultfd.c gives them.
#include "libos/fault/unpinned_dropper.h"

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "libos/base/check.h"
#include "libos/base/status.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // Linux 5.14.
#endif

namespace spiritos {
namespace {

// EAGAIN: the layout is changing, or somebody holds the page for a moment.
constexpr int kAttempts = 16;

// One errno, 0 when the page was moved.
int MovePage(Uffd& uffd, Vpn to, Vpn from, bool wake) noexcept {
  int error = 0;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    error = uffd.Move(to, from, 1, wake).error;
    if (error != EAGAIN && error != ENOMEM) break;
    sched_yield();
  }
  return error;
}

// A store that stores nothing, by the kernel: what is shared gets a frame of its own. The
// page is not protected, so it is no fault of ours.
bool Unshare(Uffd& uffd, Vpn vpn) noexcept {
  const int saved_errno = errno;
  const bool done = uffd.Unprotect({vpn, 1}, /*wake=*/false) == 0 &&
                    madvise(vpn.address(), kPageSize, MADV_POPULATE_WRITE) == 0;
  errno = saved_errno;
  return done;
}

}  // namespace

absl::StatusOr<std::unique_ptr<UnpinnedDropper>> UnpinnedDropper::Create(Uffd& uffd) {
  SPIRITOS_ASSIGN_OR_RETURN(
      Mapping places,
      Mapping::Anonymous(Bytes(uint64_t{kPlaces} * kPages * kPageSize), kPageSize, "moved pages"));
  // Page by page, as they come.
  if (madvise(places.data(), places.size().raw(), MADV_NOHUGEPAGE) != 0 && errno != EINVAL) {
    return ErrnoStatus(errno, "madvise(MADV_NOHUGEPAGE)");
  }
  SPIRITOS_RETURN_IF_ERROR(uffd.Register(places.range()));
  return std::unique_ptr<UnpinnedDropper>(new UnpinnedDropper(std::move(places)));
}

uint32_t UnpinnedDropper::TakePlace() noexcept {
  uint32_t taken = taken_.load(std::memory_order_relaxed);
  while (true) {
    const auto place = static_cast<uint32_t>(std::countr_one(taken));
    if (place >= kPlaces) {
      sched_yield();
      taken = taken_.load(std::memory_order_relaxed);
    } else if (taken_.compare_exchange_weak(taken, taken | (1u << place),
                                            std::memory_order_acquire)) {
      return place;
    }
  }
}

MapOutcome UnpinnedDropper::Drop(Uffd& uffd, std::span<const PageRun> runs,
                                 Unchanged unchanged) noexcept {
  const uint32_t place = TakePlace();
  const Vpn at = Vpn::Of(places_.data() + uint64_t{place} * kPages * kPageSize);
  bool all = true;
  for (PageRun run : runs) {
    while (run.count != 0) {
      const uint32_t count = std::min(run.count, kPages);
      all = DropRun(uffd, {run.first, count}, at, unchanged) && all;
      run = {run.first + PageCount(count), run.count - count};
    }
  }
  taken_.fetch_and(~(1u << place), std::memory_order_release);
  return all ? MapOutcome{} : MapOutcome{MapResult::kFailed, 0, EBUSY};
}

bool UnpinnedDropper::DropRun(Uffd& uffd, PageRun run, Vpn place, Unchanged unchanged) noexcept {
  Moved moved{};
  MoveOut(uffd, run, place, moved);
  bool all = true;
  for (uint32_t i = 0; i < run.count; ++i) {
    const PageCount distance(i);
    if (!moved[i]) {
      all = false;
    } else if (!unchanged(run.first + distance, (place + distance).address())) {
      MoveBack(uffd, run.first + distance, place + distance);
      all = false;
    }
  }
  const int saved_errno = errno;
  SPIRITOS_CHECK(madvise(place.address(), size_t{run.count} << kPageShift, MADV_DONTNEED) == 0,
                 "madvise(MADV_DONTNEED) on moved pages: errno {}", errno);
  errno = saved_errno;
  return all;
}

void UnpinnedDropper::MoveOut(Uffd& uffd, PageRun run, Vpn place, Moved& moved) noexcept {
  for (uint32_t i = 0; i < run.count;) {
    const Vpn from = run.first + PageCount(i);
    const Vpn to = place + PageCount(i);
    const Uffd::Progress progress = uffd.Move(to, from, run.count - i, /*wake=*/false);
    const auto done = static_cast<uint32_t>(progress.bytes >> kPageShift);
    std::fill_n(moved.begin() + i, done, true);
    i += done;
    if (i == run.count) return;
    if (done != 0) continue;
    int error = MovePage(uffd, to, from, /*wake=*/false);
    if (error == EBUSY && Unshare(uffd, from)) error = MovePage(uffd, to, from, /*wake=*/false);
    moved[i++] = error == 0;  // Else pinned, read-only, or not there.
  }
}

void UnpinnedDropper::MoveBack(Uffd& uffd, Vpn vpn, Vpn from) noexcept {
  // The place it came from is empty, and nobody may fill it meanwhile.
  if (MovePage(uffd, vpn, from, /*wake=*/true) == 0) return;
  const Uffd::Progress copied = uffd.Copy(vpn, from.address(), 1, /*protect=*/false, /*wake=*/true);
  SPIRITOS_CHECK(copied.bytes == kPageSize,
                 "page {:#x} was written to by a device and cannot be put back: errno {}",
                 vpn.raw() << kPageShift, copied.error);
}

}  // namespace spiritos
