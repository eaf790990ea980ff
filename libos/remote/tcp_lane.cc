// SPDX-License-Identifier: Apache-2.0
// A lane's queue, and who moves its bytes over TCP.
#include "libos/remote/tcp_lane.h"

#include <poll.h>
#include <sched.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

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
// many tries anyway.
constexpr uint32_t kMaxSpinCredit = 8;
constexpr uint32_t kSpinProbe = 64;
// A sleeping receiver looks up so often, whatever happens.
constexpr uint64_t kLookNs = 100'000'000;

size_t PayloadBytes(const LaneRequest& request) { return size_t{request.pages} << kPageShift; }
size_t TrailerBytes(const LaneRequest& request) { return request.pages * sizeof(PageTrailer); }

size_t MessageBytes(const LaneRequest& request) {
  const bool writes = request.op == IoOp::kWrite;
  return FrameHeader::kSize + (writes ? TrailerBytes(request) + PayloadBytes(request) : 0);
}

size_t ReplyBytes(const LaneRequest& request) {
  return FrameHeader::kSize + (request.op == IoOp::kRead ? PayloadBytes(request) : 0);
}

bool WouldBlock(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

// Parts of a message or a reply of which the first `skip` bytes are done.
class Gather {
 public:
  Gather(iovec* parts, size_t skip) : parts_(parts), skip_(skip) {}
  void Add(void* bytes, size_t size) noexcept {
    if (skip_ >= size) {
      skip_ -= size;
      return;
    }
    parts_[count_++] = {static_cast<std::byte*>(bytes) + skip_, size - skip_};
    skip_ = 0;
  }
  uint32_t count() const { return count_; }

 private:
  iovec* parts_;
  size_t skip_;
  uint32_t count_ = 0;
};

}  // namespace

void TcpLane::Connect(UniqueFd socket, uint16_t version) {
  while (!TryConnect(socket, version)) sched_yield();  // They are on their way out.
  Send();
  WakeSleepers();
}

bool TcpLane::TryConnect(UniqueFd& socket, uint16_t version) {
  LockGuard guard(lock_);
  if (sending_ || receiving_) return false;
  socket_ = std::move(socket);
  version_ = version;
  sent_ = 0;
  sent_bytes_ = 0;
  received_ = 0;
  state_.store(State::kUp, std::memory_order_release);
  return true;
}

IoResult TcpLane::Submit(LaneRequest& request) noexcept {
  {
    LockGuard guard(lock_);
    if (state_.load(std::memory_order_relaxed) == State::kFailed) return IoResult::kPeerGone;
    if (count_ == kWindow) return IoResult::kBusy;
    Slot& slot = At(count_++);
    slot.request = &request;
    slot.id = next_id_++;
    slot.submitted_ns = NowNs();
    if (count_ == 1) oldest_ns_.store(slot.submitted_ns, std::memory_order_relaxed);
    FrameHeader header;
    header.version = version_;
    header.op = request.op == IoOp::kRead ? WireOp::kRead : WireOp::kWrite;
    header.id = slot.id;
    header.slab = request.slab;
    header.epoch = request.epoch;
    header.first = request.first;
    header.pages = request.pages;
    header.payload = static_cast<uint32_t>(MessageBytes(request) - FrameHeader::kSize);
    if (request.op == IoOp::kWrite) {
      header.payload_crc = Crc32c(
          {reinterpret_cast<const std::byte*>(request.trailers.data()), TrailerBytes(request)});
    }
    EncodeFrame(header, &slot.header);
  }
  Send();
  return IoResult::kOk;
}

void TcpLane::Send() noexcept {
  const int saved_errno = errno;
  std::array<iovec, kSendParts> parts;
  while (true) {
    uint32_t count = 0;
    {
      LockGuard guard(lock_);
      if (sending_ || state_.load(std::memory_order_relaxed) != State::kUp) break;
      count = GatherLocked(parts.data());
      if (count == 0) break;
      sending_ = true;
    }
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = count;
    const ssize_t sent = sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    const int error = sent < 0 ? errno : 0;
    {
      LockGuard guard(lock_);
      sending_ = false;
      send_blocked_ = WouldBlock(error);
      if (sent > 0) AdvanceSentLocked(static_cast<size_t>(sent));
    }
    if (error == 0 || error == EINTR) continue;
    if (!WouldBlock(error)) Break();
    break;
  }
  errno = saved_errno;
}

uint32_t TcpLane::GatherLocked(iovec* parts) noexcept {
  Gather gather(parts, sent_bytes_);
  for (uint32_t i = sent_; i < count_ && gather.count() + 3 <= kSendParts; ++i) {
    Slot& slot = At(i);
    LaneRequest& request = *slot.request;
    gather.Add(slot.header.data(), slot.header.size());
    if (request.op == IoOp::kRead) continue;
    gather.Add(request.trailers.data(), TrailerBytes(request));
    gather.Add(request.memory, PayloadBytes(request));
  }
  return gather.count();
}

void TcpLane::AdvanceSentLocked(size_t bytes) noexcept {
  sent_bytes_ += bytes;
  while (sent_ < count_ && sent_bytes_ >= MessageBytes(*At(sent_).request)) {
    sent_bytes_ -= MessageBytes(*At(sent_).request);
    ++sent_;
  }
}

bool TcpLane::TryLead() noexcept {
  LockGuard guard(lock_);
  if (receiving_ || state_.load(std::memory_order_relaxed) != State::kUp) return false;
  receiving_ = true;
  return true;
}

void TcpLane::Leave() noexcept {
  {
    LockGuard guard(lock_);
    receiving_ = false;
  }
  WakeSleepers();
}

uint32_t TcpLane::PlaceReplies(iovec* parts) noexcept {
  LockGuard guard(lock_);
  Gather gather(parts, received_);
  for (uint32_t i = 0; i < std::min(sent_, kReceiveReplies); ++i) {
    LaneRequest& request = *At(i).request;
    gather.Add(replies_[i].data(), replies_[i].size());
    if (request.op == IoOp::kRead) gather.Add(request.memory, PayloadBytes(request));
  }
  return gather.count();
}

bool TcpLane::Receive() noexcept {
  bool finished = false;
  std::array<iovec, 2 * kReceiveReplies> parts;
  while (true) {
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = PlaceReplies(parts.data());
    if (message.msg_iovlen == 0) return finished;  // Nothing is due.
    size_t wanted = 0;
    for (size_t i = 0; i < message.msg_iovlen; ++i) wanted += parts[i].iov_len;
    const ssize_t got = recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && WouldBlock(errno)) return finished;
    if (got <= 0) {
      Break();
      return finished;
    }
    const uint64_t before = received_;
    const bool sound = TakeReplies(static_cast<size_t>(got));
    finished = finished || before + static_cast<size_t>(got) != received_;
    if (!sound) {
      Break();
      return finished;
    }
    if (static_cast<size_t>(got) < wanted) return finished;  // The socket is empty.
  }
}

bool TcpLane::TakeReplies(size_t bytes) noexcept {
  received_ += bytes;
  uint32_t taken = 0;
  while (true) {
    LaneRequest* request;
    uint64_t id;
    {
      LockGuard guard(lock_);
      if (taken == kReceiveReplies || count_ == 0 || sent_ == 0) break;
      request = At(0).request;
      id = At(0).id;
    }
    const size_t size = ReplyBytes(*request);
    if (received_ < size) break;
    FrameHeader header;
    const WireOp op = request->op == IoOp::kRead ? WireOp::kRead : WireOp::kWrite;
    if (DecodeFrame(replies_[taken], &header) != FrameError::kNone || !header.reply() ||
        header.op != op || header.id != id || header.payload != size - FrameHeader::kSize) {
      return false;
    }
    received_ -= size;
    ++taken;
    {
      LockGuard guard(lock_);
      head_ = (head_ + 1) % kWindow;
      --count_;
      --sent_;
      oldest_ns_.store(count_ == 0 ? 0 : At(0).submitted_ns, std::memory_order_relaxed);
    }
    request->result = header.status;
    sink_.OnFinal(*request);
  }
  if (taken != 0 && taken < kReceiveReplies) replies_[0] = replies_[taken];
  return true;
}

bool TcpLane::Poll() noexcept {
  Send();
  if (oldest_ns_.load(std::memory_order_relaxed) == 0 || !TryLead()) return false;
  const int saved_errno = errno;
  const bool finished = Receive();
  errno = saved_errno;
  Leave();
  return finished;
}

bool TcpLane::Spin(absl::FunctionRef<bool()> ready) noexcept {
  const uint32_t credit = spin_credit_.load(std::memory_order_relaxed);
  const bool probe = waits_.fetch_add(1, std::memory_order_relaxed) % kSpinProbe == 0;
  if (UsableCores() < 2 || (credit == 0 && !probe)) return ready();
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

bool TcpLane::Wait(absl::FunctionRef<bool()> ready, uint64_t deadline_ns) noexcept {
  if (Spin(ready)) return true;
  const int saved_errno = errno;
  while (!ready()) {
    const uint64_t now = NowNs();
    if (now >= deadline_ns) break;
    const uint64_t patience_ns = std::min(deadline_ns - now, kLookNs);
    const uint32_t turn = turn_.load(std::memory_order_acquire);
    if (TryLead()) {
      Send();
      short events = POLLIN;
      {
        LockGuard guard(lock_);
        if (send_blocked_) events |= POLLOUT;
      }
      // Looked at once more after taking the lead: another may have finished it.
      if (!Receive() && !ready()) {
        pollfd wait{socket_.get(), events, 0};
        const timespec timeout{0, static_cast<long>(patience_ns)};
        ppoll(&wait, 1, &timeout, nullptr);
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

void TcpLane::Break() noexcept {
  State up = State::kUp;
  if (!state_.compare_exchange_strong(up, State::kBroken, std::memory_order_acq_rel)) return;
  shutdown(socket_.get(), SHUT_RDWR);  // Whoever sleeps on it returns.
}

void TcpLane::Fail(WireStatus result) {
  Break();
  while (true) {
    LaneRequest* request;
    {
      LockGuard guard(lock_);
      if (sending_ || receiving_) {
        request = nullptr;
      } else {
        state_.store(State::kFailed, std::memory_order_release);
        if (count_ == 0) break;
        request = At(0).request;
        head_ = (head_ + 1) % kWindow;
        --count_;
      }
    }
    if (request == nullptr) {
      sched_yield();
      continue;
    }
    request->result = result;
    sink_.OnFinal(*request);
  }
  oldest_ns_.store(0, std::memory_order_relaxed);
  WakeSleepers();
}

void TcpLane::WakeSleepers() noexcept {
  turn_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) != 0) FutexWake(turn_, INT32_MAX);
}

}  // namespace spiritos
