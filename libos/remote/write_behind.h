// SPDX-License-Identifier: Apache-2.0
// WriteBehind: writes to a file that nobody waits for, in the order they were queued.
//
//   Append --> | queued ..... | in flight .. | --in order--> written()
//              ^ appended_    ^ issued_      ^ written_
//              '---- a ring of near pages ---'
//
// Of each write a copy is taken if the ring has room for it. If not, it is written from
// where it is, and its bytes must stay until it has been: so a file that does not keep up
// slows its writers down to what it does, and takes no more memory than the ring.
//
// Two writes of one slot never are in flight together: the later one waits. A slab is
// given back to the file by an entry of the same queue, behind all writes of it. What is
// written fails without an end to the queue: the sink is told.
//
// A thread of its own submits, waits and gives room back. Context: signal, but for Start()
// and Stop().
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <thread>

#include "absl/status/status.h"
#include "libos/base/lock.h"
#include "libos/base/pinned_arena.h"
#include "libos/remote/file_backend.h"

namespace spiritos {

class WriteBehind {
 public:
  // Who is told, by the thread, of a write that has failed.
  class Sink {
   public:
    virtual void OnFailed(SlotId first, int error) noexcept = 0;

   protected:
    ~Sink() = default;
  };
  // A write queued; its owner's, who keeps it until written() if it is not `copied`.
  struct Ticket {
    uint64_t sequence = 0;
    bool copied = false;
    std::atomic<int> error{0};  // Unless copied: an errno, once written.
  };

  WriteBehind(FileBackend& file, Sink& sink) : file_(file), sink_(sink) {}
  ~WriteBehind() { Stop(); }
  WriteBehind(const WriteBehind&) = delete;
  WriteBehind& operator=(const WriteBehind&) = delete;

  // `buffer`: what copies may take.
  absl::Status Start(Bytes buffer);
  // What is queued is not written any more. REQUIRES: nobody waits for it.
  void Stop();

  enum class Copy { kIfRoom, kNever };
  // False when the queue is full: see AwaitRoom().
  [[nodiscard]] bool Append(SlotId first, uint32_t pages, const std::byte* memory, Copy copy,
                            Ticket* ticket) noexcept;
  // Gives a slab back to the file when what is queued for it is written.
  void Release(SlotId first) noexcept;
  // Whether any release was still to come: it has by the return.
  bool AwaitReleases() noexcept;

  bool has_room() const noexcept {
    const uint64_t written = written_.load();  // First: what is appended is never behind it.
    return appended_.load() - written < kEntries;
  }
  void AwaitRoom() noexcept;
  // All before this one are done with.
  uint64_t written() const noexcept { return written_.load(std::memory_order_acquire); }
  bool IsWritten(uint64_t sequence) const noexcept { return written() > sequence; }
  void Await(uint64_t sequence) noexcept;

  // The newest bytes of `slot`, if its last write is still in the queue. If not: how many
  // of the `*pages` slots from there on are in the file alone.
  bool Read(SlotId slot, uint32_t* pages, std::byte* to) noexcept;

  uint64_t pages_behind() const noexcept { return behind_.load(std::memory_order_relaxed); }

 private:
  struct Entry {
    uint64_t first = 0;
    uint32_t pages = 0;  // 0 = the slab's release.
    uint32_t room = 0;   // Pages of the ring, with those left out at its end.
    const std::byte* memory = nullptr;
    Ticket* ticket = nullptr;  // Unless copied.
    std::atomic<bool> ready{false};
    std::atomic<uint32_t> readers{0};  // Changed under the lock, but for the way down.
    IoRequest request;

    bool Covers(uint64_t slot) const { return slot - first < pages; }
    bool Overlaps(const Entry& other) const {
      return first < other.first + other.pages && other.first < first + pages;
    }
  };
  static constexpr uint32_t kEntries = 512;
  // Enough for a disk to have work, and few to look through for a write's forerunner.
  static constexpr uint32_t kDepth = 32;

  Entry& At(uint64_t sequence) { return entries_[sequence % kEntries]; }
  std::byte* TakeRoomLocked(uint32_t pages, uint32_t* room) noexcept
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Kick() noexcept;
  void Run();
  bool IssueNext() noexcept;
  void RetireOldest() noexcept;

  FileBackend& file_;
  Sink& sink_;
  PinnedArena arena_;
  std::byte* ring_ = nullptr;
  uint64_t ring_pages_ = 0;
  Entry* entries_ = nullptr;

  SpinLock lock_{LockRank::kBackup};
  uint64_t ring_begin_ ABSL_GUARDED_BY(lock_) = 0;  // Pages counted on and on.
  uint64_t ring_end_ ABSL_GUARDED_BY(lock_) = 0;
  // Changed under the lock, each by one side.
  std::atomic<uint64_t> appended_{0};
  std::atomic<uint64_t> written_{0};
  uint64_t issued_ = 0;                   // The thread's.
  std::atomic<uint64_t> release_end_{0};  // One past the last release.
  std::atomic<uint64_t> behind_{0};

  std::atomic<uint32_t> kicks_{0};
  std::atomic<bool> asleep_{false};
  std::atomic<bool> stop_{false};
  std::atomic<uint32_t> turn_{0};  // Bumped when an entry is written.
  std::atomic<uint32_t> sleepers_{0};
  std::thread thread_;
};

}  // namespace spiritos
