// SPDX-License-Identifier: Apache-2.0
// Mapping calls on far memory, dormant and awake.
#include "runtime/shim/far_map.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "libos/base/log.h"
#include "runtime/shim/kernel.h"

namespace spiritos::shim {
namespace {

int ErrnoOf(const absl::Status& status) {
  if (status.ok()) return 0;
  if (absl::IsInvalidArgument(status)) return EINVAL;
  if (absl::IsFailedPrecondition(status)) return EBUSY;
  return ENOMEM;
}

// What can be written can be read, for the kernel too (x86-64).
int Usable(int protection) {
  return (protection & PROT_WRITE) != 0 ? PROT_READ | PROT_WRITE : protection;
}

// Of madvise(2), Linux 6.13.
constexpr int kGuardInstall = 102;
constexpr int kGuardRemove = 103;

AddressRange Between(std::byte* begin, std::byte* end) {
  return {begin, Bytes(static_cast<uint64_t>(end - begin))};
}

}  // namespace

FarMap::FarMap(const Settings& settings)
    : settings_(settings), budget_(settings.space.budget.raw()) {}

FarMap::Pieces::iterator FarMap::SplitAt(std::byte* at) {
  auto after = pieces_.upper_bound(at);
  if (after == pieces_.begin()) return after;
  auto piece = std::prev(after);
  if (piece->first == at) return piece;
  if (piece->second.end <= at) return after;
  const Piece rest = piece->second;
  piece->second.end = at;
  return pieces_.emplace_hint(after, at, rest);
}

template <typename Visit>
int FarMap::ForEachPart(AddressRange range, Visit&& visit) {
  int error = 0;
  std::byte* at = range.begin;
  while (at < range.end()) {
    SplitAt(at);  // Each time: `visit` may change the books of what it has seen.
    SplitAt(range.end());
    const auto next = pieces_.lower_bound(at);
    const bool far = next != pieces_.end() && next->first == at;
    std::byte* end = range.end();
    if (next != pieces_.end()) end = std::min(end, far ? next->second.end : next->first);
    error = visit(Between(at, end), far ? &next->second : nullptr);
    if (error != 0) break;
    at = end;
  }
  Join(range);
  return error;
}

void FarMap::Join(AddressRange range) {
  auto piece = pieces_.lower_bound(range.begin);
  if (piece != pieces_.begin()) --piece;
  while (piece != pieces_.end() && piece->first < range.end()) {
    const auto next = std::next(piece);
    const bool joins = next != pieces_.end() && piece->second.end == next->first &&
                       piece->second.IsLike(next->second);
    if (!joins) {
      piece = next;
      continue;
    }
    piece->second.end = next->second.end;
    pieces_.erase(next);
  }
}

void FarMap::Forget(AddressRange range) {
  const auto first = SplitAt(range.begin);
  const auto last = SplitAt(range.end());
  for (auto piece = first; piece != last; ++piece) {
    const auto size = static_cast<uint64_t>(piece->second.end - piece->first);
    dormant_.fetch_sub(size * piece->second.counts(), std::memory_order_relaxed);
  }
  pieces_.erase(first, last);
}

void FarMap::Note(AddressRange range, int protection, bool awake, bool kept) {
  Forget(range);
  const auto piece =
      pieces_.emplace(range.begin, Piece{range.end(), protection, awake, kept}).first;
  dormant_.fetch_add(range.size.raw() * piece->second.counts(), std::memory_order_relaxed);
  Join(range);
  const auto begin = reinterpret_cast<uintptr_t>(range.begin);
  const auto end = reinterpret_cast<uintptr_t>(range.end());
  hull_begin_.store(std::min(hull_begin_.load(std::memory_order_relaxed), begin),
                    std::memory_order_relaxed);
  hull_end_.store(std::max(hull_end_.load(std::memory_order_relaxed), end),
                  std::memory_order_relaxed);
}

// A space adopts what can be read, as it has to hash it; nobody else reads what was
// PROT_NONE before and will be so again.
absl::Status FarMap::Adopt(AddressRange range, int protection) {
  if (protection != PROT_NONE) return owned_->Adopt(range);
  if (kernel::Protect(range.begin, range.size.raw(), PROT_READ) != 0) {
    return absl::ResourceExhaustedError("mprotect on reserved memory");
  }
  if (absl::Status status = owned_->Adopt(range); !status.ok()) {
    kernel::Protect(range.begin, range.size.raw(), PROT_NONE);
    return status;
  }
  return owned_->Protect(range, PROT_NONE);
}

int FarMap::Keep(AddressRange part, const Piece& piece) {
  if (piece.kept) return 0;
  if (const absl::Status status = owned_->Pin(part); !status.ok()) {
    TellOfRefusal(status);
    return ENOMEM;
  }
  Note(part, piece.protection, true, true);
  return 0;
}

void FarMap::LetGo(AddressRange part, const Piece& piece) {
  if (!piece.kept) return;
  owned_->Unpin(part);
  Note(part, piece.protection, true);
}

bool FarMap::MayPin(const char* call) noexcept {
  LockGuard guard(mutex_);
  if (unseen_pins_) return true;
  const absl::Status status =
      owned_ != nullptr ? owned_->AllowUnseenPins() : Space::CheckUnseenPins(settings_.space);
  if (!status.ok()) {
    const std::string reason = fmt::format("{}: {}", call, std::string(status.message()));
    if (!settings_.allow_unseen_pins) {
      TellOfRefusal(
          absl::UnimplementedError(reason + "; refused (--allow-unseen-pins takes the risk)"));
      return false;
    }
    LogWarning(reason + "; what devices store there may be lost");
  }
  unseen_pins_ = true;
  return true;
}

bool FarMap::IsWritable(AddressRange range) noexcept {
  LockGuard guard(mutex_);
  bool far = false;
  const int error = ForEachPart(range, [&](AddressRange, const Piece* piece) {
    far = far || piece != nullptr;
    return piece != nullptr && (piece->protection & PROT_WRITE) == 0 ? EFAULT : 0;
  });
  return far && error == 0;
}

void FarMap::BeforeFork() {
  mutex_.lock();
  if (owned_ == nullptr || owned_->BeforeFork() || std::exchange(told_of_fork_, true)) return;
  LogWarning(
      "fork: with this pool, memory that is far is not there in the child; it may only exec");
}

void FarMap::AfterForkInParent() {
  if (owned_ != nullptr) owned_->AfterForkInParent();
  mutex_.unlock();
}

void FarMap::AfterForkInChild() {
  if (owned_ != nullptr) owned_->AfterForkInChild();
  mutex_.unlock();
}

void FarMap::TellOfRefusal(const absl::Status& status) {
  if (refusals_ == kMostRefusalsTold) return;
  LogWarning(status.ToString());
  if (++refusals_ == kMostRefusalsTold) LogWarning("no more is said of calls that are refused");
}

bool FarMap::MakeRoom(uint64_t size) {
  return owned_ != nullptr || dormant().raw() + size <= budget().raw() / 4 * 3 || Wake();
}

absl::Status FarMap::SetBudget(Bytes budget) noexcept {
  {
    LockGuard guard(mutex_);
    budget_.store(budget.raw(), std::memory_order_relaxed);
    if (owned_ == nullptr) {
      MakeRoom(0);
      return absl::OkStatus();
    }
  }
  // It takes its time, and the program's calls need not wait for it.
  return space()->SetBudget(budget);
}

bool FarMap::Wake() {
  if (failed_) return false;
  Options options = settings_.space;
  options.budget = budget();
  absl::StatusOr<std::unique_ptr<Space>> space = Space::Create(options);
  absl::Status status = space.status();
  if (status.ok()) {
    owned_ = *std::move(space);
    if (unseen_pins_) status = owned_->AllowUnseenPins();
    if (!status.ok() && settings_.allow_unseen_pins) {
      LogWarning(std::string(status.message()) + "; what devices store may be lost");
      status = absl::OkStatus();
    }
    space_.store(owned_.get(), std::memory_order_release);
    for (auto piece = pieces_.begin(); piece != pieces_.end() && status.ok(); ++piece) {
      const AddressRange range = Between(piece->first, piece->second.end);
      status = Adopt(range, piece->second.protection);
      if (!status.ok()) break;
      dormant_.fetch_sub(range.size.raw() * piece->second.counts(), std::memory_order_relaxed);
      piece->second.awake = true;
    }
  }
  if (status.ok()) return true;
  failed_ = true;  // What is awake by now stays so.
  LogWarning(fmt::format("this program outgrows its local memory of {} MiB and has no other: {}",
                         budget().raw() >> 20, status.ToString()));
  return false;
}

bool FarMap::AddLocked(AddressRange range, int protection) {
  if (protection != PROT_NONE && !MakeRoom(range.size.raw())) return false;
  if (owned_ == nullptr) {
    Note(range, protection, false);
    return true;
  }
  if (const absl::Status status = Adopt(range, protection); !status.ok()) {
    TellOfRefusal(status);
    return false;
  }
  Note(range, protection, true);
  return true;
}

bool FarMap::Add(AddressRange range) noexcept {
  LockGuard guard(mutex_);
  return AddLocked(range, PROT_READ | PROT_WRITE);
}

void* FarMap::Map(void* hint, size_t size, int protection, int flags) noexcept {
  LockGuard guard(mutex_);
  void* const at = kernel::Map(hint, size, protection, flags, -1, 0);
  if (at == MAP_FAILED) return at;
  if (AddLocked({static_cast<std::byte*>(at), Bytes(size)}, protection)) return at;
  kernel::Unmap(at, size);
  errno = ENOMEM;
  return MAP_FAILED;
}

void* FarMap::Replace(AddressRange range, int protection, int flags, int file,
                      off_t offset) noexcept {
  LockGuard guard(mutex_);
  constexpr int kFresh = MAP_PRIVATE | MAP_ANONYMOUS;
  const bool stays_far = (flags & (kFresh | MAP_LOCKED | MAP_HUGETLB | MAP_GROWSDOWN)) == kFresh &&
                         (protection & PROT_EXEC) == 0;
  const int error = ForEachPart(range, [&](AddressRange part, const Piece* piece) {
    if (piece != nullptr && piece->awake) {
      LetGo(part, *piece);
      if (!stays_far) return ErrnoOf(owned_->Unmap(part));
      if (const int failed = ErrnoOf(owned_->Discard(part)); failed != 0) return failed;
      return ErrnoOf(owned_->Protect(part, Usable(protection)));
    }
    if (!stays_far) return 0;
    void* const at = kernel::Map(part.begin, part.size.raw(), protection, flags, -1, 0);
    return at == MAP_FAILED ? errno : 0;
  });
  if (error != 0) {
    errno = error;
    return MAP_FAILED;
  }
  if (stays_far) {
    ForEachPart(range, [&](AddressRange part, const Piece* piece) {
      if (piece != nullptr) Note(part, Usable(protection), piece->awake);
      return 0;
    });
    return range.begin;
  }
  Forget(range);
  return kernel::Map(range.begin, range.size.raw(), protection, flags, file, offset);
}

int FarMap::UnmapLocked(AddressRange range) {
  const int error = ForEachPart(range, [&](AddressRange part, const Piece* piece) {
    if (piece != nullptr && piece->awake) {
      LetGo(part, *piece);
      return ErrnoOf(owned_->Unmap(part));
    }
    return kernel::Unmap(part.begin, part.size.raw()) == 0 ? 0 : errno;
  });
  if (error == 0) Forget(range);
  return error;
}

int FarMap::Unmap(AddressRange range) noexcept {
  LockGuard guard(mutex_);
  return UnmapLocked(range);
}

int FarMap::Protect(AddressRange range, int protection) noexcept {
  LockGuard guard(mutex_);
  // Reserved memory that becomes usable counts from now on.
  uint64_t more = 0;
  ForEachPart(range, [&](AddressRange part, const Piece* piece) {
    if (piece != nullptr && !piece->awake && piece->protection == PROT_NONE)
      more += part.size.raw();
    return 0;
  });
  if (more != 0 && protection != PROT_NONE && !MakeRoom(more)) return ENOMEM;
  const bool executable = (protection & ~(PROT_READ | PROT_WRITE)) != 0;
  return ForEachPart(range, [&](AddressRange part, const Piece* piece) {
    if (piece == nullptr || !piece->awake) {
      if (kernel::Protect(part.begin, part.size.raw(), protection) != 0) return errno;
      if (piece == nullptr) return 0;
      // Code stays here: before there is a space it is simply not far.
      executable ? Forget(part) : Note(part, protection, false);
      return 0;
    }
    const Piece before = *piece;
    if (executable) {
      // What can be run can be read, and stays.
      if (before.protection == PROT_NONE) {
        if (const int error = ErrnoOf(owned_->Protect(part, PROT_READ)); error != 0) return error;
      }
      if (const int error = Keep(part, before); error != 0) return error;
      Note(part, protection, true, true);
      return kernel::Protect(part.begin, part.size.raw(), protection) == 0 ? 0 : errno;
    }
    const bool locked = before.kept && (before.protection & PROT_EXEC) == 0;
    const bool stays = locked && protection != PROT_NONE;
    if (!stays) LetGo(part, before);
    const int error = ErrnoOf(owned_->Protect(part, Usable(protection)));
    if (error == 0) Note(part, Usable(protection), true, stays);
    return error;
  });
}

int FarMap::Advise(AddressRange range, int advice) noexcept {
  LockGuard guard(mutex_);
  return ForEachPart(range, [&](AddressRange part, const Piece* piece) {
    // Page tables are not where all of far memory is: what is kept there alone would not
    // hold for it. Kernels before 6.13 have no guards, so programs go on without.
    if (piece != nullptr && (advice == kGuardInstall || advice == kGuardRemove)) return EINVAL;
    if (piece == nullptr || !piece->awake) {
      if (kernel::Advise(part.begin, part.size.raw(), advice) != 0) return errno;
      if (piece != nullptr && advice == MADV_WIPEONFORK) Forget(part);  // It stays near.
      return 0;
    }
    switch (advice) {
      case MADV_DONTNEED:
      case MADV_DONTNEED_LOCKED:
      case MADV_FREE: {
        const Piece before = *piece;
        const bool locked = before.kept && (before.protection & PROT_EXEC) == 0;
        if (locked && advice != MADV_DONTNEED_LOCKED) return EINVAL;
        LetGo(part, before);
        const int error = ErrnoOf(owned_->Discard(part));
        return error == 0 && before.kept ? Keep(part, Piece{nullptr, before.protection, true})
                                         : error;
      }
      case MADV_WIPEONFORK:
        return EINVAL;  // As of memory that is shared.
      case MADV_WILLNEED:
        return ErrnoOf(owned_->Prefetch(part));
      case MADV_COLD:
      case MADV_PAGEOUT:
        return ErrnoOf(owned_->Evict(part));
      case MADV_HUGEPAGE:
      case MADV_NOHUGEPAGE:
      case MADV_MERGEABLE:
      case MADV_UNMERGEABLE:
      case MADV_DOFORK:
      case MADV_DONTFORK:
        return 0;  // Not for memory that comes and goes by pages.
      default:
        return kernel::Advise(part.begin, part.size.raw(), advice) == 0 ? 0 : errno;
    }
  });
}

int FarMap::Lock(AddressRange range, unsigned flags) noexcept {
  LockGuard guard(mutex_);
  return ForEachPart(range, [&](AddressRange part, const Piece* piece) {
    if (piece != nullptr && piece->awake) return Keep(part, *piece);
    if (kernel::Lock(part.begin, part.size.raw(), flags) != 0) return errno;
    if (piece != nullptr) Forget(part);
    return 0;
  });
}

int FarMap::Unlock(AddressRange range) noexcept {
  LockGuard guard(mutex_);
  return ForEachPart(range, [&](AddressRange part, const Piece* piece) {
    if (piece == nullptr || !piece->awake) {
      return kernel::Unlock(part.begin, part.size.raw()) == 0 ? 0 : errno;
    }
    if ((piece->protection & PROT_EXEC) == 0) LetGo(part, *piece);
    return 0;
  });
}

void* FarMap::CopyElsewhere(AddressRange from, size_t size, int protection) {
  void* const at = kernel::Map(nullptr, size, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) return at;
  const AddressRange to{static_cast<std::byte*>(at), Bytes(size)};
  if (!AddLocked(to, PROT_READ | PROT_WRITE)) {
    kernel::Unmap(at, size);
    errno = ENOMEM;
    return MAP_FAILED;
  }
  // No store may come between the copy and the end of the old pages.
  absl::Status status = owned_->Protect(from, PROT_READ);
  if (status.ok()) {
    std::memcpy(at, from.begin, std::min(size, from.size.raw()));
    if (protection != (PROT_READ | PROT_WRITE)) status = owned_->Protect(to, protection);
  }
  if (!status.ok()) {
    TellOfRefusal(status);
    owned_->Protect(from, protection).IgnoreError();  // As it was; else a store says so.
    UnmapLocked(to);
    errno = ENOMEM;
    return MAP_FAILED;
  }
  Note(to, protection, true);
  // The copy stands: what stays behind costs memory, not bytes.
  if (const int error = UnmapLocked(from); error != 0) {
    TellOfRefusal(absl::InternalError(fmt::format("munmap after mremap: errno {}", error)));
  }
  return at;
}

void* FarMap::RemapLocked(AddressRange from, size_t size, int flags, void* to) {
  if (size < from.size.raw() && (flags & ~MREMAP_MAYMOVE) == 0) {
    if (const int error = UnmapLocked(Between(from.begin + size, from.end())); error != 0) {
      errno = error;
      return MAP_FAILED;
    }
    from.size = Bytes(size);
  }
  const auto at = SplitAt(from.begin);
  const bool far = at != pieces_.end() && at->first == from.begin;
  const Piece piece = far ? at->second : Piece{};
  const uint64_t more = size - std::min<uint64_t>(size, from.size.raw());
  if (far && piece.counts() != 0 && more != 0 && !MakeRoom(more)) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  if (far && SplitAt(from.begin)->second.awake) {
    void* const moved = RemapAwake(from, size, flags);
    Join(from);
    return moved;
  }
  if ((flags & MREMAP_FIXED) != 0) {
    // What was far there is gone, as the rest will be.
    const AddressRange target{static_cast<std::byte*>(to), Bytes(size)};
    if (const int error = UnmapLocked(target); error != 0) {
      errno = error;
      return MAP_FAILED;
    }
  }
  void* const moved = kernel::Remap(from.begin, from.size.raw(), size, flags, to);
  if (moved == MAP_FAILED || !far) return moved;
  if ((flags & MREMAP_DONTUNMAP) == 0) Forget(from);
  Note({static_cast<std::byte*>(moved), Bytes(size)}, piece.protection, false);
  return moved;
}

void* FarMap::RemapAwake(AddressRange from, size_t size, int flags) {
  const auto fail = [](int error) {
    errno = error;
    return MAP_FAILED;
  };
  if ((flags & ~MREMAP_MAYMOVE) != 0) return fail(EINVAL);
  const Piece piece = SplitAt(from.begin)->second;
  if (piece.end < from.end()) return fail(EFAULT);
  if (size == from.size.raw()) return from.begin;
  if (piece.kept) return fail(ENOMEM);
  // In place, where nothing is behind it.
  const AddressRange more = Between(from.end(), from.begin + size);
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  void* const at = kernel::Map(more.begin, more.size.raw(), piece.protection, kFlags, -1, 0);
  if (at == more.begin) {
    if (AddLocked(more, piece.protection)) return from.begin;
    kernel::Unmap(at, more.size.raw());
    return fail(ENOMEM);
  }
  return (flags & MREMAP_MAYMOVE) != 0 ? CopyElsewhere(from, size, piece.protection) : fail(ENOMEM);
}

void* FarMap::Remap(AddressRange from, size_t size, int flags, void* to) noexcept {
  LockGuard guard(mutex_);
  return RemapLocked(from, size, flags, to);
}

}  // namespace spiritos::shim
