// SPDX-License-Identifier: Apache-2.0
// Queue pairs over a device: what they may reach, and what becomes of messages when they,
// their keys or their servers end.
#define CATCH_CONFIG_EXTERNAL_INTERFACES  // For the listener below.
#include <fmt/core.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <random>
#include <set>

#include "libos/base/clock.h"
#include "libos/remote/rdma_lane.h"
#include "libos/remote/rdma_queue_pair.h"
#include "test/libos/remote/remote_rig.h"
#include "test/support/allocations.h"
#include "test/support/memd_process.h"
#include "test/support/rdma_device.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

struct SkipWithoutDevice : Catch::TestEventListenerBase {
  using TestEventListenerBase::TestEventListenerBase;
  void testRunStarting(const Catch::TestRunInfo&) override {
    if (!RdmaAddress().empty()) return;
    fmt::print("skipped: no RDMA device (SPIRITOS_TEST_RDMA, or ./run test --vm)\n");
    std::fflush(stdout);
    _exit(77);
  }
};
CATCH_REGISTER_LISTENER(SkipWithoutDevice)

constexpr uint64_t kSecondNs = 1'000'000'000;
uint64_t Soon() { return NowNs() + 20 * kSecondNs; }  // Emulated CPUs take their time.

ServerOptions RdmaServer(uint32_t slabs, int port = 0) {
  return {.tcp_host = RdmaAddress(),
          .tcp_port = port,
          .rdma = true,
          .trust_network = true,
          .memory = Bytes(slabs * kSlabSize)};
}

// The queue pair that was made last; the tests break it.
RdmaQueuePair* newest = nullptr;
absl::StatusOr<std::unique_ptr<QueuePair>> ConnectAndRemember(const ServerAddress& address,
                                                              const RdmaGreeting& greeting,
                                                              AddressRange staging,
                                                              uint64_t deadline_ns) {
  auto made = RdmaQueuePair::Connect(address, greeting, staging, deadline_ns);
  if (!made.ok()) return made.status();
  newest = made->get();
  return *std::move(made);
}
void BreakNewest() {
  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_ERR;
  REQUIRE(ibv_modify_qp(newest->queue_pair(), &attributes, IBV_QP_STATE) == 0);
}

// One client of a server: a control connection, and a lane.
class Tenant : public ServerLane::Sink {
 public:
  Tenant(const ServerThread& server, uint8_t id) : address_(server.rdma()) {
    HelloBody hello;
    hello.client[0] = std::byte{id};
    hello.tenant[0] = 't';
    control_ = *Dial(address_, Soon());
    const auto welcome = Greet(control_.get(), hello, Soon());
    REQUIRE(welcome.ok());
    greeting.client = hello.client;
    greeting.token = welcome->token;
  }
  FrameHeader Ask(WireOp op, uint64_t slab, uint8_t flags = 0) {
    FrameHeader question;
    question.op = op;
    question.flags = flags;
    question.id = ++questions_;
    question.slab = slab;
    const auto answer = spiritos::Ask(control_.get(), question, Soon());
    REQUIRE(answer.ok());
    REQUIRE(answer->status == WireStatus::kOk);
    return *answer;
  }
  FrameHeader Place() { return Ask(WireOp::kPlace, 0, WireFlags::kExpose); }
  absl::Status Connect() { return lane.Connect(address_, greeting, Soon()); }

  void Submit(LaneRequest& request, IoOp op, const FrameHeader& slab, uint32_t first,
              std::byte* memory, uint32_t pages = 1) {
    request.op = op;
    request.slab = slab.slab;
    request.key = static_cast<uint32_t>(slab.argument);
    request.first = first;
    request.pages = pages;
    request.memory = memory;
    YieldUntil([&] {
      const IoResult result = lane.Submit(request);
      if (result == IoResult::kBusy) lane.Poll();
      return result == IoResult::kOk;
    });
  }
  // Until the request has ended, connecting again as often as needed.
  WireStatus Await(LaneRequest& request) {
    const uint64_t deadline = Soon();
    while (ended_.count(&request) == 0) {
      REQUIRE(NowNs() < deadline);
      lane.Wait([&] { return ended_.count(&request) != 0 || lane.broken(); }, NowNs() + kSecondNs);
      if (lane.broken()) REQUIRE(Connect().ok());
    }
    ended_.erase(&request);
    return request.result;
  }
  WireStatus Run(IoOp op, const FrameHeader& slab, uint32_t first, std::byte* memory,
                 uint32_t pages = 1) {
    LaneRequest request;
    Submit(request, op, slab, first, memory, pages);
    return Await(request);
  }
  void OnFinal(LaneRequest& request) noexcept override { ended_.insert(&request); }

  RdmaGreeting greeting;
  RdmaLane lane{*this, ConnectAndRemember};

 private:
  const ServerAddress address_;
  UniqueFd control_;
  uint64_t questions_ = 0;
  std::set<LaneRequest*> ended_;
};

TEST_CASE("queue pairs that break with messages under way lose and damage none", "[remote][rdma]") {
  const uint64_t seed = TestSeed();
  INFO("SPIRITOS_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  ServerThread server(RdmaServer(1));
  Tenant tenant(server, 1);
  const FrameHeader slab = tenant.Place();
  REQUIRE(tenant.Connect().ok());
  constexpr uint32_t kMessages = 48;
  const Pages out(kMessages);
  const Pages in(kMessages);
  std::deque<LaneRequest> requests(kMessages);
  for (uint32_t round = 1; round <= Rounds(100); ++round) {
    const uint64_t break_at = random() % kMessages;
    for (uint32_t i = 0; i < kMessages; ++i) {
      WritePage(out[i], i, round);
      tenant.Submit(requests[i], IoOp::kWrite, slab, i, out[i]);
      if (i == break_at) BreakNewest();
    }
    for (LaneRequest& request : requests) REQUIRE(tenant.Await(request) == WireStatus::kOk);
    for (uint32_t i = 0; i < kMessages; ++i) {
      tenant.Submit(requests[i], IoOp::kRead, slab, i, in[i]);
      if (i == kMessages - break_at) BreakNewest();
    }
    for (LaneRequest& request : requests) REQUIRE(tenant.Await(request) == WireStatus::kOk);
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < kMessages; ++i) wrong += !PageHolds(in[i], i, round);
    REQUIRE(wrong == 0);
  }
}

#ifdef SPIRITOS_COUNTS_ALLOCATIONS
TEST_CASE("submitting, polling and waiting allocate nothing, in the driver neither",
          "[remote][rdma]") {
  ServerThread server(RdmaServer(1));
  auto pool = ServerPool::Create({.servers = {server.rdma()}, .tenant = "test"});
  REQUIRE(pool.ok());
  SlotId slab;
  REQUIRE((*pool)->PlaceSlab(&slab) == IoResult::kOk);
  constexpr uint32_t kRun = 100;
  const Pages pages(kRun);
  for (uint32_t i = 0; i < kRun; ++i) WritePage(pages[i], i, 1);
  for (uint32_t round = 0; round < 40; ++round) {
    IoRequest request;
    Prepare(request, round % 2 == 0 ? IoOp::kWrite : IoOp::kRead, Lane::kDemand, slab, kRun,
            pages[0]);
    counts_allocations = true;
    SubmitWhenFree(**pool, request);
    while (round % 4 > 1 && !request.final()) (*pool)->Poll(Lane::kDemand);
    (*pool)->Wait(request);
    counts_allocations = false;
    REQUIRE(request.status.load() == IoStatus::kDone);
  }
  CHECK(allocations == 0);
  counts_allocations = true;
  std::free(std::malloc(1));
  counts_allocations = false;
  CHECK(allocations == 1);  // They would have been seen.
}
#endif

TEST_CASE("a slab that was given back is out of reach, and others are not", "[remote][rdma]") {
  ServerThread server(RdmaServer(2));
  Tenant tenant(server, 1);
  const FrameHeader kept = tenant.Place();
  const FrameHeader given_back = tenant.Place();
  REQUIRE(tenant.Connect().ok());
  const Pages page(2);
  WritePage(page[0], 1, 1);
  REQUIRE(tenant.Run(IoOp::kWrite, kept, 9, page[0]) == WireStatus::kOk);
  REQUIRE(tenant.Run(IoOp::kWrite, given_back, 9, page[0]) == WireStatus::kOk);
  tenant.Ask(WireOp::kRelease, given_back.slab);
  CHECK(tenant.Run(IoOp::kRead, given_back, 9, page[1]) == WireStatus::kNoSlab);
  CHECK(tenant.Run(IoOp::kWrite, given_back, 9, page[0]) == WireStatus::kNoSlab);
  REQUIRE(tenant.Run(IoOp::kRead, kept, 9, page[1]) == WireStatus::kOk);
  CHECK(PageHolds(page[1], 1, 1));
}

TEST_CASE("no key opens another client's slab, or more than a slab's file", "[remote][rdma]") {
  ServerThread server(RdmaServer(2));
  Tenant owner(server, 1);
  Tenant thief(server, 2);
  const FrameHeader slab = owner.Place();
  const FrameHeader own = thief.Place();
  REQUIRE(owner.Connect().ok());
  REQUIRE(thief.Connect().ok());
  const Pages page(3);
  WritePage(page[0], 1, 1);
  WritePage(page[1], 2, 2);
  REQUIRE(owner.Run(IoOp::kWrite, slab, 0, page[0]) == WireStatus::kOk);
  CHECK(thief.Run(IoOp::kRead, slab, 0, page[2]) == WireStatus::kNoSlab);
  CHECK(thief.Run(IoOp::kWrite, slab, 0, page[1]) == WireStatus::kNoSlab);
  CHECK(thief.Run(IoOp::kWrite, own, kSlabPages + 64, page[1]) == WireStatus::kNoSlab);
  REQUIRE(owner.Run(IoOp::kRead, slab, 0, page[2]) == WireStatus::kOk);
  CHECK(PageHolds(page[2], 1, 1));
}

TEST_CASE("a queue pair is for who shows the token, and for one lane at a time", "[remote][rdma]") {
  ServerThread server(RdmaServer(1));
  Tenant tenant(server, 1);
  const FrameHeader slab = tenant.Place();
  const Pages staging(2);
  const AddressRange range{staging[0], Bytes(2 * kPageSize)};
  RdmaGreeting forged = tenant.greeting;
  forged.token[3] ^= std::byte{1};
  const auto refused = ConnectQueuePair(server.rdma(), forged, range, Soon());
  CHECK(absl::IsPermissionDenied(refused.status()));
  CHECK(server.server().counters().Get(ServerCounter::kNotPermitted) == 1);

  auto first = ConnectQueuePair(server.rdma(), tenant.greeting, range, Soon());
  INFO(first.status().ToString());
  REQUIRE(first.ok());
  const auto second = ConnectQueuePair(server.rdma(), tenant.greeting, range, Soon());
  REQUIRE(second.ok());
  // What the old one still sends comes too late: it has ended at the server.
  WritePage(staging[0], 1, 1);
  const QueuePair::Transfer write{
      1, IoOp::kWrite, staging[0], kPageSize, static_cast<uint32_t>(slab.argument), 0};
  QueuePair::Progress progress;
  if ((*first)->Post({&write, 1})) {
    YieldUntil([&] {
      progress = (*first)->Poll();
      return progress.fault != QueuePair::Progress::Fault::kNone || progress.through != 0;
    });
    CHECK(progress.fault == QueuePair::Progress::Fault::kBroken);
  }
  CHECK((*first)->ended());
  const QueuePair::Transfer read{
      1, IoOp::kRead, staging[1], kPageSize, static_cast<uint32_t>(slab.argument), 0};
  REQUIRE((*second)->Post({&read, 1}));
  YieldUntil([&] { return (*second)->Poll().through == 1; });
  CHECK(staging[1][0] == std::byte{0});
}

TEST_CASE("a client whose slabs have no keys, as a server before had them, is told so",
          "[remote][rdma]") {
  ServerThread server(RdmaServer(1));
  Tenant tenant(server, 1);
  tenant.Ask(WireOp::kPlace, 0);
  const absl::Status refused = tenant.Connect();
  INFO(refused.ToString());
  CHECK(absl::IsDataLoss(refused));
}

TEST_CASE("a server without RDMA, and a port without a server, are told apart from others",
          "[remote][rdma]") {
  ServerThread server({.tcp_host = RdmaAddress(),
                       .tcp_port = 0,
                       .trust_network = true,
                       .memory = Bytes(kSlabSize)});
  const auto pool = ServerPool::Create({.servers = {server.rdma()}, .tenant = "test"});
  INFO(pool.status().ToString());
  CHECK(pool.status().message().find("memd --rdma") != absl::string_view::npos);
}

TEST_CASE("pages of a server that was started again fail, and are not read as others",
          "[remote][rdma]") {
  std::optional<ServerThread> server(RdmaServer(1));
  const int port = server->server().tcp_port();
  auto pool = ServerPool::Create({.servers = {server->rdma()}, .tenant = "test"});
  REQUIRE(pool.ok());
  SlotId slab;
  REQUIRE((*pool)->PlaceSlab(&slab) == IoResult::kOk);
  const Pages page(1);
  WritePage(page[0], 1, 1);
  REQUIRE(Run(**pool, IoOp::kWrite, Lane::kWriteBack, slab, 1, page[0]) == 0);
  server.reset();
  server.emplace(RdmaServer(1, port));
  CHECK(Run(**pool, IoOp::kRead, Lane::kDemand, slab, 1, page[0]) != 0);
  CHECK(Run(**pool, IoOp::kWrite, Lane::kWriteBack, slab, 1, page[0]) != 0);
  CHECK(PageHolds(page[0], 1, 1));  // Nothing was read into it.
}

TEST_CASE("a server killed in the middle of batches takes nothing along that has a copy",
          "[remote][rdma]") {
  constexpr uint32_t kRun = 256;
  const bool mirrored = GENERATE(true, false);
  const TempDir dir;
  const TlsOptions tls{.psk = WriteKeys(dir, {*TlsKey::Make("test")})};
  MemdProcess kept(tls.psk, {"--memory", "64M", "--host", "kept"});
  MemdProcess killed(tls.psk, {"--memory", "64M", "--host", "killed"});
  ServerPool::Options options{.servers = {killed.rdma()}, .tenant = "test", .give_up_ms = 5000};
  options.tunnel = *TlsTunnel::Create(*TlsContext::ForClient(tls));
  if (mirrored) {
    options.servers.push_back(kept.rdma());
    options.copies = 2;
    options.dead_ms = 5000;
  }
  auto pool = ServerPool::Create(std::move(options));
  INFO(pool.status().ToString());
  REQUIRE(pool.ok());
  SlotId slab;
  REQUIRE((*pool)->PlaceSlab(&slab) == IoResult::kOk);
  const Pages pages(kRun);
  const Pages in(kRun);
  for (uint32_t i = 0; i < kRun; ++i) WritePage(pages[i], i, 1);
  std::atomic<bool> writing{true};
  uint32_t failed = 0;
  std::thread writer([&] {
    for (uint32_t round = 0; round < Rounds(200); ++round) {
      failed += Run(**pool, IoOp::kWrite, Lane::kWriteBack, slab, kRun, pages[0]) != 0;
      if (round == 2) writing.store(false);
    }
  });
  YieldUntil([&] { return !writing.load(); });
  killed.Kill();
  writer.join();
  const int read = Run(**pool, IoOp::kRead, Lane::kDemand, slab, kRun, in[0]);
  if (mirrored) {
    CHECK(failed == 0);
    REQUIRE(read == 0);
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < kRun; ++i) wrong += !PageHolds(in[i], i, 1);
    CHECK(wrong == 0);
  } else {
    CHECK(failed != 0);
    CHECK(read != 0);
  }
}

}  // namespace
}  // namespace spiritos
