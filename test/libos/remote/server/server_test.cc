// SPDX-License-Identifier: Apache-2.0
// A memory server at the limits of its process, over real sockets.
#include "libos/remote/server/server.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <vector>

#include "libos/base/clock.h"
#include "test/support/server_thread.h"

namespace spiritos {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;

// Descriptors of this process end a few above those it has, until the end of scope.
class FewDescriptors {
 public:
  explicit FewDescriptors(rlim_t more) {
    REQUIRE(getrlimit(RLIMIT_NOFILE, &before_) == 0);
    const UniqueFd next(fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0));
    const rlimit few{static_cast<rlim_t>(next.get()) + more, before_.rlim_max};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &few) == 0);
  }
  ~FewDescriptors() { setrlimit(RLIMIT_NOFILE, &before_); }
  FewDescriptors(const FewDescriptors&) = delete;
  FewDescriptors& operator=(const FewDescriptors&) = delete;

 private:
  rlimit before_{};
};

// What all threads of this process have had of the CPU.
uint64_t CpuNs() {
  timespec used{};
  REQUIRE(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) == 0);
  return static_cast<uint64_t>(used.tv_sec) * kSecond + static_cast<uint64_t>(used.tv_nsec);
}

absl::StatusOr<WelcomeBody> GreetAs(int socket, uint8_t id, uint64_t patience_ns) {
  HelloBody hello;
  hello.client[0] = std::byte{id};
  hello.tenant = {'t'};
  return Greet(socket, hello, NowNs() + patience_ns);
}

TEST_CASE("a server without descriptors sleeps, and serves who waits when one is free",
          "[remote][server]") {
  ServerThread running({.tcp_port = 0, .memory = Bytes(kSlabSize), .lock_memory = false});
  const ServerCounters& counters = running.server().counters();
  constexpr uint8_t kPeers = 6;
  std::vector<UniqueFd> peers;  // Made before the limit: what is left is the server's.
  for (int i = 0; i < kPeers; ++i) {
    peers.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(running.server().tcp_port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  uint8_t greeted = 0;
  {
    const FewDescriptors few(3);
    for (const UniqueFd& peer : peers) {  // The backlog takes any number.
      REQUIRE(connect(peer.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    }
    uint64_t cpu_before = CpuNs();
    while (greeted < kPeers && GreetAs(peers[greeted].get(), greeted, kSecond).ok()) {
      ++greeted;
      cpu_before = CpuNs();
    }
    CHECK(greeted == 3);
    CHECK(CpuNs() - cpu_before < kSecond / 4);  // A loop that spins takes all of a second.
    CHECK(counters.Get(ServerCounter::kOutOfDescriptors) >= 1);
    CHECK(counters.Get(ServerCounter::kOutOfDescriptors) <= 10);  // Once a review.
    pollfd waiting{peers[greeted].get(), POLLIN, 0};
    CHECK(poll(&waiting, 1, 0) == 0);
    peers[0].Reset();
    CHECK(poll(&waiting, 1, 5000) == 1);  // Its greeting had been sent already.
  }
  for (uint8_t i = greeted + 1; i < kPeers; ++i) {
    CHECK(GreetAs(peers[i].get(), i, 5 * kSecond).ok());
  }
}

}  // namespace
}  // namespace spiritos
