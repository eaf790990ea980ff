// SPDX-License-Identifier: Apache-2.0
// Pushing, reaping, and sleeping by the protocol of the header.
#include "libos/remote/file_ring.h"

#include <cerrno>

#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "libos/base/failpoint.h"
#include "libos/base/fd.h"
#include "libos/base/parker.h"
#include "libos/remote/ring_issuer.h"

namespace spiritos {
namespace {

// About what a wake-up costs: beyond it sleeping is cheaper.
constexpr uint64_t kSpinNs = 25'000;
// A spin that saw its request finish earns a credit, another loses one. Without
// credit one wait in so many spins: the disk may have become faster.
constexpr uint32_t kMaxSpinCredit = 16;
constexpr uint32_t kSpinProbe = 64;
// A request that gets nowhere so many times in a row fails.
constexpr uint32_t kMaxAttempts = 16;
// Refusals of io_uring_enter after which an entry is left to the next who polls.
constexpr int kMaxRefusals = 8;

class ErrnoKeeper {
 public:
  ErrnoKeeper() : saved_(errno) {}
  ~ErrnoKeeper() { errno = saved_; }

 private:
  const int saved_;
};

// Not the file's answer: ask again. ECANCELED: the submitting thread has exited.
bool IsTransient(int error) { return error == EINTR || error == EAGAIN || error == ECANCELED; }

bool HasReadAndWrite(io_uring& ring) {
  io_uring_probe* const probe = io_uring_get_probe_ring(&ring);
  if (probe == nullptr) return false;
  const bool has = io_uring_opcode_supported(probe, IORING_OP_READ) != 0 &&
                   io_uring_opcode_supported(probe, IORING_OP_WRITE) != 0;
  io_uring_free_probe(probe);
  return has;
}

}  // namespace

int FileRing::Init(int file, RingIssuer* issuer) noexcept {
  io_uring_params params{};
  if (const int error = io_uring_queue_init_params(kEntries, &ring_, &params)) {
    return -error;
  }
  // Without NODROP an overflow would lose completions.
  if ((params.features & IORING_FEAT_NODROP) == 0 || !HasReadAndWrite(ring_)) {
    io_uring_queue_exit(&ring_);
    return ENOSYS;
  }
  NoteOwnFd(ring_.ring_fd, true);
  io_uring_ring_dontfork(&ring_);  // Best effort: a child does not use the pool.
  fixed_file_ = io_uring_register_files(&ring_, &file, 1) == 0;
  file_ = file;
  issuer_ = issuer;
  may_spin_ = UsableCores() > 1;
  spin_credit_.store(kMaxSpinCredit, std::memory_order_relaxed);
  for (unsigned i = 0; i < ring_.sq.ring_entries; ++i) ring_.sq.array[i] = i;
  LockGuard guard(lock_);
  for (Op& op : ops_) {
    op.ring = this;
    op.next_free = free_;
    free_ = &op;
  }
  return 0;
}

void FileRing::Close() noexcept {
  {
    LockGuard guard(lock_);
    SPIRITOS_DCHECK(in_flight_ == 0, "{} requests in flight on a ring that closes", in_flight_);
  }
  NoteOwnFd(ring_.ring_fd, false);
  io_uring_queue_exit(&ring_);
}

IoResult FileRing::Submit(IoRequest& request) noexcept {
  {
    LockGuard guard(lock_);
    if (free_ == nullptr) return IoResult::kBusy;
    Op& op = *free_;
    free_ = op.next_free;
    ++in_flight_;
    op.request = &request;
    op.done_bytes = 0;
    op.attempts = 0;
    request.next = reinterpret_cast<IoRequest*>(&op);
    request.status.store(IoStatus::kPending, std::memory_order_relaxed);
    PushLocked(op);
  }
  Launch();
  return IoResult::kOk;
}

// The kernel moves the queue's head once per io_uring_enter, so entries that it
// has taken may still count: one call's worth, and no Op is pushed twice before
// that call ends. Twice the window is therefore always enough.
void FileRing::PushLocked(Op& op) noexcept {
  const IoRequest& request = *op.request;
  const unsigned tail = *ring_.sq.ktail;
  io_uring_sqe* const entry = &ring_.sq.sqes[tail & ring_.sq.ring_mask];
  std::byte* const memory = request.memory + op.done_bytes;
  const auto bytes = static_cast<unsigned>((size_t{request.pages} << kPageShift) - op.done_bytes);
  const uint64_t offset = (request.first.raw() << kPageShift) + op.done_bytes;
  const int file = fixed_file_ ? 0 : file_;
  if (request.op == IoOp::kRead) {
    io_uring_prep_read(entry, file, memory, bytes, offset);
  } else {
    io_uring_prep_write(entry, file, memory, bytes, offset);
  }
  if (fixed_file_) io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE);
  io_uring_sqe_set_data64(entry, static_cast<uint64_t>(&op - ops_.data()));
  io_uring_smp_store_release(ring_.sq.ktail, tail + 1);  // Publishes the entry.
}

unsigned FileRing::Unsubmitted() const noexcept {
  return io_uring_smp_load_acquire(ring_.sq.ktail) - io_uring_smp_load_acquire(ring_.sq.khead);
}

void FileRing::Enter(unsigned submit, unsigned wait_for) noexcept {
  const ErrnoKeeper keeper;
  const unsigned flags = wait_for != 0 ? IORING_ENTER_GETEVENTS : 0;
  // What it did is read off the queues: another thread may have submitted for us,
  // or we for it.
  static_cast<void>(
      io_uring_enter(static_cast<unsigned>(ring_.ring_fd), submit, wait_for, flags, nullptr));
}

bool FileRing::Flush() noexcept {
  for (int refusals = 0; refusals < kMaxRefusals; ++refusals) {
    const unsigned unsubmitted = Unsubmitted();
    if (unsubmitted == 0) return true;
    Enter(unsubmitted, 0);
  }
  return Unsubmitted() == 0;
}

void FileRing::Launch() noexcept {
  if (issuer_ != nullptr) {
    issuer_->Kick();
  } else if (!Flush()) {
    stuck_.store(true, std::memory_order_release);  // Who polls or waits tries again.
  }
}

void FileRing::WakeFollowersLocked(Op& op, Debts& debts) noexcept {
  if (!op.followed) return;
  op.followed = false;
  --followed_ops_;
  op.turn.fetch_add(1, std::memory_order_release);
  debts.words[debts.count++] = &op.turn;
}

void FileRing::ElectLocked(Debts& debts) noexcept {
  if (leader_ || followed_ops_ == 0) return;
  for (Op& op : ops_) {
    if (op.followed) return WakeFollowersLocked(op, debts);
  }
}

bool FileRing::CompleteLocked(Op& op, int32_t result, Debts& debts) noexcept {
  IoRequest& request = *op.request;
  const uint64_t all = uint64_t{request.pages} << kPageShift;
  int error = result < 0 ? -result : 0;
  if (error == 0) {
    // Direct I/O goes on at a page: the piece of one that was moved is moved again.
    const uint64_t moved = static_cast<uint64_t>(result) & ~uint64_t{kPageSize - 1};
    op.done_bytes += moved;
    if (moved != 0) op.attempts = 0;
    if (op.done_bytes < all) error = EIO;  // Unless it gets on.
  }
  if (error != 0 && (result >= 0 || IsTransient(error)) && ++op.attempts < kMaxAttempts) {
    PushLocked(op);
    debts.resumed = true;
    return false;
  }
  if (error == 0) {
    error = request.op == IoOp::kRead ? SPIRITOS_FAILPOINT(kBackendRead)
                                      : SPIRITOS_FAILPOINT(kBackendWrite);
  }
  WakeFollowersLocked(op, debts);
  op.led = false;
  op.request = nullptr;
  op.next_free = free_;
  free_ = &op;
  --in_flight_;
  request.Finish(error);  // Its owner may be gone from here on.
  return true;
}

uint32_t FileRing::ReapLocked(Debts& debts) noexcept {
  uint32_t finished = 0;
  unsigned reaped = reaped_.load(std::memory_order_relaxed);
  const unsigned tail = io_uring_smp_load_acquire(ring_.cq.ktail);
  while (reaped != tail && !debts.full()) {
    const io_uring_cqe& completion = ring_.cq.cqes[reaped++ & ring_.cq.ring_mask];
    Op& op = ops_[completion.user_data];
    const bool led = op.led;
    if (!CompleteLocked(op, completion.res, debts)) continue;
    ++finished;
    head_held_ |= led;
  }
  reaped_.store(reaped, std::memory_order_relaxed);
  io_uring_smp_store_release(ring_.cq.khead, head_held_ ? reaped - 1 : reaped);
  return finished;
}

void FileRing::Settle(const Debts& debts) noexcept {
  for (uint32_t i = 0; i < debts.count; ++i) FutexWake(*debts.words[i], INT32_MAX);
  // Cleared before looking: what another thread leaves now, it marks again.
  if (debts.resumed || (stuck_.load(std::memory_order_relaxed) &&
                        stuck_.exchange(false, std::memory_order_acq_rel))) {
    Launch();
  }
}

bool FileRing::Poll() noexcept {
  if (io_uring_smp_load_acquire(ring_.cq.ktail) == reaped_.load(std::memory_order_relaxed)) {
    Settle({});
    return false;
  }
  if (!lock_.try_lock()) return false;  // Its holder reaps, or will poll itself.
  Debts debts;
  const uint32_t finished = ReapLocked(debts);
  lock_.unlock();
  Settle(debts);
  return finished != 0;
}

void FileRing::Spin(const IoRequest& request) noexcept {
  const uint32_t credit = spin_credit_.load(std::memory_order_relaxed);
  const bool probe = waits_.fetch_add(1, std::memory_order_relaxed) % kSpinProbe == 0;
  if (!may_spin_ || (credit == 0 && !probe)) return;
  const uint64_t end_ns = NowNs() + kSpinNs;
  do {
    Poll();
    if (request.final()) {
      // Two at once may lose one of their changes: it is a hint.
      if (credit < kMaxSpinCredit) spin_credit_.store(credit + 1, std::memory_order_relaxed);
      return;
    }
    CpuRelax();
  } while (NowNs() < end_ns);
  if (credit != 0) spin_credit_.store(credit - 1, std::memory_order_relaxed);
}

void FileRing::Wait(IoRequest& request) noexcept {
  if (request.final()) return;
  FileRing& ring = *OpOf(request).ring;
  ring.Spin(request);
  while (!ring.Block(request)) {
  }
}

bool FileRing::Block(IoRequest& request) noexcept {
  Debts debts;
  Op* op = nullptr;
  bool leads = false;
  uint32_t turn = 0;
  {
    LockGuard guard(lock_);
    ReapLocked(debts);
    if (request.final()) {
      ElectLocked(debts);  // We may be a follower that was elected meanwhile.
    } else {
      op = &OpOf(request);  // Ours for as long as the request is pending.
      leads = !leader_;
      if (leads) {
        leader_ = true;
        op->led = true;
      } else if (!op->followed) {
        op->followed = true;
        ++followed_ops_;
      }
      turn = op->turn.load(std::memory_order_relaxed);
    }
  }
  Settle(debts);
  if (op == nullptr) return true;
  if (!leads) {
    FutexWait(op->turn, turn);
    return false;
  }
  // With entries to submit the call fails rather than sleeps if it cannot.
  Enter(stuck_.load(std::memory_order_acquire) ? Unsubmitted() : 0, 1);
  Debts after;
  {
    LockGuard guard(lock_);
    leader_ = false;
    head_held_ = false;
    if (!request.final()) op->led = false;
    ReapLocked(after);
  }
  Settle(after);
  return false;  // The next round elects, or leads on.
}

}  // namespace spiritos
