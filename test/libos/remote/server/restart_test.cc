// SPDX-License-Identifier: Apache-2.0
// What clients find when their memory server is started again, with its state or without.
#include <catch2/catch.hpp>
#include <memory>
#include <optional>

#include "libos/base/clock.h"
#include "libos/remote/server_link.h"
#include "test/support/server_thread.h"
#include "test/support/temp_dir.h"

namespace spiritos {
namespace {

constexpr uint64_t kPatienceNs = 5'000'000'000;

// A server that can be started again at its place.
class Restarted {
 public:
  explicit Restarted(bool keeps_state) : keeps_state_(keeps_state) { Start(2); }
  void Start(uint64_t slabs) {
    running_.reset();
    running_.emplace(ServerOptions{.tcp_port = port_,
                                   .memory = Bytes(slabs * kSlabSize),
                                   .lock_memory = false,
                                   .state_path = keeps_state_ ? folder_.file("state") : ""});
    port_ = server().tcp_port();
  }
  MemoryServer& server() { return running_->server(); }
  ServerAddress address() const { return running_->tcp(); }

 private:
  const bool keeps_state_;
  TempDir folder_;
  int port_ = 0;
  std::optional<ServerThread> running_;
};

// A client's control connection, asked in words of the protocol.
class Control {
 public:
  Control(const Restarted& server, uint8_t id, char tenant = 't') {
    auto socket = Dial(server.address(), NowNs() + kPatienceNs);
    REQUIRE(socket.ok());
    socket_ = *std::move(socket);
    HelloBody hello;
    hello.client[0] = std::byte{id};
    hello.tenant = {tenant};
    welcome = Greet(socket_.get(), hello, NowNs() + kPatienceNs);
  }
  FrameHeader Ask(uint64_t number, WireOp op, uint64_t slab = 0, uint32_t epoch = 0) {
    FrameHeader question;
    question.op = op;
    question.id = number;
    question.slab = slab;
    question.epoch = epoch;
    const auto answer = spiritos::Ask(socket_.get(), question, NowNs() + kPatienceNs);
    REQUIRE(answer.ok());
    return *answer;
  }

  absl::StatusOr<WelcomeBody> welcome;

 private:
  UniqueFd socket_;
};

TEST_CASE("a server that is started again knows its clients, their slabs and their questions",
          "[remote][server]") {
  Restarted server(true);
  uint64_t shared = 0;
  uint64_t fenced = 0;
  std::optional<WelcomeBody> before;
  {
    Control client(server, 1);
    REQUIRE(client.welcome.ok());
    before = *client.welcome;
    shared = client.Ask(1, WireOp::kPlace).slab;
    fenced = client.Ask(2, WireOp::kPlace).slab;
    CHECK(client.Ask(3, WireOp::kShare, shared).status == WireStatus::kOk);
    CHECK(client.Ask(4, WireOp::kFence, fenced, 3).status == WireStatus::kOk);
  }
  const uint64_t slabs = GENERATE(1u, 2u, 3u);  // Less memory takes nothing away.
  server.Start(slabs);
  CHECK(server.server().restored() == 2);
  CHECK(server.server().store().rented() == 2);

  Control client(server, 1);
  REQUIRE(client.welcome.ok());
  CHECK(client.welcome->server == before->server);
  CHECK(client.welcome->token == before->token);
  CHECK(client.welcome->slabs == 2);
  CHECK(client.Ask(3, WireOp::kShare, shared).status == WireStatus::kNotPermitted);
  CHECK(client.Ask(4, WireOp::kFence, fenced, 3).status == WireStatus::kOk);  // Again.
  CHECK(client.Ask(5, WireOp::kFence, fenced, 2).status == WireStatus::kStaleEpoch);
  CHECK(client.Ask(6, WireOp::kRelease, shared).status == WireStatus::kOk);
  CHECK(server.server().store().rented() == 2);  // One reference is left.
  CHECK(client.Ask(7, WireOp::kRelease, shared).status == WireStatus::kOk);
  CHECK(client.Ask(8, WireOp::kRelease, shared).status == WireStatus::kNoSlab);
  CHECK(server.server().store().rented() == 1);

  Control thief(server, 1, 'u');
  CHECK_FALSE(thief.welcome.ok());
}

TEST_CASE("a slab whose answer got lost with the server is not placed twice", "[remote][server]") {
  Restarted server(true);
  const uint64_t slab = Control(server, 1).Ask(41, WireOp::kPlace).slab;
  server.Start(2);
  {
    Control client(server, 1);
    CHECK(client.Ask(41, WireOp::kPlace).slab == slab);
    CHECK(server.server().store().rented() == 1);
    CHECK(client.Ask(42, WireOp::kRelease, slab).status == WireStatus::kOk);
  }
  server.Start(2);
  CHECK(server.server().restored() == 0);
  Control client(server, 1);
  CHECK(client.welcome->slabs == 0);
  CHECK(client.Ask(43, WireOp::kPlace).slab > slab);  // Its number is never used again.
}

struct NoRequests : ServerLane::Sink {
  void OnFinal(LaneRequest&) noexcept override {}
};

TEST_CASE("a server without its state is lost to those alone who had slabs there",
          "[remote][server]") {
  Restarted server(false);
  NoRequests none;
  WireId id{};
  id[0] = std::byte{9};
  ServerLink link(server.address(), id, "t", none);
  FrameHeader question;
  REQUIRE(link.Connect(NowNs() + kPatienceNs).ok());
  const auto restart = [&] {
    server.Start(2);
    CHECK_FALSE(link.Ping(NowNs() + kPatienceNs).ok());
    return link.Connect(NowNs() + kPatienceNs);
  };
  CHECK(restart().ok());
  question.op = WireOp::kPlace;
  const auto placed = link.Ask(question, NowNs() + kPatienceNs);
  REQUIRE(placed.ok());
  question.op = WireOp::kRelease;
  question.slab = placed->slab;
  REQUIRE(link.Ask(question, NowNs() + kPatienceNs).ok());
  CHECK(restart().ok());
  question.op = WireOp::kPlace;
  REQUIRE(link.Ask(question, NowNs() + kPatienceNs)->status == WireStatus::kOk);
  CHECK(absl::IsDataLoss(restart()));
}

}  // namespace
}  // namespace spiritos
