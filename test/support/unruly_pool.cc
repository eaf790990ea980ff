// SPDX-License-Identifier: Apache-2.0
// Flights in an array; the next to end is drawn.
#include "test/support/unruly_pool.h"

#include <fmt/core.h>
#include <sched.h>

#include <cstring>

#include "libos/base/check.h"
#include "libos/base/copy.h"
#include "libos/base/core.h"
#include "libos/base/failpoint.h"

namespace spiritos {
namespace {

constexpr size_t kMaxTrespasses = 16;

}  // namespace

UnrulyPool::UnrulyPool(uint64_t slabs, uint64_t seed, OnTrespass on_trespass)
    : slab_count_(slabs),
      on_trespass_(on_trespass),
      memory_(Mapping::Anonymous(Bytes(slabs * kSlabSize), kPageSize, "unruly pool").value()),
      random_(static_cast<unsigned>(seed)),
      writing_(slabs * kSlabPages),
      writes_(slabs * kSlabPages) {
  flights_.reserve(kFlights);
  trespasses_.reserve(kMaxTrespasses);
  for (uint64_t s = slabs; s-- != 0;) free_slabs_.push_back(s);
}

IoResult UnrulyPool::PlaceSlab(SlotId* first) noexcept {
  LockGuard guard(lock_);
  if (free_slabs_.empty()) return IoResult::kNoSpace;
  *first = SlotId(free_slabs_.back() * kSlabPages);
  free_slabs_.pop_back();
  return IoResult::kOk;
}

void UnrulyPool::ReleaseSlab(SlotId first) noexcept {
  Forget(first, kSlabPages);
  LockGuard guard(lock_);
  free_slabs_.push_back(first.raw() / kSlabPages);  // Within the capacity it had.
}

void UnrulyPool::Forget(SlotId first, uint32_t pages) noexcept {
  LockGuard guard(lock_);
  for (uint64_t slot = first.raw(); slot < first.raw() + pages; ++slot) {
    if (writing_[slot] != 0) Note("forgotten while it is written", slot);
    writes_[slot] = 0;
    std::memset(BytesOf(SlotId(slot)), 0xDB, kPageSize);
  }
}

void UnrulyPool::Note(const char* what, uint64_t slot) noexcept {
  SPIRITOS_CHECK(on_trespass_ == OnTrespass::kNote, "slot {}: {}", slot, what);
  if (trespasses_.size() < kMaxTrespasses) trespasses_.push_back({what, slot});
}

void UnrulyPool::Admit(const IoRequest& request) noexcept {
  for (uint64_t slot = request.first.raw(); slot < request.first.raw() + request.pages; ++slot) {
    if (request.op == IoOp::kWrite) {
      if (writing_[slot]++ != 0) Note("two writes in flight", slot);
      ++writes_[slot];
    } else {
      if (writing_[slot] != 0) Note("read while it is written", slot);
      if (writes_[slot] == 0) Note("read, never written", slot);
    }
  }
}

void UnrulyPool::Move(const Flight& flight) noexcept {
  const size_t bytes = size_t{flight.pages} << kPageShift;
  if (flight.write) {
    CopyWhileStored(BytesOf(flight.first), flight.memory, bytes);
  } else {
    std::memcpy(flight.memory, BytesOf(flight.first), bytes);
  }
}

IoResult UnrulyPool::Submit(IoRequest& request) noexcept {
  LockGuard guard(lock_);
  if (flights_.size() == kFlights) return IoResult::kBusy;
  Admit(request);
  Flight flight{.request = &request,
                .first = request.first,
                .pages = request.pages,
                .memory = request.memory,
                .moved = random_() % 2 == 0,
                .write = request.op == IoOp::kWrite};
  if (flight.moved) Move(flight);
  if (request.op == IoOp::kRead) reads_.fetch_add(request.pages, std::memory_order_relaxed);
  request.status.store(IoStatus::kPending, std::memory_order_relaxed);
  flights_.push_back(flight);
  return IoResult::kOk;
}

void UnrulyPool::EndOne(size_t index) noexcept {
  const Flight flight = flights_[index];
  flights_[index] = flights_.back();
  flights_.pop_back();
  const int error =
      flight.write ? SPIRITOS_FAILPOINT(kBackendWrite) : SPIRITOS_FAILPOINT(kBackendRead);
  if (!flight.moved && error == 0) Move(flight);
  if (flight.write) {
    for (uint64_t s = flight.first.raw(); s < flight.first.raw() + flight.pages; ++s) --writing_[s];
  }
  flight.request->Finish(error);
}

bool UnrulyPool::Poll(Lane) noexcept {
  LockGuard guard(lock_);
  // Mostly nothing has ended yet: what is in flight stays so for a while.
  if (flights_.empty() || random_() % 8 != 0) return false;
  EndOne(random_() % flights_.size());
  return true;
}

void UnrulyPool::Wait(IoRequest& request) noexcept {
  while (!request.final()) {
    uint32_t pause = 0;
    {
      LockGuard guard(lock_);
      if (!flights_.empty()) EndOne(random_() % flights_.size());
      pause = random_() % 512;
    }
    // Others fault, store and rescue meanwhile; who is alone on its CPU lets them.
    if (pause % 64 == 0) sched_yield();
    for (; pause != 0; --pause) CpuRelax();
  }
}

std::vector<std::string> UnrulyPool::trespasses() {
  LockGuard guard(lock_);
  std::vector<std::string> lines;
  for (const Trespass& trespass : trespasses_) {
    lines.push_back(fmt::format("slot {}: {}", trespass.slot, trespass.what));
  }
  return lines;
}

uint32_t UnrulyPool::writes(SlotId slot) {
  LockGuard guard(lock_);
  return writes_[slot.raw()];
}

}  // namespace spiritos
