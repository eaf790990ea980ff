// SPDX-License-Identifier: Apache-2.0
// Due times: when a request may be seen, and waiting until then.
#include "libos/remote/shaped_backend.h"

#include <sched.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "libos/base/clock.h"
#include "libos/base/copy.h"
#include "libos/base/failpoint.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

constexpr clockid_t kClock = CLOCK_MONOTONIC;  // NowNs()'s.
// Waiters wake this much before the due time, for a wake-up takes about half of
// it, and spin for the rest.
constexpr uint64_t kSpinNs = 50'000;
// What the kernel may add to a sleep without a timer of its own (PR_SET_TIMERSLACK).
constexpr uint64_t kTimerSlackNs = 50'000;
// A flight is taken out this much early, so that a slow look at the clock does not
// make it late; the rest is spun away.
constexpr uint64_t kAheadNs = 300;
// A flight later than this is in the hands of a thread that does not run.
constexpr uint64_t kLateNs = 20'000;

timespec ToTimespec(uint64_t ns) {
  return {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
}

// Moves `clock` past `ns` of work that begins at `now_ns` at the earliest; its end.
uint64_t Extend(std::atomic<uint64_t>& clock, uint64_t now_ns, uint64_t ns) {
  uint64_t free_ns = clock.load(std::memory_order_relaxed);
  uint64_t end_ns = 0;
  do {
    end_ns = std::max(free_ns, now_ns) + ns;
  } while (!clock.compare_exchange_weak(free_ns, end_ns, std::memory_order_relaxed));
  return end_ns;
}

}  // namespace

ShapedBackend::ShapedBackend(std::unique_ptr<RemoteBackend> inner, Distance distance)
    : inner_(std::move(inner)), distance_(distance), copies_(inner_->addressable()) {}

absl::StatusOr<std::unique_ptr<ShapedBackend>> ShapedBackend::Create(
    std::unique_ptr<RemoteBackend> inner, Distance distance) {
  std::unique_ptr<ShapedBackend> shaped(new ShapedBackend(std::move(inner), distance));
  for (Queue& queue : shaped->queues_) {
    Flight* const flights = shaped->arena_.NewArray<Flight>(kWindow);
    if (flights == nullptr) {
      return absl::ResourceExhaustedError(
          "no memory for the emulated pool's queues (SPIRITOS_EMULATE_LATENCY)");
    }
    LockGuard guard(queue.lock);
    for (uint32_t f = 0; f < kWindow; ++f) {
      flights[f].next = queue.free;
      queue.free = &flights[f];
    }
  }
  uint32_t timers = 0;
  for (uint32_t t = 0; t < kTimers; ++t) {
    shaped->timers_[t] = UniqueFd(timerfd_create(kClock, TFD_CLOEXEC));
    if (shaped->timers_[t].valid()) timers |= 1u << t;
  }
  shaped->free_timers_.store(timers, std::memory_order_relaxed);
  return shaped;
}

// The end of `bytes` on the link.
uint64_t ShapedBackend::ReserveLink(Lane lane, uint64_t now_ns, uint64_t bytes) noexcept {
  if (distance_.bytes_per_second == 0) return now_ns;
  const uint64_t ns = bytes * 1'000'000'000 / distance_.bytes_per_second;
  const uint64_t end_ns = Extend(link_free_ns_, now_ns, ns);
  return lane == Lane::kDemand ? Extend(demand_free_ns_, now_ns, ns) : end_ns;
}

IoResult ShapedBackend::Submit(IoRequest& request) noexcept {
  const uint64_t now_ns = NowNs();
  Queue& queue = QueueOf(request.lane);
  Flight* flight = nullptr;
  {
    LockGuard guard(queue.lock);
    flight = queue.free;
    if (flight == nullptr) return IoResult::kBusy;
    queue.free = flight->next;
  }
  if (!copies_) {
    IoRequest& inner = flight->inner;
    inner.op = request.op;
    inner.lane = request.lane;
    inner.first = request.first;
    inner.pages = request.pages;
    inner.memory = request.memory;
    inner.versions = request.versions;
    inner.avoid = request.avoid;
    inner.status.store(IoStatus::kPending, std::memory_order_relaxed);
    if (const IoResult result = inner_->Submit(inner); result != IoResult::kOk) {
      LockGuard guard(queue.lock);
      flight->next = queue.free;
      queue.free = flight;
      return result;
    }
  }
  const uint64_t bytes = uint64_t{request.pages} << kPageShift;
  bytes_moved_.fetch_add(bytes, std::memory_order_relaxed);
  request.next = reinterpret_cast<IoRequest*>(flight);
  request.status.store(IoStatus::kPending, std::memory_order_relaxed);
  flight->request = &request;
  flight->landed = false;
  flight->next = nullptr;

  LockGuard guard(queue.lock);
  flight->due_ns = ReserveLink(request.lane, now_ns, bytes) + distance_.latency_ns;
  request.due_ns = flight->due_ns;
  const uint64_t page_ns = copies_ ? copy_page_ns_.load(std::memory_order_relaxed) : 0;
  flight->ahead_ns = std::min(request.pages * page_ns + kAheadNs, distance_.latency_ns / 2);
  (queue.first == nullptr ? queue.first : queue.last->next) = flight;
  queue.last = flight;
  queue.flying.fetch_add(1, std::memory_order_relaxed);
  return IoResult::kOk;
}

ShapedBackend::Flight* ShapedBackend::TakeDue(Queue& queue, uint64_t now_ns) noexcept {
  LockGuard guard(queue.lock);
  Flight* before = nullptr;
  for (Flight* flight = queue.first; flight != nullptr; before = flight, flight = flight->next) {
    if (now_ns + flight->ahead_ns < flight->due_ns) break;  // The rest is later still.
    if (!copies_ && !flight->inner.final()) continue;
    (before == nullptr ? queue.first : before->next) = flight->next;
    if (queue.last == flight) queue.last = before;
    queue.flying.fetch_sub(1, std::memory_order_relaxed);
    return flight;
  }
  return nullptr;
}

int ShapedBackend::Copy(const IoRequest& request) noexcept {
  const uint64_t begin_ns = NowNs();
  std::byte* const slots = inner_->Direct(request.first);
  const size_t bytes = size_t{request.pages} << kPageShift;
  if (request.op == IoOp::kRead) {
    if (const int error = SPIRITOS_FAILPOINT(kBackendRead)) return error;
    std::memcpy(request.memory, slots, bytes);
  } else {
    if (const int error = SPIRITOS_FAILPOINT(kBackendWrite)) return error;
    CopyWhileStored(slots, request.memory, bytes);
  }
  const auto page_ns = static_cast<int64_t>((NowNs() - begin_ns) / request.pages);
  const auto mean = static_cast<int64_t>(copy_page_ns_.load(std::memory_order_relaxed));
  copy_page_ns_.store(static_cast<uint64_t>(mean + (page_ns - mean) / 8),
                      std::memory_order_relaxed);
  return 0;
}

void ShapedBackend::Land(Queue& queue, Flight& flight) noexcept {
  IoRequest& request = *flight.request;
  const int error = copies_ ? Copy(request) : flight.inner.error;
  request.sources.store(flight.inner.sources.load(std::memory_order_relaxed),
                        std::memory_order_relaxed);
  while (NowNs() < flight.due_ns) CpuRelax();  // Taken out a little early.
  request.Finish(error);                       // Its owner may be gone from here on.
  LockGuard guard(queue.lock);
  flight.landed = true;
  if (flight.waiters != 0) return;  // The last of them frees it.
  flight.next = queue.free;
  queue.free = &flight;
}

bool ShapedBackend::Poll(Lane lane) noexcept {
  Queue& queue = QueueOf(lane);
  if (queue.flying.load(std::memory_order_relaxed) == 0) return false;
  if (!copies_) inner_->Poll(lane);
  bool any = false;
  while (Flight* const flight = TakeDue(queue, NowNs())) {
    Land(queue, *flight);
    any = true;
  }
  return any;
}

void ShapedBackend::SleepUntil(uint64_t wake_ns) noexcept {
  const int saved_errno = errno;
  uint32_t free = free_timers_.load(std::memory_order_relaxed);
  // Acquire: the timer's last user is done with it.
  while (free != 0 &&
         !free_timers_.compare_exchange_weak(free, free & (free - 1), std::memory_order_acquire)) {
  }
  if (free != 0) {
    const auto timer = static_cast<uint32_t>(std::countr_zero(free));
    const itimerspec when{{0, 0}, ToTimespec(wake_ns)};
    uint64_t expirations = 0;
    timerfd_settime(timers_[timer].get(), TFD_TIMER_ABSTIME, &when, nullptr);
    while (read(timers_[timer].get(), &expirations, sizeof(expirations)) < 0 && errno == EINTR) {
    }
    free_timers_.fetch_or(1u << timer, std::memory_order_release);
  } else if (wake_ns > NowNs() + kTimerSlackNs) {
    const timespec when = ToTimespec(wake_ns - kTimerSlackNs);
    clock_nanosleep(kClock, TIMER_ABSTIME, &when, nullptr);  // lint: sleep is the thing measured
  }
  errno = saved_errno;
}

void ShapedBackend::Wait(IoRequest& request) noexcept {
  if (request.final()) return;
  Queue& queue = QueueOf(request.lane);
  auto& flight = *reinterpret_cast<Flight*>(request.next);
  {
    LockGuard guard(queue.lock);
    if (request.final()) return;
    ++flight.waiters;
  }
  const uint64_t due_ns = flight.due_ns;
  uint64_t now_ns = NowNs();
  const bool early = now_ns < due_ns;
  while (!request.final()) {
    if (now_ns + kSpinNs < due_ns) {
      SleepUntil(due_ns - kSpinNs);
    } else {
      if (!copies_ && now_ns < due_ns) {
        inner_->Poll(request.lane);
      } else if (!copies_) {
        inner_->Wait(flight.inner);  // What it takes beyond due is its own latency.
      }
      Flight* const landing = TakeDue(queue, now_ns);
      if (landing != nullptr) {
        Land(queue, *landing);
        continue;  // Most likely ours.
      }
      if (now_ns > due_ns + kLateNs) sched_yield();
      CpuRelax();
    }
    now_ns = NowNs();
  }
  if (early) reached_.Add(NowNs() - (due_ns - distance_.latency_ns));
  LockGuard guard(queue.lock);
  if (--flight.waiters != 0 || !flight.landed) return;
  flight.next = queue.free;
  queue.free = &flight;
}

std::string ShapedBackend::description() const {
  std::string cap;
  if (distance_.bytes_per_second != 0) {
    cap = fmt::format(" and {:.1f} MB/s", static_cast<double>(distance_.bytes_per_second) / 1e6);
  }
  return fmt::format("emulated distance of {:.1f} us{} to {}",
                     static_cast<double>(distance_.latency_ns) / 1e3, cap, inner_->description());
}

Histogram ShapedBackend::ReachedLatency() const {
  Histogram reached;
  reached_.AddTo(reached);
  return reached;
}

std::string ShapedBackend::ToText() const {
  const Histogram reached = ReachedLatency();
  const auto us = [&](double q) { return static_cast<double>(reached.Quantile(q)) / 1e3; };
  return fmt::format(
      "{}; emulated latency reached: p50 {:.1f} us, p99 {:.1f} us in {} waits; "
      "{} bytes moved",
      description(), us(0.5), us(0.99), reached.count(),
      bytes_moved_.load(std::memory_order_relaxed));
}

}  // namespace spiritos
