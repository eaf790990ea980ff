// SPDX-License-Identifier: Apache-2.0
// Tenant and arbiter over a real socket: welcomed, refused, gone, flooded.
#include "arbiter/attach.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "libos/base/clock.h"
#include "libos/base/socket_parts.h"
#include "libos/base/unix_socket.h"
#include "test/support/temp_dir.h"

namespace spiritos {
namespace {

constexpr uint64_t kSecondNs = 1'000'000'000;

uint64_t Soon() { return NowNs() + 20 * kSecondNs; }

// The arbiter's side of one tenant, on the test's thread.
class Door {
 public:
  Door() : listener_(ListenUnix(path(), SOCK_SEQPACKET, "--socket").value()) {}

  std::string path() const { return folder_.file("arbiter.sock"); }
  UniqueFd Accept() {
    REQUIRE(AwaitSocket(listener_.get(), POLLIN, Soon()));
    return UniqueFd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  }
  void Close() { listener_.Reset(); }

 private:
  TempDir folder_;
  UniqueFd listener_;
};

absl::StatusOr<Hello> Greeting(int socket) {
  REQUIRE(AwaitSocket(socket, POLLIN, Soon()));
  return ReceiveHello(socket);
}

// A tenant that attaches while the test's thread answers.
struct Attaching {
  explicit Attaching(const std::string& path, Hello hello = {})
      : thread([this, path, hello] { link.emplace(ArbiterLink::Attach(path, hello, Soon())); }) {}
  ~Attaching() { Join(); }
  absl::StatusOr<ArbiterLink>& Join() {
    if (thread.joinable()) thread.join();
    return *link;
  }
  std::optional<absl::StatusOr<ArbiterLink>> link;
  std::thread thread;
};

TEST_CASE("a tenant is welcomed, reports, and gets its grant", "[arbiter]") {
  Door door;
  Hello hello{.held_bytes = 12345, .terms = {.least_bytes = 99}};
  hello.set_name("redis\n\x1b[2J");
  Attaching attaching(door.path(), hello);
  const UniqueFd socket = door.Accept();
  const Hello got = Greeting(socket.get()).value();
  CHECK(got.held_bytes == 12345);
  CHECK(got.terms.least_bytes == 99);
  CHECK(got.terms.weight_ppm == kMillion);
  CHECK(got.printable_name() == "redis??[2J");
  const Segment segment = Segment::Create(5).value();
  REQUIRE(SendWelcome(socket.get(), segment).ok());
  REQUIRE(attaching.Join().ok());
  ArbiterLink& link = **attaching.link;
  CHECK(link.instance() == 5);

  Grant grant;
  CHECK_FALSE(link.TakeGrant(&grant));
  Mailbox<Grant>::Writer granting(segment.grant());
  granting.Publish({.epoch = {5, 1}, .budget_bytes = 777});
  Nudge(socket.get());
  REQUIRE(link.Await(Soon()));
  REQUIRE(link.TakeGrant(&grant));
  CHECK(grant.budget_bytes == 777);
  CHECK_FALSE(link.TakeGrant(&grant));

  link.Tell({.obeyed = grant.epoch, .budget_bytes = 777});
  REQUIRE(AwaitSocket(socket.get(), POLLIN, Soon()));
  CHECK(TakeNudges(socket.get()));
  uint64_t seen = 0;
  Report report;
  REQUIRE(segment.report().Read(&seen, &report));
  CHECK(report.obeyed == Epoch{5, 1});
}

TEST_CASE("grants of an older epoch or of another arbiter are void", "[arbiter]") {
  Door door;
  Attaching attaching(door.path());
  const UniqueFd socket = door.Accept();
  REQUIRE(Greeting(socket.get()).ok());
  const Segment segment = Segment::Create(5).value();
  REQUIRE(SendWelcome(socket.get(), segment).ok());
  REQUIRE(attaching.Join().ok());
  ArbiterLink& link = **attaching.link;
  Mailbox<Grant>::Writer granting(segment.grant());
  Grant grant;
  const auto takes = [&](Epoch epoch) {
    granting.Publish({.epoch = epoch});
    return link.TakeGrant(&grant);
  };
  CHECK(takes({5, 7}));
  CHECK_FALSE(takes({5, 7}));
  CHECK_FALSE(takes({5, 6}));
  CHECK_FALSE(takes({4, 100}));
  CHECK_FALSE(takes({6, 100}));
  CHECK(takes({5, 8}));
}

TEST_CASE("a refusal tells the tenant why", "[arbiter]") {
  Door door;
  Attaching attaching(door.path());
  const UniqueFd socket = door.Accept();
  REQUIRE(Greeting(socket.get()).ok());
  SendRefusal(socket.get(), "its least 9 GiB do not fit beside 3 others (--local)");
  const absl::Status status = attaching.Join().status();
  CHECK(absl::IsFailedPrecondition(status));
  CHECK(status.message().find("its least 9 GiB do not fit") != std::string::npos);
}

TEST_CASE("nobody at the path, or nobody who answers, is said in time", "[arbiter]") {
  Door door;
  const auto attach = [&](uint64_t patience_ns) {
    return ArbiterLink::Attach(door.path(), {}, NowNs() + patience_ns).status();
  };
  CHECK(attach(kSecondNs / 20).message().find("does not answer") != std::string::npos);
  // As many as may queue: the next one cannot even connect.
  std::vector<UniqueFd> queue;
  const sockaddr_un address = UnixAddress(door.path(), "").value();
  int connected;
  do {
    queue.emplace_back(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    connected =
        connect(queue.back().get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  } while (connected == 0);
  CHECK(attach(kSecondNs / 20).message().find("no arbiter answers") != std::string::npos);
  door.Close();
  const absl::Status status = attach(kSecondNs);
  CHECK(absl::IsUnavailable(status));
  CHECK(status.message().find("SPIRITOS_ARBITER") != std::string::npos);
  CHECK(absl::IsInvalidArgument(ArbiterLink::Attach(std::string(200, 'x'), {}, Soon()).status()));
}

TEST_CASE("the other's end is seen at once", "[arbiter]") {
  Door door;
  Attaching attaching(door.path());
  UniqueFd socket = door.Accept();
  REQUIRE(Greeting(socket.get()).ok());
  const Segment segment = Segment::Create(5).value();
  REQUIRE(SendWelcome(socket.get(), segment).ok());
  REQUIRE(attaching.Join().ok());
  SECTION("the arbiter's") {
    socket.Reset();
    CHECK_FALSE((**attaching.link).Await(Soon()));
    (**attaching.link).Tell({});  // To nobody, which is no error.
  }
  SECTION("the tenant's") {
    attaching.link.reset();
    REQUIRE(AwaitSocket(socket.get(), POLLIN, Soon()));
    CHECK_FALSE(TakeNudges(socket.get()));
  }
}

TEST_CASE("greetings that are none are told apart, and keep nobody waiting", "[arbiter]") {
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  const UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  const auto says = [&](const void* bytes, size_t size) {
    REQUIRE(send(theirs.get(), bytes, size, 0) == static_cast<ssize_t>(size));
    return ReceiveHello(ours.get()).status();
  };
  CHECK(absl::IsUnavailable(ReceiveHello(ours.get()).status()));
  Hello hello;
  CHECK(says(&hello, sizeof(hello)).ok());
  CHECK(absl::IsInvalidArgument(says(&hello, sizeof(hello) - 1)));
  CHECK(absl::IsInvalidArgument(says(std::string(4096, 'x').data(), 4096)));
  hello.newest_version = 0;
  CHECK(says(&hello, sizeof(hello)).message().find("install one version") != std::string::npos);
  hello = {.magic = 1};
  CHECK(absl::IsInvalidArgument(says(&hello, sizeof(hello))));
  std::mt19937 random(std::random_device{}());
  for (int i = 0; i < 1000; ++i) {
    std::vector<uint8_t> bytes(1 + random() % 200);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    CHECK_FALSE(says(bytes.data(), bytes.size()).ok());
  }
}

TEST_CASE("files that come along unasked are closed", "[arbiter]") {
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
  const UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  int pipe_ends[2];
  REQUIRE(pipe(pipe_ends) == 0);
  const UniqueFd read_end(pipe_ends[0]);
  UniqueFd write_end(pipe_ends[1]);
  char byte = 'n';
  iovec part{&byte, 1};
  REQUIRE(SendParts(theirs.get(), {&part, 1}, write_end.get()) == 1);
  write_end.Reset();
  CHECK(TakeNudges(ours.get()));
  pollfd wait{read_end.get(), POLLIN, 0};
  REQUIRE(poll(&wait, 1, 0) == 1);
  CHECK((wait.revents & POLLHUP) != 0);  // Nobody has the other end any more.
}

TEST_CASE("a peer that floods or never reads costs a bounded number of calls", "[arbiter]") {
  int ends[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
  const UniqueFd ours(ends[0]);
  const UniqueFd theirs(ends[1]);
  for (int i = 0; i < 10'000; ++i) Nudge(ours.get());  // Its queue is full long before.
  std::atomic<bool> stop{false};
  std::thread flood([&] {
    while (!stop.load(std::memory_order_relaxed)) Nudge(theirs.get());
  });
  for (int i = 0; i < 1000; ++i) CHECK(TakeNudges(ours.get()));
  stop = true;
  flood.join();
}

}  // namespace
}  // namespace spiritos
