// SPDX-License-Identifier: Apache-2.0
// Proxy: stands between a client and a server and does what networks do.
#pragma once

#include <arpa/inet.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <cstddef>
#include <functional>
#include <list>
#include <mutex>
#include <set>
#include <span>
#include <thread>
#include <vector>

#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "libos/base/fd.h"
#include "libos/remote/dial.h"

namespace spiritos {

class Proxy {
 public:
  // One way of one connection.
  struct Stream {
    uint64_t number = 0;
    bool from_client = false;
  };
  // What goes on in place of `bytes`, which have just come. The proxy's thread calls.
  using Meddle = std::function<void(Stream stream, std::vector<std::byte>* bytes)>;

  explicit Proxy(ServerAddress target, Meddle meddle = {})
      : target_(std::move(target)), meddle_(std::move(meddle)) {
    listener_ = UniqueFd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in any{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(any);
    auto* const name = reinterpret_cast<sockaddr*>(&any);
    SPIRITOS_CHECK(bind(listener_.get(), name, size) == 0 && listen(listener_.get(), 64) == 0 &&
                       getsockname(listener_.get(), name, &size) == 0,
                   "no proxy");
    port_ = ntohs(any.sin_port);
    thread_ = std::thread([this] { Run(); });
  }
  ~Proxy() {
    stopping_.store(true);
    Hold(false);
    shutdown(listener_.get(), SHUT_RDWR);  // Wakes it.
    thread_.join();
  }
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

  ServerAddress address() const {
    return {ServerAddress::Kind::kTcp, "127.0.0.1", fmt::format("{}", port_)};
  }
  // Of the next bytes to pass, either way, one is flipped.
  void FlipNext() { flip_.store(true); }
  // The next bytes pass by half, and their connection ends.
  void CutNext() { cut_.store(true); }
  // Of the next page that a server sends, half passes; what follows is held.
  void HalveNextPage() { gate_.store(Gate::kHalve); }
  // From now on nothing passes, and no connection ends for it; or what has waited does.
  void Hold(bool hold) {
    gate_.store(hold ? Gate::kShut : Gate::kOpen);
    gate_.notify_one();
  }
  // What was asked for has been done.
  bool done() const { return !flip_.load() && !cut_.load() && gate_.load() != Gate::kHalve; }
  // Whether the stream's connection has been ended, by either side.
  bool HasEnded(Stream stream) const {
    const std::lock_guard<std::mutex> guard(mutex_);
    return ended_.contains(stream.number - (stream.from_client ? 0 : 1));
  }

 private:
  enum class Gate { kOpen, kHalve, kShut };
  struct Pair {
    UniqueFd client;
    UniqueFd server;
    uint64_t number = 0;  // From the client's side; the next one is from the server's.
  };

  void Run() {
    while (!stopping_.load()) {
      gate_.wait(Gate::kShut);
      std::vector<pollfd> waits{{listener_.get(), POLLIN, 0}};
      for (const Pair& pair : pairs_) {
        waits.push_back({pair.client.get(), POLLIN, 0});
        waits.push_back({pair.server.get(), POLLIN, 0});
      }
      if (poll(waits.data(), waits.size(), -1) <= 0 || gate_.load() == Gate::kShut) continue;
      size_t i = 1;
      pairs_.remove_if([&](const Pair& pair) {
        const bool from_client = waits[i++].revents != 0;
        const bool from_server = waits[i++].revents != 0;
        const bool ends =
            (from_client && !Pass(pair.client, pair.server, {pair.number, true})) ||
            (from_server && !Pass(pair.server, pair.client, {pair.number + 1, false}));
        if (!ends) return false;
        const std::lock_guard<std::mutex> guard(mutex_);
        ended_.insert(pair.number);
        return true;
      });
      if ((waits[0].revents & POLLIN) == 0) continue;
      UniqueFd client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!client.valid()) continue;
      auto server = Dial(target_, NowNs() + 1'000'000'000);
      if (server.ok()) pairs_.push_back({std::move(client), *std::move(server), accepted_ += 2});
    }
  }
  bool Pass(const UniqueFd& from, const UniqueFd& to, Stream stream) {
    std::vector<std::byte> bytes(65536);
    const ssize_t got = recv(from.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return true;
    if (got <= 0) return false;
    bytes.resize(static_cast<size_t>(got));
    const bool cut = cut_.exchange(false);
    if (cut) bytes.resize(bytes.size() / 2);
    if (flip_.exchange(false)) bytes[bytes.size() / 2] ^= std::byte{0x10};
    if (meddle_) meddle_(stream, &bytes);
    std::span<const std::byte> rest(bytes);
    Gate halve = Gate::kHalve;
    if (!stream.from_client && bytes.size() >= 4096 &&
        gate_.compare_exchange_strong(halve, Gate::kShut)) {
      const size_t half = bytes.size() / 2;
      if (!Send(rest.first(half), to)) return false;
      rest = rest.subspan(half);
      gate_.wait(Gate::kShut);
    }
    return Send(rest, to) && !cut;
  }
  static bool Send(std::span<const std::byte> bytes, const UniqueFd& to) {
    while (!bytes.empty()) {
      const ssize_t n = send(to.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN) return false;
      if (n < 0) {
        pollfd wait{to.get(), POLLOUT, 0};
        poll(&wait, 1, 1000);
      }
      bytes = bytes.subspan(n > 0 ? static_cast<size_t>(n) : 0);
    }
    return true;
  }

  const ServerAddress target_;
  const Meddle meddle_;
  UniqueFd listener_;
  int port_ = 0;
  std::list<Pair> pairs_;
  uint64_t accepted_ = 0;
  mutable std::mutex mutex_;
  std::set<uint64_t> ended_;  // The pairs' numbers.
  std::atomic<bool> flip_{false};
  std::atomic<bool> cut_{false};
  std::atomic<Gate> gate_{Gate::kOpen};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace spiritos
