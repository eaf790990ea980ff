// SPDX-License-Identifier: Apache-2.0
// Slabs that servers have lost, or had no room for, are placed there anew.
//
//   Placed --> Tended:  no flight knows the old place any more; that is given back
//          --> a new one; run by run, in order: busy, until writes under way there have
//              ended; from the file to the servers; free again, now one run further
//          --> Placed, or tried again
//
// A thread of its own, which sleeps while there is nothing to do.
#include <fmt/core.h>

#include <array>

#include "libos/base/log.h"
#include "libos/base/parker.h"
#include "libos/remote/backup_backend.h"

namespace spiritos {
namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kRetryNs = 500 * kMs;
// Who has submitted a read ahead may not look at it for long.
constexpr uint64_t kLookNs = 10 * kMs;
constexpr std::array<Lane, kLanes> kAllLanes = {Lane::kDemand, Lane::kPrefetch, Lane::kWriteBack};

}  // namespace

void BackupBackend::CallTender() noexcept {
  calls_.fetch_add(1, std::memory_order_release);
  FutexWake(calls_, 1);
}

void BackupBackend::Tend() {
  uint64_t said = 0;  // Of those filled.
  while (true) {
    // Before all that calls announce.
    uint32_t calls = calls_.load(std::memory_order_acquire);
    if (stopping_.load()) return;
    if (!FillAll()) {
      // Who has called before asks for what was tried.
      calls = calls_.load(std::memory_order_acquire);
      if (!stopping_.load()) FutexWait(calls_, calls, kRetryNs);
      continue;
    }
    if (filled_.load() != said) {
      said = filled_.load();
      LogWarning(fmt::format("the pool is whole again: what was in {} alone is at servers too",
                             file_->path()));
    }
    FutexWait(calls_, calls);
  }
}

// Whether none is left that needs it.
bool BackupBackend::FillAll() {
  // First all, so that requests for them do not begin at the servers any more.
  TendEach([&](Slab& slab) {
    Vacate(slab);
    return true;
  });
  bool room = true;
  const bool all = TendEach([&](Slab& slab) {
    room = room && PlaceAnew(slab);
    return room && Fill(slab);
  });
  refused_.store(!room);
  return all;
}

// Has `work` done on each slab that is in the file alone; whether it was, on all of them.
template <typename Work>
bool BackupBackend::TendEach(Work work) {
  bool all = true;
  for (uint64_t index = 0; index < used_.load() && !stopping_.load(); ++index) {
    Slab& slab = slabs_[index];
    Slab::Stage placed = Slab::kPlaced;
    if (slab.file.load() == 0 || AtServers(slab) ||
        !slab.stage.compare_exchange_strong(placed, Slab::kTended)) {
      continue;
    }
    // It may have been released, and placed again as another, before it was ours.
    const bool needed = slab.file.load() != 0 && !AtServers(slab);
    const bool done = !needed || work(slab);
    Slab::Stage tended = Slab::kTended;
    if (!slab.stage.compare_exchange_strong(tended, Slab::kPlaced)) {
      GiveBack(slab);  // It has been released meanwhile.
    } else {
      all = all && done;
    }
  }
  return all;
}

// The slab has no place at the servers from here on.
void BackupBackend::Vacate(Slab& slab) {
  slab.fill.store(0);
  if (slab.server.load() == 0) return;
  AwaitFlights([&](const Flight& flight) { return flight.slab == &slab && flight.to_servers; });
  servers_->ReleaseSlab(slab.ServerSlot(0));
  slab.server.store(0);
}

bool BackupBackend::PlaceAnew(Slab& slab) {
  Vacate(slab);
  SlotId first;
  if (servers_->PlaceSlab(&first) != IoResult::kOk) return false;
  slab.server.store(first.raw() + 1);
  return true;
}

bool BackupBackend::Fill(Slab& slab) {
  for (uint32_t page = 0; page < kSlabPages; page += kFillRun) {
    const bool wanted = slab.stage.load() == Slab::kTended && !stopping_.load();
    if (!wanted || !CopyRun(slab, page)) {
      slab.fill.store(0);
      return false;
    }
  }
  TellServers(slab);
  filled_.fetch_add(1);
  return true;
}

// False when the servers do not take it. A page that cannot be read is left out, and is no
// worse there: who reads it finds that it is wrong.
bool BackupBackend::CopyRun(Slab& slab, uint32_t page) {
  slab.fill.store(2 * page + 1);
  AwaitFlights([&](const Flight& flight) {
    return flight.slab == &slab && flight.writes && flight.page < page + kFillRun &&
           page < flight.page + flight.pages;
  });
  Copied copied = CopyPages(slab, page, kFillRun);
  if (copied == Copied::kUnreadable) {
    for (uint32_t i = 0; i < kFillRun && copied != Copied::kRefused; ++i) {
      copied = CopyPages(slab, page + i, 1);
    }
  }
  if (copied == Copied::kRefused) return false;
  slab.fill.store(2 * (page + kFillRun));
  return true;
}

BackupBackend::Copied BackupBackend::CopyPages(Slab& slab, uint32_t page, uint32_t pages) {
  // Of the oldest version that there is: whatever is written later is newer.
  static constexpr std::array<uint32_t, kFillRun> kVersions = [] {
    std::array<uint32_t, kFillRun> versions{};
    versions.fill(1);
    return versions;
  }();
  IoRequest read;
  read.op = IoOp::kRead;
  read.lane = Lane::kPrefetch;
  read.first = SlotId(static_cast<uint64_t>(&slab - slabs_) * kSlabPages + page);
  read.pages = pages;
  read.memory = fill_buffer_;
  while (Submit(read) == IoResult::kBusy) Poll(read.lane);
  Wait(read);
  if (read.status.load() != IoStatus::kDone) return Copied::kUnreadable;
  IoRequest write;
  write.op = IoOp::kWrite;
  write.lane = Lane::kWriteBack;
  write.first = slab.ServerSlot(page);
  write.pages = pages;
  write.memory = fill_buffer_;
  write.versions = kVersions.data();
  while (servers_->Submit(write) == IoResult::kBusy) servers_->Poll(write.lane);
  servers_->Wait(write);
  return write.status.load() == IoStatus::kDone ? Copied::kAll : Copied::kRefused;
}

// Until none flies that `counts`. Whoever takes off meanwhile has seen what changed.
template <typename Counts>
void BackupBackend::AwaitFlights(Counts counts) {
  draining_.store(true, std::memory_order_seq_cst);
  while (true) {
    const uint32_t ended = ended_.load(std::memory_order_acquire);
    bool any = false;
    for (Queue& queue : queues_) {
      LockGuard guard(queue.lock);
      const uint32_t count = queue.count.load(std::memory_order_relaxed);
      for (uint32_t f = 0; f < count; ++f) any = any || counts(*queue.flying[f]);
    }
    if (!any) break;
    for (const Lane lane : kAllLanes) Poll(lane);
    FutexWait(ended_, ended, kLookNs);
  }
  draining_.store(false, std::memory_order_relaxed);
}

}  // namespace spiritos
