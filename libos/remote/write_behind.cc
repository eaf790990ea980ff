// SPDX-License-Identifier: Apache-2.0
// The queue's two ends, its ring of copies, and the thread between them.
#include "libos/remote/write_behind.h"

#include <sched.h>

#include <algorithm>
#include <cstring>

#include "libos/base/copy.h"
#include "libos/base/failpoint.h"
#include "libos/base/parker.h"
#include "libos/base/service_thread.h"

namespace spiritos {

absl::Status WriteBehind::Start(Bytes buffer) {
  ring_pages_ = static_cast<uint64_t>(PagesFor(buffer).raw());
  ring_ = static_cast<std::byte*>(arena_.Allocate(ring_pages_ << kPageShift, kPageSize));
  entries_ = arena_.NewArray<Entry>(kEntries);
  if (ring_ == nullptr || entries_ == nullptr) {
    return absl::ResourceExhaustedError(fmt::format(
        "no memory for a backup's buffers of {} bytes (SPIRITOS_BACKUP_BUFFER)", buffer.raw()));
  }
  thread_ = StartServiceThread("spiritos-backup", [this] { Run(); });
  return absl::OkStatus();
}

void WriteBehind::Stop() {
  if (!thread_.joinable()) return;
  stop_.store(true, std::memory_order_release);
  Kick();
  thread_.join();
}

// Room in one piece, as the ring's end is none to a write. Null when there is none.
std::byte* WriteBehind::TakeRoomLocked(uint32_t pages, uint32_t* room) noexcept {
  if (ring_begin_ == ring_end_) ring_begin_ = ring_end_ = 0;  // All of it is one piece.
  const uint64_t at = ring_end_ % ring_pages_;
  const uint64_t left_out = at + pages > ring_pages_ ? ring_pages_ - at : 0;
  if (pages > ring_pages_ || ring_end_ + left_out + pages - ring_begin_ > ring_pages_) {
    return nullptr;
  }
  *room = static_cast<uint32_t>(left_out) + pages;
  ring_end_ += *room;
  return ring_ + ((left_out == 0 ? at : 0) << kPageShift);
}

bool WriteBehind::Append(SlotId first, uint32_t pages, const std::byte* memory, Copy copy,
                         Ticket* ticket) noexcept {
  Entry* entry;
  std::byte* to = nullptr;
  {
    LockGuard guard(lock_);
    if (!has_room()) return false;
    ticket->sequence = appended_.load(std::memory_order_relaxed);
    entry = &At(ticket->sequence);
    entry->first = first.raw();
    entry->pages = pages;
    entry->room = 0;
    if (copy == Copy::kIfRoom) to = TakeRoomLocked(pages, &entry->room);
    entry->memory = to != nullptr ? to : memory;
    entry->ticket = to != nullptr ? nullptr : ticket;
    entry->ready.store(false, std::memory_order_relaxed);
    appended_.store(ticket->sequence + 1);  // Release: the thread looks at it.
  }
  ticket->copied = to != nullptr;
  ticket->error.store(0, std::memory_order_relaxed);
  behind_.fetch_add(pages, std::memory_order_relaxed);
  if (to != nullptr) CopyWhileStored(to, memory, size_t{pages} << kPageShift);
  entry->ready.store(true, std::memory_order_release);  // Publishes the copy.
  Kick();
  return true;
}

void WriteBehind::Release(SlotId first) noexcept {
  while (true) {
    {
      LockGuard guard(lock_);
      if (has_room()) {
        const uint64_t sequence = appended_.load(std::memory_order_relaxed);
        Entry& entry = At(sequence);
        entry.first = first.raw();
        entry.pages = entry.room = 0;
        entry.ready.store(true, std::memory_order_relaxed);
        release_end_.store(sequence + 1, std::memory_order_relaxed);
        appended_.store(sequence + 1);
        break;
      }
    }
    AwaitRoom();
  }
  Kick();
}

bool WriteBehind::AwaitReleases() noexcept {
  const uint64_t end = release_end_.load(std::memory_order_relaxed);
  if (end <= written()) return false;
  Await(end - 1);
  return true;
}

// Without room the oldest entry is there, and is written some time.
void WriteBehind::AwaitRoom() noexcept {
  const uint64_t oldest = written();
  if (appended_.load() - oldest >= kEntries) Await(oldest);
}

void WriteBehind::Await(uint64_t sequence) noexcept {
  while (!IsWritten(sequence)) {
    const uint32_t turn = turn_.load(std::memory_order_acquire);
    // Sequentially consistent: RetireOldest() moves written_, then loads `sleepers_`.
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    if (written_.load(std::memory_order_seq_cst) <= sequence) FutexWait(turn_, turn);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }
}

bool WriteBehind::Read(SlotId slot, uint32_t* pages, std::byte* to) noexcept {
  Entry* newest = nullptr;
  {
    LockGuard guard(lock_);
    for (uint64_t s = written_.load(); s != appended_.load(); ++s) {
      Entry& entry = At(s);
      if (entry.Covers(slot.raw())) {
        newest = &entry;
      } else if (entry.pages != 0 && entry.first > slot.raw()) {
        *pages = static_cast<uint32_t>(std::min<uint64_t>(*pages, entry.first - slot.raw()));
      }
    }
    if (newest == nullptr) return false;
    newest->readers.fetch_add(1, std::memory_order_relaxed);
  }
  std::memcpy(to, newest->memory + ((slot.raw() - newest->first) << kPageShift), kPageSize);
  // Release: the thread gives the room away only after the bytes were read.
  if (newest->readers.fetch_sub(1, std::memory_order_release) == 1) {
    FutexWake(newest->readers, 1);
  }
  return true;
}

void WriteBehind::Kick() noexcept {
  // Sequentially consistent: kicks_ changes before asleep_ is read; Run() does the reverse.
  kicks_.fetch_add(1, std::memory_order_seq_cst);
  if (asleep_.load(std::memory_order_seq_cst)) FutexWake(kicks_, 1);
}

void WriteBehind::Run() {
  while (true) {
    // Before all that kicks announce.
    const uint32_t kicks = kicks_.load(std::memory_order_seq_cst);
    if (stop_.load(std::memory_order_acquire)) break;
    while (IssueNext()) {
    }
    if (issued_ != written()) {
      RetireOldest();
      continue;
    }
    asleep_.store(true, std::memory_order_seq_cst);
    FutexWait(kicks_, kicks);
    asleep_.store(false, std::memory_order_relaxed);
  }
  while (issued_ != written()) RetireOldest();
}

bool WriteBehind::IssueNext() noexcept {
  const uint64_t oldest = written();
  if (issued_ == appended_.load() || issued_ - oldest == kDepth) return false;
  Entry& entry = At(issued_);
  if (!entry.ready.load(std::memory_order_acquire)) return false;  // Whoever copies will kick.
  for (uint64_t s = oldest; s != issued_; ++s) {
    if (entry.Overlaps(At(s))) return false;
  }
  ++issued_;
  if (entry.pages == 0) return true;
  IoRequest& request = entry.request;
  request.op = IoOp::kWrite;
  request.lane = Lane::kWriteBack;
  request.first = SlotId(entry.first);
  request.pages = entry.pages;
  request.memory = const_cast<std::byte*>(entry.memory);  // Read by writes only.
  request.status.store(IoStatus::kPending, std::memory_order_relaxed);
  SPIRITOS_PAUSE_POINT(kBackupIssue);
  // Only reads on this lane could fill its window.
  while (file_.Submit(request) == IoResult::kBusy) {
    if (!file_.Poll(Lane::kWriteBack)) sched_yield();
  }
  return true;
}

void WriteBehind::RetireOldest() noexcept {
  const uint64_t sequence = written();
  Entry& entry = At(sequence);
  if (entry.pages == 0) {
    file_.ReleaseSlab(SlotId(entry.first));
  } else {
    file_.Wait(entry.request);
    const bool failed = entry.request.status.load(std::memory_order_acquire) == IoStatus::kFailed;
    if (failed && entry.ticket != nullptr) {
      entry.ticket->error.store(entry.request.error, std::memory_order_relaxed);
    } else if (failed) {
      sink_.OnFailed(SlotId(entry.first), entry.request.error);
    }
    behind_.fetch_sub(entry.pages, std::memory_order_relaxed);
  }
  while (true) {
    uint32_t readers;
    {
      LockGuard guard(lock_);
      readers = entry.readers.load(std::memory_order_acquire);
      if (readers == 0) {
        ring_begin_ += entry.room;
        written_.store(sequence + 1, std::memory_order_seq_cst);
        break;
      }
    }
    FutexWait(entry.readers, readers);
  }
  turn_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) != 0) FutexWake(turn_, INT32_MAX);
}

}  // namespace spiritos
