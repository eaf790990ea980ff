// SPDX-License-Identifier: Apache-2.0
// A lane's queue, who receives, and who sleeps meanwhile.
#include "libos/remote/server_lane.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>

#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "libos/base/core.h"
#include "libos/base/parker.h"

namespace spiritos {
namespace {

// Longer than a page takes from a server on this machine, and no longer than it
// takes to fall asleep and be woken.
constexpr uint64_t kSpinNs = 25'000;
// Spinning that found its reply earns credit, in vain it costs some; one wait in so
// many tries anyway. A server that would need the CPU we spin on never answers meanwhile.
constexpr uint32_t kSpinProbe = 64;
// A sleeping receiver looks up so often, whatever happens.
constexpr uint64_t kLookNs = 100'000'000;

}  // namespace

IoResult ServerLane::Submit(LaneRequest& request) noexcept {
  {
    LockGuard guard(lock_);
    if (state_.load(std::memory_order_relaxed) == State::kFailed) return IoResult::kPeerGone;
    const uint32_t place = PlaceLocked(count_);
    if (count_ == kWindow || !AdmitLocked(place, IdLocked(count_), request)) return IoResult::kBusy;
    slots_[place] = &request;
    if (count_++ == 0) waiting_since_ns_.store(NowNs(), std::memory_order_relaxed);
  }
  const int saved_errno = errno;
  Send();
  errno = saved_errno;
  return IoResult::kOk;
}

void ServerLane::PopLocked() noexcept {
  DismissLocked(head_);
  head_ = (head_ + 1) % kWindow;
  ++head_id_;
  --count_;
  if (sent_ != 0) --sent_;
  waiting_since_ns_.store(count_ == 0 ? 0 : NowNs(), std::memory_order_relaxed);
}

void ServerLane::ResumeLocked() {
  sent_ = 0;
  state_.store(State::kUp, std::memory_order_release);
}

void ServerLane::Resume() {
  Send();
  WakeSleepers();
}

bool ServerLane::TryLead() noexcept {
  LockGuard guard(lock_);
  if (receiving_ || !MayMoveLocked()) return false;
  receiving_ = true;
  return true;
}

void ServerLane::Leave() noexcept {
  {
    LockGuard guard(lock_);
    receiving_ = false;
  }
  WakeSleepers();
}

bool ServerLane::Has(const LaneRequest& request) noexcept {
  LockGuard guard(lock_);
  return HasLocked(request);
}

bool ServerLane::HasLocked(const LaneRequest& request) {
  for (uint32_t i = 0; i < count_; ++i) {
    if (&RequestLocked(i) == &request) return true;
  }
  return false;
}

bool ServerLane::Redirect(LaneRequest& request, std::byte* memory) noexcept {
  LockGuard guard(lock_);
  // Acquire: what has been received is there.
  if (arriving_.load(std::memory_order_acquire)) return false;
  if (HasLocked(request)) request.memory = memory;
  return true;
}

bool ServerLane::Poll() noexcept {
  const int saved_errno = errno;
  Send();
  bool finished = false;
  if (waiting_since_ns() != 0 && TryLead()) {
    finished = Receive();
    Leave();
  }
  errno = saved_errno;
  return finished;
}

bool ServerLane::Spin(absl::FunctionRef<bool()> ready) noexcept {
  const uint32_t credit = spin_credit_.load(std::memory_order_relaxed);
  const bool probe = waits_.fetch_add(1, std::memory_order_relaxed) % kSpinProbe == 0;
  if (credit == 0 && !probe) return ready();
  const uint64_t end_ns = NowNs() + kSpinNs;
  do {
    Poll();
    if (ready()) {
      // Two at once may lose one of their changes: it is a hint.
      if (credit < kMaxSpinCredit) spin_credit_.store(credit + 1, std::memory_order_relaxed);
      return true;
    }
    CpuRelax();
  } while (NowNs() < end_ns);
  if (credit != 0) spin_credit_.store(credit - 1, std::memory_order_relaxed);
  return false;
}

bool ServerLane::Wait(absl::FunctionRef<bool()> ready, uint64_t deadline_ns) noexcept {
  if (Spin(ready)) return true;
  const int saved_errno = errno;
  while (!ready()) {
    const uint64_t now = NowNs();
    if (now >= deadline_ns) break;
    const uint64_t patience_ns = std::min(deadline_ns - now, kLookNs);
    const uint32_t turn = turn_.load(std::memory_order_acquire);
    if (TryLead()) {
      Send();
      // Looked at once more after taking the lead: another may have finished it.
      if (!Receive() && !ready()) {
        Sleep(patience_ns);
        Receive();
      }
      Leave();
      continue;
    }
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    // WakeSleepers() bumps the turn, then loads `sleepers_`.
    if (!ready()) FutexWait(turn_, turn, patience_ns);
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }
  errno = saved_errno;
  return ready();
}

void ServerLane::Break() noexcept {
  State up = State::kUp;
  if (state_.compare_exchange_strong(up, State::kBroken, std::memory_order_acq_rel)) Interrupt();
}

void ServerLane::Fail(WireStatus result) {
  Break();
  while (true) {
    LaneRequest* request = nullptr;
    {
      LockGuard guard(lock_);
      if (!MovingLocked()) {
        state_.store(State::kFailed, std::memory_order_release);
        if (count_ == 0) break;
        request = &RequestLocked(0);
        PopLocked();
      }
    }
    if (request == nullptr) {
      sched_yield();  // They are on their way out.
      continue;
    }
    request->result = result;
    sink_.OnFinal(*request);
  }
  WakeSleepers();
}

void ServerLane::WakeSleepers() noexcept {
  turn_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) != 0) FutexWake(turn_, INT32_MAX);
}

}  // namespace spiritos
