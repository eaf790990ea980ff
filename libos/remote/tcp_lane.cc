// SPDX-License-Identifier: Apache-2.0
// Messages to a socket, and replies to their memory.
#include "libos/remote/tcp_lane.h"

#include <poll.h>
#include <sched.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace spiritos {
namespace {

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
  Resume();
}

bool TcpLane::TryConnect(UniqueFd& socket, uint16_t version) {
  LockGuard guard(lock_);
  if (MovingLocked()) return false;
  socket_ = std::move(socket);
  version_ = version;
  sent_bytes_ = 0;
  received_ = 0;
  ResumeLocked();
  return true;
}

bool TcpLane::AdmitLocked(uint32_t place, uint64_t id, const LaneRequest& request) noexcept {
  FrameHeader header;
  header.version = version_;
  header.op = request.op == IoOp::kRead ? WireOp::kRead : WireOp::kWrite;
  header.id = id;
  header.slab = request.slab;
  header.epoch = request.epoch;
  header.first = request.first;
  header.pages = request.pages;
  header.payload = static_cast<uint32_t>(MessageBytes(request) - FrameHeader::kSize);
  if (request.op == IoOp::kWrite) {
    header.payload_crc = Crc32c(
        {reinterpret_cast<const std::byte*>(request.trailers.data()), TrailerBytes(request)});
  }
  EncodeFrame(header, &headers_[place]);
  return true;
}

void TcpLane::Send() noexcept {
  std::array<iovec, kSendParts> parts;
  while (true) {
    uint32_t count = 0;
    {
      LockGuard guard(lock_);
      if (sending_ || !MayMoveLocked()) return;
      count = GatherLocked(parts.data());
      if (count == 0) return;
      sending_ = true;
    }
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = count;
    const ssize_t sent = sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    const int error = sent < 0 ? errno : 0;
    // While it sends: what it broke may be replaced as soon as nobody uses it.
    const bool gone = error != 0 && error != EINTR && !WouldBlock(error);
    if (gone) Break();
    {
      LockGuard guard(lock_);
      sending_ = false;
      send_blocked_ = WouldBlock(error);
      if (sent > 0) AdvanceSentLocked(static_cast<size_t>(sent));
    }
    if (gone || WouldBlock(error)) return;
  }
}

uint32_t TcpLane::GatherLocked(iovec* parts) noexcept {
  Gather gather(parts, sent_bytes_);
  for (uint32_t i = sent_; i < count_ && gather.count() + 3 <= kSendParts; ++i) {
    LaneRequest& request = RequestLocked(i);
    FrameBytes& header = headers_[PlaceLocked(i)];
    gather.Add(header.data(), header.size());
    if (request.op == IoOp::kRead) continue;
    gather.Add(request.trailers.data(), TrailerBytes(request));
    gather.Add(request.memory, PayloadBytes(request));
  }
  return gather.count();
}

void TcpLane::AdvanceSentLocked(size_t bytes) noexcept {
  sent_bytes_ += bytes;
  while (sent_ < count_ && sent_bytes_ >= MessageBytes(RequestLocked(sent_))) {
    sent_bytes_ -= MessageBytes(RequestLocked(sent_));
    ++sent_;
  }
}

uint32_t TcpLane::PlaceReplies(iovec* parts) noexcept {
  LockGuard guard(lock_);
  arriving_.store(true, std::memory_order_relaxed);
  Gather gather(parts, received_);
  for (uint32_t i = 0; i < std::min(sent_, kReceiveReplies); ++i) {
    LaneRequest& request = RequestLocked(i);
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
    size_t wanted = 0;
    for (size_t i = 0; i < message.msg_iovlen; ++i) wanted += parts[i].iov_len;
    const ssize_t got = wanted == 0 ? 0 : recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    arriving_.store(false, std::memory_order_release);
    if (wanted == 0) return finished;  // Nothing is due.
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
      request = &RequestLocked(0);
      id = IdLocked(0);
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
      PopLocked();
    }
    request->result = header.status;
    sink_.OnFinal(*request);
  }
  if (taken != 0 && taken < kReceiveReplies) replies_[0] = replies_[taken];
  return true;
}

void TcpLane::Sleep(uint64_t timeout_ns) noexcept {
  pollfd wait{socket_.get(), POLLIN, 0};
  {
    LockGuard guard(lock_);
    if (send_blocked_) wait.events |= POLLOUT;
  }
  const timespec timeout{0, static_cast<long>(timeout_ns)};
  ppoll(&wait, 1, &timeout, nullptr);
}

void TcpLane::Interrupt() noexcept { shutdown(socket_.get(), SHUT_RDWR); }

}  // namespace spiritos
