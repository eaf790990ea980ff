// SPDX-License-Identifier: Apache-2.0
// The serving loop: who is looked at when, and who has been silent for too long.
#include "libos/remote/server/server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "libos/base/log.h"
#include "libos/base/parker.h"
#include "libos/base/status.h"
#include "libos/base/unix_socket.h"
#include "libos/remote/dial.h"
#include "libos/remote/server/pacer.h"

namespace spiritos {
namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kReviewNs = 250 * kMs;
// After the last request the server looks for the next one for about as long as a
// sleep and a wake-up would cost.
constexpr uint64_t kLingerNs = 20'000;
// Steps of one urgent connection before the others are looked at.
constexpr int kUrgentSteps = 8;
constexpr int kEvents = 64;
// Looks at the hot connection for each at all the others: some 2 us.
constexpr int kHotLooks = 4;
// Connections over TCP that have not said who they are. More than honest peers need, as
// that takes them some milliseconds; OpenSSL keeps some 76 KiB for each in a handshake.
constexpr size_t kMaxStrangers = 64;

absl::Status CheckMemory(Bytes memory) {
  if (memory.raw() >= kSlabSize) return absl::OkStatus();
  return InvalidArgument("memory of {} bytes is below a slab of {} (--memory)", memory.raw(),
                         kSlabSize);
}

absl::Status CheckBandwidth(const ServerOptions& options) {
  const uint64_t bandwidth = options.tenant_bandwidth;
  if (bandwidth == 0) return absl::OkStatus();
  if (bandwidth < Pacer::kMinRate) {
    return InvalidArgument(
        "{} bytes a second are below {}: three lanes of one program would wait for each other's "
        "messages until the server seems dead (--tenant-bandwidth)",
        bandwidth, Pacer::kMinRate);
  }
  if (options.rdma) {
    return InvalidArgument(
        "over RDMA the server takes no part in reads and writes, so it cannot hold them to {} "
        "bytes a second (--tenant-bandwidth without --rdma)",
        bandwidth);
  }
  return absl::OkStatus();
}

// Of a name, if one is given; else of the machine.
WireId HostId(std::string_view name) {
  WireId id{};
  std::memcpy(id.data(), name.data(), std::min(name.size(), id.size()));
  if (!name.empty()) return id;
  UniqueFd file(open("/etc/machine-id", O_RDONLY | O_CLOEXEC));
  std::array<char, 32> text{};
  if (file.valid() && read(file.get(), text.data(), text.size()) == 32) {
    const auto nibble = [](char c) {
      return static_cast<uint8_t>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10) & 0xF;
    };
    for (size_t i = 0; i < id.size(); ++i) {
      id[i] = static_cast<std::byte>(nibble(text[2 * i]) << 4 | nibble(text[2 * i + 1]));
    }
  }
  return id;
}

}  // namespace

MemoryServer::MemoryServer(const ServerOptions& options, std::unique_ptr<StateFolder> state)
    : options_(options),
      state_(std::move(state)),
      store_({.slabs = options.memory.raw() / kSlabSize,
              .lock = options.lock_memory,
              .state = state_.get()}),
      tenancy_(store_, {.lease_ns = options.lease_ms * kMs,
                        .slab_quota = options.slab_quota,
                        .tenant_bandwidth = options.tenant_bandwidth}),
      parts_{tenancy_, counters_, {}, store_, nullptr} {
  parts_.welcome.host = HostId(options.host);
  parts_.welcome.lease_ms = static_cast<uint32_t>(options.lease_ms);
  parts_.welcome.max_requests = ServerSession::kMaxRequests;
}

absl::StatusOr<std::unique_ptr<MemoryServer>> MemoryServer::Create(const ServerOptions& options) {
  SPIRITOS_RETURN_IF_ERROR(CheckMemory(options.memory));
  SPIRITOS_RETURN_IF_ERROR(CheckBandwidth(options));
  if (options.lease_ms < 1000 || options.lease_ms > UINT32_MAX) {
    return InvalidArgument("a lease of {} ms is not within 1 s and 49 days (--lease)",
                           options.lease_ms);
  }
  if (options.host.size() > WireId().size()) {
    return InvalidArgument("host \"{}\" has more than {} characters (--host)", options.host,
                           WireId().size());
  }
  if (options.unix_path.empty() && options.tcp_port < 0) {
    return InvalidArgument("nothing to listen on (--unix, --tcp)");
  }
  if (options.tls.any() && options.tcp_port < 0) {
    return InvalidArgument("TLS is for TCP, which is not listened on (--tcp)");
  }
  const bool proven = options.tls.any() || options.trust_network;
  if (options.tcp_port >= 0 && !proven && !IsLoopback(options.tcp_host)) {
    return InvalidArgument(
        "{} is not this machine alone, and nobody who connects would have to prove who they are: "
        "set --tls-psk, or --tls-cert, --tls-key and --tls-ca, or listen on 127.0.0.1 ({})",
        options.tcp_host, options.rdma ? "--rdma" : "--tcp");
  }
  std::unique_ptr<StateFolder> state;
  if (!options.state_path.empty()) {
    if (options.rdma) {
      return InvalidArgument(
          "keys to slabs end with the server, so slabs of {} are of no use over RDMA after it "
          "(--rdma without --state)",
          options.state_path);
    }
    if (!options.unix_path.empty()) {
      return InvalidArgument(
          "files of {} are not for passing to programs of this machine, which keep their slabs "
          "themselves: run a server of their own for them (--unix without --state)",
          options.state_path);
    }
    SPIRITOS_ASSIGN_OR_RETURN(
        state, StateFolder::Open(options.state_path,
                                 static_cast<uint32_t>(options.memory.raw() / kSlabSize)));
  }
  std::unique_ptr<MemoryServer> server(new MemoryServer(options, std::move(state)));
  if (options.tls.any()) {
    SPIRITOS_ASSIGN_OR_RETURN(server->parts_.tls, TlsContext::ForServer(options.tls));
  }
  WireId& name = server->parts_.welcome.server;
  if (server->state_ != nullptr) {
    name = server->state_->directory().server();
    server->restored_ = server->tenancy_.Restore(NowNs());
  } else if (getrandom(name.data(), name.size(), 0) < 0) {
    return ErrnoStatus(errno, "naming the server");
  }
  // Who waits for slabs that were found again does not wait for the others.
  if (server->restored_ == 0) SPIRITOS_RETURN_IF_ERROR(server->store_.Refill());
  SPIRITOS_RETURN_IF_ERROR(server->Listen());
  server->refiller_ = std::thread(&MemoryServer::RefillLoop, server.get());
  return server;
}

MemoryServer::~MemoryServer() {
  Stop();
  WakeRefiller();
  if (refiller_.joinable()) refiller_.join();
  connections_.clear();  // Before what their sessions borrow.
  if (unix_listener_.valid()) unlink(options_.unix_path.c_str());
}

void MemoryServer::Stop() noexcept {
  stopping_.store(true);
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t ignored = write(wake_.get(), &one, sizeof(one));
}

absl::Status MemoryServer::Resize(Bytes memory) {
  SPIRITOS_RETURN_IF_ERROR(CheckMemory(memory));
  const uint64_t slabs = memory.raw() / kSlabSize;
  if (slabs > store_.max_limit()) {
    return InvalidArgument(
        "memory of {} slabs is more than the {} that {} has room for until the server is started "
        "again (--memory, --state)",
        slabs, store_.max_limit(), options_.state_path);
  }
  store_.SetLimit(slabs);
  WakeRefiller();
  return absl::OkStatus();
}

void MemoryServer::Drain() {
  store_.SetLimit(0);
  draining_.store(true, std::memory_order_release);  // Pairs with AskBack(): after the limit.
  WakeRefiller();
}

absl::Status MemoryServer::Reconfigure(const ServerOptions& options) {
  SPIRITOS_RETURN_IF_ERROR(CheckBandwidth(options));
  SPIRITOS_RETURN_IF_ERROR(Resize(options.memory));
  tenancy_.SetLimits(options.slab_quota, options.tenant_bandwidth);
  return absl::OkStatus();
}

absl::Status MemoryServer::Listen() {
  epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_.valid() || !wake_.valid()) return ErrnoStatus(errno, "making the server's events");
  if (!options_.unix_path.empty()) {
    SPIRITOS_ASSIGN_OR_RETURN(unix_listener_,
                              ListenUnix(options_.unix_path, SOCK_STREAM, "--unix"));
  }
  if (options_.tcp_port >= 0) SPIRITOS_RETURN_IF_ERROR(ListenTcp());
  if (options_.rdma) {
    SPIRITOS_ASSIGN_OR_RETURN(
        rdma_, RdmaListener::Listen(options_.tcp_host, tcp_port_, tenancy_, counters_));
    tenancy_.set_exposer(rdma_.get());
  }
  const int rdma = rdma_ == nullptr ? -1 : rdma_->fd();
  for (const int fd : {wake_.get(), unix_listener_.get(), tcp_listener_.get(), rdma}) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    if (fd >= 0 && epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
      return ErrnoStatus(errno, "watching the server's sockets");
    }
  }
  return absl::OkStatus();
}

absl::Status MemoryServer::ListenTcp() {
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::string port = fmt::format("{}", options_.tcp_port);
  if (const int error = getaddrinfo(options_.tcp_host.c_str(), port.c_str(), &hints, &found);
      error != 0) {
    return InvalidArgument("{}:{}: {} (--tcp)", options_.tcp_host, port, gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owned(found, freeaddrinfo);
  tcp_listener_ = UniqueFd(socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1;
  setsockopt(tcp_listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (!tcp_listener_.valid() || bind(tcp_listener_.get(), found->ai_addr, found->ai_addrlen) != 0 ||
      listen(tcp_listener_.get(), SOMAXCONN) != 0) {
    const int error = errno;
    tcp_listener_.Reset();
    return ErrnoStatus(error, fmt::format("listening on {}:{} (--tcp)", options_.tcp_host, port));
  }
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  getsockname(tcp_listener_.get(), reinterpret_cast<sockaddr*>(&bound), &size);
  tcp_port_ =
      ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                                        : reinterpret_cast<const sockaddr_in&>(bound).sin_port);
  return absl::OkStatus();
}

void MemoryServer::Run() {
  while (!stopping_.load()) {
    for (int look = 0; look < kHotLooks && hot_ != nullptr && queue_.empty(); ++look) ServeHot();
    const uint64_t now = ServeReady();
    if (!queue_.empty()) {
      ServerConnection& next = *queue_.front();
      queue_.erase(queue_.begin());
      next.in_queue = false;
      TakeTurns(next, now, 1);
    }
    if (now >= resume_ns_) ResumePaused(now);
    if (now - reviewed_ns_ > kReviewNs) Review(now);
  }
}

// A program that reads page after page asks again within microseconds. To ask its socket
// costs one system call; to ask who is ready, and then it, costs three.
void MemoryServer::ServeHot() {
  const uint64_t now = NowNs();
  if (now >= busy_until_ns_) {
    hot_ = nullptr;
    return;
  }
  ServerConnection& connection = *hot_;
  TakeTurns(connection, now, 1);
  if (hot_ != nullptr && hot_->progress_ns() == now) busy_until_ns_ = now + kLingerNs;
}

uint64_t MemoryServer::ServeReady() {
  std::array<epoll_event, kEvents> events;
  const int ready = epoll_wait(epoll_.get(), events.data(), kEvents, WaitMs(NowNs()));
  const uint64_t now = NowNs();
  for (int i = 0; i < ready; ++i) {
    const int fd = events[static_cast<size_t>(i)].data.fd;
    if (fd == unix_listener_.get() || fd == tcp_listener_.get()) {
      Accept(fd, now);
      continue;
    }
    if (rdma_ != nullptr && fd == rdma_->fd()) {
      rdma_->Step(now);
      continue;
    }
    const auto at = connections_.find(fd);
    if (at == connections_.end()) continue;  // The wake-up, or closed by an event before.
    ServerConnection& connection = *at->second;
    busy_until_ns_ = now + kLingerNs;
    if (connection.urgent()) {
      hot_ = &connection;
      TakeTurns(connection, now, kUrgentSteps);
    } else {
      Enqueue(connection);
    }
  }
  return now;
}

int MemoryServer::WaitMs(uint64_t now_ns) const {
  if (!queue_.empty() || now_ns < busy_until_ns_) return 0;
  const uint64_t wait_ns = kReviewNs * (connections_.empty() ? 4 : 1);
  const uint64_t paused_ns = resume_ns_ - std::min(resume_ns_, now_ns);
  return static_cast<int>((std::min(wait_ns, paused_ns) + kMs - 1) / kMs);
}

void MemoryServer::TakeTurns(ServerConnection& connection, uint64_t now_ns, int steps) {
  auto turn = ServerConnection::Turn::kMore;
  for (; turn == ServerConnection::Turn::kMore && steps != 0; --steps) {
    turn = connection.Step(parts_, now_ns);
  }
  if (turn == ServerConnection::Turn::kClosed) return Close(connection);
  Watch(connection);
  if (connection.greeted() && connection.session()->paused()) Pause(connection);
  // What waits inside, as TLS keeps it, wakes nobody.
  if (turn == ServerConnection::Turn::kMore) Enqueue(connection);
}

void MemoryServer::Pause(ServerConnection& connection) {
  resume_ns_ = std::min(resume_ns_, connection.session()->resume_ns());
  if (connection.in_pause) return;
  connection.in_pause = true;
  paused_.push_back(&connection);
}

// Those that somebody waits for first. Who still may not go on is paused again.
void MemoryServer::ResumePaused(uint64_t now_ns) {
  std::vector<ServerConnection*> paused = std::exchange(paused_, {});
  resume_ns_ = UINT64_MAX;
  std::stable_partition(paused.begin(), paused.end(),
                        [](const ServerConnection* connection) { return connection->urgent(); });
  for (ServerConnection* connection : paused) {
    connection->in_pause = false;
    if (connection->session()->Resume(now_ns)) {
      TakeTurns(*connection, now_ns, 1);
    } else {
      Close(*connection);
    }
  }
}

void MemoryServer::Enqueue(ServerConnection& connection) {
  if (connection.in_queue) return;
  connection.in_queue = true;
  queue_.push_back(&connection);
}

void MemoryServer::Watch(ServerConnection& connection) {
  const uint32_t wanted =
      (connection.waits_to_receive() ? EPOLLIN : 0u) | (connection.waits_to_send() ? EPOLLOUT : 0u);
  if (wanted == connection.polled_for) return;
  epoll_event event{.events = wanted, .data = {.fd = connection.socket()}};
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, connection.socket(), &event);
  connection.polled_for = wanted;
}

void MemoryServer::Accept(int listener, uint64_t now_ns) {
  UniqueFd socket(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.valid()) {
    const bool gone = errno == EAGAIN || errno == ECONNABORTED || errno == EINTR;
    if (!gone) SetListening(false);
    return;
  }
  counters_.Add(ServerCounter::kConnections);
  std::string identity;
  UniqueFd process;
  const bool local = listener == unix_listener_.get();
  if (local) {
    absl::StatusOr<UnixPeer> peer = PeerOf(socket.get());
    if (!peer.ok()) return;
    identity = fmt::format("uid{}:", peer->uid);
    process = std::move(peer->process);  // None: then its lease alone counts.
  } else {
    const int on = 1;
    setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  }
  if (!local) MakeRoom();
  const int fd = socket.get();
  auto connection = std::make_unique<ServerConnection>(std::move(socket), std::move(identity),
                                                       local, now_ns, std::move(process));
  connection->polled_for = EPOLLIN;
  epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return;
  connections_[fd] = std::move(connection);
  connection_count_.store(connections_.size(), std::memory_order_relaxed);
}

// Without a descriptor for the next connection the listeners are not watched, or they
// would be ready for ever. The backlog waits until a connection is closed, or until the
// next review where it was the machine that ran out.
void MemoryServer::SetListening(bool listening) {
  if (listening == listening_) return;
  listening_ = listening;
  if (!listening) counters_.Add(ServerCounter::kOutOfDescriptors);
  for (const int fd : {unix_listener_.get(), tcp_listener_.get()}) {
    epoll_event event{.events = listening ? EPOLLIN : 0u, .data = {.fd = fd}};
    if (fd >= 0) epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
  }
}

// Of too many strangers the one that has waited longest goes: it is the least likely to
// be an honest one.
void MemoryServer::MakeRoom() {
  size_t strangers = 0;
  ServerConnection* oldest = nullptr;
  for (const auto& [fd, connection] : connections_) {
    if (connection->local() || connection->greeted()) continue;
    ++strangers;
    if (oldest == nullptr || connection->accepted_ns() < oldest->accepted_ns()) {
      oldest = connection.get();
    }
  }
  if (strangers < kMaxStrangers) return;
  counters_.Add(ServerCounter::kCrowdedPeers);
  Close(*oldest);
}

void MemoryServer::Close(ServerConnection& connection) {
  std::erase(queue_, &connection);
  std::erase(paused_, &connection);
  if (hot_ == &connection) hot_ = nullptr;
  connections_.erase(connection.socket());  // Closing the socket ends its watch.
  connection_count_.store(connections_.size(), std::memory_order_relaxed);
  SetListening(true);
}

void MemoryServer::Review(uint64_t now_ns) {
  reviewed_ns_ = now_ns;
  std::vector<ServerConnection*> dead;
  for (const auto& [fd, connection] : connections_) {
    const uint64_t idle_ns = now_ns - connection->progress_ns();
    if (!connection->greeted() && now_ns - connection->accepted_ns() > options_.greeting_ms * kMs) {
      counters_.Add(ServerCounter::kSilentPeers);
      dead.push_back(connection.get());
    } else if (connection->has_outgoing() && idle_ns > options_.slow_peer_ms * kMs) {
      counters_.Add(ServerCounter::kSlowPeers);
      dead.push_back(connection.get());
    } else if (connection->greeted() &&
               now_ns - connection->session()->client().heard_ns > options_.lease_ms * kMs) {
      dead.push_back(connection.get());
    }
  }
  for (ServerConnection* connection : dead) Close(*connection);
  SetListening(true);
  const uint32_t expired = tenancy_.Expire(now_ns);
  if (expired != 0) counters_.Add(ServerCounter::kLeasesExpired, expired);
  client_count_.store(tenancy_.client_count(), std::memory_order_relaxed);
  AskBack(now_ns);
  Tell(now_ns);
  if (store_.ready() != store_.free()) WakeRefiller();
}

void MemoryServer::AskBack(uint64_t now_ns) {
  if (draining_.exchange(false, std::memory_order_acquire)) reclaim_.Begin();
  const uint64_t excess = store_.excess();
  const uint64_t fixed = tenancy_.AskBack(excess);
  if (reclaim_.Look(excess, fixed, now_ns)) counters_.Add(ServerCounter::kReclaimsStuck);
}

void MemoryServer::Tell(uint64_t now_ns) {
  std::vector<TenantFigures> figures = tenancy_.Figures(now_ns);
  {
    LockGuard guard(figures_mutex_);
    tenant_figures_.swap(figures);
  }
  if (options_.on_review) options_.on_review();
}

std::vector<TenantFigures> MemoryServer::tenants() const {
  LockGuard guard(figures_mutex_);
  return tenant_figures_;
}

void MemoryServer::WakeRefiller() noexcept {
  refill_wanted_.fetch_add(1);
  FutexWake(refill_wanted_, 1);
}

void MemoryServer::RefillLoop() {
  bool failed = false;
  while (!stopping_.load()) {
    const uint32_t seen = refill_wanted_.load();
    const absl::Status status = store_.Refill();
    // It is tried at every review, and said once.
    if (!status.ok() && !failed) {
      LogWarning(fmt::format("making slabs ready: {}", status.ToString()));
    }
    failed = !status.ok();
    FutexWait(refill_wanted_, seen);
  }
}

}  // namespace spiritos
