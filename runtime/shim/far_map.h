// SPDX-License-Identifier: Apache-2.0
// FarMap: which memory of an unmodified program may be far, and what became of it.
//
//   mapped --> dormant --all of it, when there is more than `wake_above`--> awake
//
//   dormant  plain kernel memory, zero-fill and huge pages and all: a program that fits
//            its budget pays nothing
//   awake    regions of a Space, made at that moment; what is mapped later is one at once
//
// The mapping calls of the program that meet far memory come here and keep Linux's
// meaning. What must not move stays near: memory that becomes executable or is locked.
//
// Threads: any; calls that change mappings wait for each other, as in the kernel.
// Errors: errno values, 0 is success. Context: any; the caller is in a NearScope.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cstddef>
#include <map>
#include <memory>

#include "absl/status/status.h"
#include "libos/base/lock.h"
#include "libos/base/units.h"
#include "libos/space.h"

namespace spiritos::shim {

class FarMap {
 public:
  struct Settings {
    Options space;                   // The budget is the first one.
    bool allow_unseen_pins = false;  // Even where the kernel cannot tell them.
  };
  explicit FarMap(const Settings& settings);

  // The hull of all far memory there ever was: what lies outside is not ours.
  bool MayHold(const void* address, size_t size) const noexcept {
    const auto begin = reinterpret_cast<uintptr_t>(address);
    return begin < hull_end_.load(std::memory_order_relaxed) &&
           begin + size > hull_begin_.load(std::memory_order_relaxed);
  }

  // mmap(2) of fresh private anonymous memory, near `at` if that is free; MAP_FAILED and
  // errno.
  void* Map(void* at, size_t size, int protection, int flags) noexcept;
  // mmap(2) with MAP_FIXED. What was far and gets fresh memory stays far.
  void* Replace(AddressRange range, int protection, int flags, int file, off_t offset) noexcept;
  // Memory that is mapped, readable and writable, is far from now on. False when it
  // cannot be: the pool is full, or not there.
  [[nodiscard]] bool Add(AddressRange range) noexcept;

  // The system calls of the same names; ranges are whole pages, parts may be near.
  int Unmap(AddressRange range) noexcept;
  int Protect(AddressRange range, int protection) noexcept;
  int Advise(AddressRange range, int advice) noexcept;
  // mremap(2); MAP_FAILED and errno.
  void* Remap(AddressRange from, size_t size, int flags, void* to) noexcept;
  // mlock2(2), munlock(2): what is locked while dormant is never far. What is awake comes in
  // at once even where the program would have it come as it is touched.
  int Lock(AddressRange range, unsigned flags) noexcept;
  int Unlock(AddressRange range) noexcept;

  // Whether `call`, with which the kernel may pin memory unseen, may be made. Once it was,
  // pages that are pinned stay (Space::AllowUnseenPins).
  bool MayPin(const char* call) noexcept;
  // Some of it is far, and all that is can be written.
  bool IsWritable(AddressRange range) noexcept;

  // From now on; a process that has more than three quarters of it mapped wakes.
  absl::Status SetBudget(Bytes budget) noexcept;
  Bytes budget() const { return Bytes(budget_.load(std::memory_order_relaxed)); }

  // Around fork(2): nobody is in the middle of a call, and the child has what is far as well.
  void BeforeFork() ABSL_NO_THREAD_SAFETY_ANALYSIS;
  void AfterForkInParent() ABSL_NO_THREAD_SAFETY_ANALYSIS;
  void AfterForkInChild() ABSL_NO_THREAD_SAFETY_ANALYSIS;

  // Null while dormant.
  Space* space() const { return space_.load(std::memory_order_acquire); }
  // Mapped, readable and not yet awake.
  Bytes dormant() const { return Bytes(dormant_.load(std::memory_order_relaxed)); }

 private:
  // Far memory of one kind.
  struct Piece {
    std::byte* end = nullptr;
    int protection = 0;
    bool awake = false;
    bool kept = false;  // Pinned: executable, or locked.

    bool IsLike(const Piece& other) const {
      return protection == other.protection && awake == other.awake && kept == other.kept;
    }
    uint64_t counts() const { return !awake && protection != PROT_NONE; }
  };
  using Pieces = std::map<std::byte*, Piece>;

  // Calls visit(range, piece) for each far part of `range` and each near one between
  // (piece null), in order, until one returns an errno.
  template <typename Visit>
  int ForEachPart(AddressRange range, Visit&& visit) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int UnmapLocked(AddressRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool AddLocked(AddressRange range, int protection) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void* RemapLocked(AddressRange from, size_t size, int flags, void* to)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // REQUIRES: it does not shrink.
  void* RemapAwake(AddressRange from, size_t size, int flags) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // By copying: where the pages themselves cannot move.
  void* CopyElsewhere(AddressRange from, size_t size, int protection)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The range is no longer far, or never was: books only.
  void Forget(AddressRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Note(AddressRange range, int protection, bool awake, bool kept = false)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Awake memory is here for good, or no longer.
  int Keep(AddressRange part, const Piece& piece) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LetGo(AddressRange part, const Piece& piece) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A call of the program's fails for want of memory. Programs try again.
  void TellOfRefusal(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static constexpr uint32_t kMostRefusalsTold = 16;
  // Neighbours in and at the range that are alike become one.
  void Join(AddressRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The piece that begins there, split off if need be, or the first after.
  Pieces::iterator SplitAt(std::byte* at) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether so much more may be dormant; if not, there is a space afterwards, or it says
  // why there cannot be one.
  bool MakeRoom(uint64_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes the space and all far memory its regions.
  bool Wake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Adopt(AddressRange range, int protection) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Settings settings_;
  RankedMutex mutex_{LockRank::kFarMap};
  Pieces pieces_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Space> owned_ ABSL_GUARDED_BY(mutex_);
  bool failed_ ABSL_GUARDED_BY(mutex_) = false;  // To wake: it is not tried again.
  uint32_t refusals_ ABSL_GUARDED_BY(mutex_) = 0;
  bool unseen_pins_ ABSL_GUARDED_BY(mutex_) = false;
  bool told_of_fork_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<Space*> space_{nullptr};
  std::atomic<uint64_t> dormant_{0};
  std::atomic<uint64_t> budget_;
  std::atomic<uintptr_t> hull_begin_{UINTPTR_MAX};
  std::atomic<uintptr_t> hull_end_{0};
};

}  // namespace spiritos::shim
