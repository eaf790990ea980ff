// SPDX-License-Identifier: Apache-2.0
// Handshakes, and the thread that moves bytes between plain sockets and TLS.
#include "libos/remote/tls_tunnel.h"

#include <fmt/core.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "libos/base/clock.h"
#include "libos/base/service_thread.h"
#include "libos/base/socket_parts.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

// As much as a record holds.
constexpr size_t kBuffer = size_t{1} << 14;
// Buffers of each direction that a connection may move before others have their turn.
constexpr int kRounds = 4;
constexpr int kEvents = 16;

}  // namespace

// One connection: the thread's, once it is watched.
class TlsTunnel::Pipe {
 public:
  enum class Turn : uint8_t { kMore, kDrained, kEnded };

  Pipe(UniqueFd near, UniqueFd socket, std::unique_ptr<TlsStream> tls)
      : near_(std::move(near)), socket_(std::move(socket)), tls_(std::move(tls)) {}
  // Somebody may hold a copy of a descriptor, as a child of fork() does: it must not keep
  // the connection alive.
  ~Pipe() {
    tls_->Close();
    shutdown(socket_.get(), SHUT_RDWR);
    shutdown(near_.get(), SHUT_RDWR);
  }

  int near() const { return near_.get(); }
  int socket() const { return socket_.get(); }
  unsigned long error() const { return tls_->error(); }

  Turn TakeTurn() noexcept {
    for (int round = 0; round < kRounds; ++round) {
      const Flow down = MoveDown();
      const Flow up = MoveUp();
      if (down == Flow::kEnded || up == Flow::kEnded) return Turn::kEnded;
      if (down == Flow::kBlocked && up == Flow::kBlocked) return Turn::kDrained;
    }
    return Turn::kMore;
  }

  bool busy = false;  // In the tunnel's list of those.

 private:
  enum class Flow : uint8_t { kMoved, kBlocked, kEnded };

  // Bytes on their way: [begin, end) of the buffer.
  struct Half {
    std::array<std::byte, kBuffer> buffer;
    size_t begin = 0;
    size_t end = 0;

    bool empty() const { return begin == end; }
    iovec Room() { return {buffer.data(), buffer.size()}; }
    iovec Rest() { return {buffer.data() + begin, end - begin}; }
    // After moving bytes into the room, or out of the rest.
    Flow Filled(ssize_t bytes) {
      if (bytes <= 0) return bytes < 0 && errno == EAGAIN ? Flow::kBlocked : Flow::kEnded;
      begin = 0;
      end = static_cast<size_t>(bytes);
      return Flow::kMoved;
    }
    Flow Emptied(ssize_t bytes) {
      if (bytes < 0) return errno == EAGAIN ? Flow::kBlocked : Flow::kEnded;
      begin += static_cast<size_t>(bytes);
      return Flow::kMoved;
    }
  };

  Flow MoveDown() noexcept {
    if (down_.empty()) {
      const iovec room = down_.Room();
      if (const Flow flow = down_.Filled(tls_->Receive({&room, 1})); flow != Flow::kMoved) {
        return flow;
      }
    }
    iovec rest = down_.Rest();
    return down_.Emptied(SendParts(near_.get(), {&rest, 1}, -1));
  }

  Flow MoveUp() noexcept {
    if (up_.empty()) {
      iovec room = up_.Room();
      UniqueFd none;
      if (const Flow flow = up_.Filled(ReceiveParts(near_.get(), {&room, 1}, &none));
          flow != Flow::kMoved) {
        return flow;
      }
    }
    const iovec rest = up_.Rest();
    return up_.Emptied(tls_->Send({&rest, 1}));
  }

  const UniqueFd near_;
  const UniqueFd socket_;
  const std::unique_ptr<TlsStream> tls_;
  Half down_;  // From the server.
  Half up_;
};

TlsTunnel::TlsTunnel(std::unique_ptr<TlsContext> context) : context_(std::move(context)) {}

absl::StatusOr<std::unique_ptr<TlsTunnel>> TlsTunnel::Create(std::unique_ptr<TlsContext> context) {
  std::unique_ptr<TlsTunnel> tunnel(new TlsTunnel(std::move(context)));
  SPIRITOS_RETURN_IF_ERROR(tunnel->Start());
  return tunnel;
}

absl::Status TlsTunnel::Start() {
  epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_.valid() || !wake_.valid()) return ErrnoStatus(errno, "making a TLS tunnel");
  SPIRITOS_RETURN_IF_ERROR(Watch(wake_.get(), nullptr));
  thread_ = StartServiceThread("spiritos-tls", [this] { Run(); });
  return absl::OkStatus();
}

TlsTunnel::~TlsTunnel() {
  stopping_.store(true);
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t ignored = write(wake_.get(), &one, sizeof(one));
  if (thread_.joinable()) thread_.join();
}

// Edge-triggered: a pipe has its turns until nothing moves.
absl::Status TlsTunnel::Watch(int fd, Pipe* pipe) {
  epoll_event event{.events = EPOLLIN | EPOLLOUT | EPOLLET, .data = {.ptr = pipe}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "watching a TLS connection");
}

absl::StatusOr<UniqueFd> TlsTunnel::Wrap(UniqueFd socket, const std::string& host,
                                         uint64_t deadline_ns) {
  last_error_.store(0, std::memory_order_relaxed);
  std::unique_ptr<TlsStream> tls = TlsStream::Connect(*context_, socket.get(), host);
  if (tls == nullptr) return absl::ResourceExhaustedError("no memory for a TLS connection");
  for (auto progress = tls->Handshake(); progress != TlsStream::Progress::kDone;
       progress = tls->Handshake()) {
    if (progress == TlsStream::Progress::kFailed) {
      return absl::UnavailableError(
          fmt::format("the TLS handshake with {} failed: {}", host, TlsErrorText(tls->error())));
    }
    const short events = tls->wants_to_write() ? POLLOUT : POLLIN;
    if (!AwaitSocket(socket.get(), events, deadline_ns)) {
      return absl::DeadlineExceededError(
          fmt::format("the TLS handshake with {} took too long", host));
    }
  }
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
    return ErrnoStatus(errno, "making a TLS tunnel");
  }
  UniqueFd far_end(ends[0]);
  auto pipe = std::make_unique<Pipe>(UniqueFd(ends[1]), std::move(socket), std::move(tls));
  LockGuard guard(mutex_);
  Pipe& kept = *pipes_.emplace_back(std::move(pipe));
  if (const absl::Status status = Watch(kept.near(), &kept); !status.ok()) {
    pipes_.pop_back();
    return status;
  }
  // Without the other end it goes when the thread sees that `far_end` is closed.
  SPIRITOS_RETURN_IF_ERROR(Watch(kept.socket(), &kept));
  return far_end;
}

absl::Status TlsTunnel::Explain(const absl::Status& status) const {
  const unsigned long error = last_error_.load(std::memory_order_relaxed);
  if (status.ok() || error == 0) return status;
  return absl::Status(status.code(), fmt::format("{} (TLS: {})", std::string(status.message()),
                                                 TlsErrorText(error)));
}

void TlsTunnel::Run() {
  std::array<epoll_event, kEvents> events;
  while (!stopping_.load()) {
    const int ready = epoll_wait(epoll_.get(), events.data(), kEvents, busy_.empty() ? -1 : 0);
    for (int i = 0; i < ready; ++i) {
      auto* const pipe = static_cast<Pipe*>(events[static_cast<size_t>(i)].data.ptr);
      if (pipe == nullptr || pipe->busy) continue;
      pipe->busy = true;
      busy_.push_back(pipe);
    }
    TakeTurns();
  }
}

void TlsTunnel::TakeTurns() {
  std::erase_if(busy_, [&](Pipe* pipe) {
    const Pipe::Turn turn = pipe->TakeTurn();
    if (turn == Pipe::Turn::kMore) return false;
    pipe->busy = false;
    if (turn == Pipe::Turn::kEnded) Close(*pipe);
    return true;
  });
}

void TlsTunnel::Close(Pipe& pipe) {
  if (pipe.error() != 0) last_error_.store(pipe.error(), std::memory_order_relaxed);
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, pipe.near(), nullptr);
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, pipe.socket(), nullptr);
  LockGuard guard(mutex_);
  std::erase_if(pipes_, [&](const auto& kept) { return kept.get() == &pipe; });
}

}  // namespace spiritos
