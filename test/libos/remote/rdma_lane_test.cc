// SPDX-License-Identifier: Apache-2.0
// What a lane makes of messages, ends and failures, over queue pairs of the test's own.
#include "libos/remote/rdma_lane.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "libos/base/clock.h"

namespace spiritos {
namespace {

constexpr uint32_t kKey = 7;

// The server's side of every fake queue pair, and what the test says happens.
struct FakeServer {
  std::vector<std::byte> slab = std::vector<std::byte>(kSlabSize + kSlabPages * 8);
  std::vector<std::vector<QueuePair::Transfer>> posts;  // As they were posted.
  std::deque<QueuePair::Transfer> under_way;            // Of the one queue pair there is.
  uint64_t done = 0;                                    // The last message of which a part is.
  uint32_t queue_pairs = 0;                             // Alive.
  uint32_t made = 0;
  bool refuses_connections = false;
  bool broken = false;

  // Does so many transfers; 0 = all.
  void Do(size_t count = 0) {
    for (size_t n = count == 0 ? under_way.size() : count; n != 0; --n) {
      const QueuePair::Transfer transfer = under_way.front();
      if (transfer.key != kKey) return;  // See FakeQueuePair::Poll().
      under_way.pop_front();
      std::byte* const there = slab.data() + transfer.remote;
      if (transfer.op == IoOp::kWrite) {
        std::memcpy(there, transfer.local, transfer.bytes);
      } else {
        std::memcpy(transfer.local, there, transfer.bytes);
      }
      done = transfer.message;
    }
  }
};
FakeServer* server = nullptr;  // A connector is a function alone.

class FakeQueuePair final : public QueuePair {
 public:
  FakeQueuePair() { ++server->queue_pairs, ++server->made; }
  ~FakeQueuePair() override {
    --server->queue_pairs;
    server->under_way.clear();
  }
  bool Post(std::span<const Transfer> transfers) noexcept override {
    if (server->broken) return false;
    server->posts.emplace_back(transfers.begin(), transfers.end());
    server->under_way.insert(server->under_way.end(), transfers.begin(), transfers.end());
    return true;
  }
  Progress Poll() noexcept override {
    Progress progress;
    const std::deque<Transfer>& left = server->under_way;
    // A message is done when its last transfer is.
    const bool half = !left.empty() && left.front().message == server->done;
    progress.through = server->done - (half ? 1 : 0);
    if (!left.empty() && left.front().key != kKey) {
      progress.fault = Progress::Fault::kRefused;
      progress.through = left.front().message - 1;
      progress.refused = left.front().message;
    } else if (server->broken) {
      progress.fault = Progress::Fault::kBroken;
    } else if (progress.through == std::exchange(reported_, progress.through)) {
      progress.through = 0;  // No news.
    }
    return progress;
  }
  void Arm() noexcept override {}
  bool Sleep(uint64_t) noexcept override { return !server->broken; }
  void Interrupt() noexcept override {}
  bool ended() const noexcept override { return server->broken; }
  std::string_view failure() const noexcept override { return ""; }

 private:
  uint64_t reported_ = 0;
};

absl::StatusOr<std::unique_ptr<QueuePair>> ConnectFake(const ServerAddress&, const RdmaGreeting&,
                                                       AddressRange, uint64_t) {
  // The server is to see the end of the old one first.
  SPIRITOS_CHECK(server->queue_pairs == 0, "a second queue pair beside the first");
  if (server->refuses_connections) return absl::UnavailableError("refused, for a test");
  server->broken = false;
  return std::make_unique<FakeQueuePair>();
}

struct Rig : ServerLane::Sink {
  explicit Rig() { server = &fake; }
  void Connect() { REQUIRE(lane.Connect({}, {}, 0).ok()); }
  void OnFinal(LaneRequest& request) noexcept override { ended.push_back(&request); }

  LaneRequest& Make(IoOp op, uint32_t first, uint32_t pages, uint8_t value) {
    memory.emplace_back(size_t{pages} << kPageShift, std::byte{value});
    LaneRequest& request = requests.emplace_back();
    request.op = op;
    request.key = kKey;
    request.first = first;
    request.pages = pages;
    request.memory = memory.back().data();
    for (uint32_t i = 0; i < pages; ++i) request.trailers[i] = {value, value};
    return request;
  }
  LaneRequest& Submit(IoOp op, uint32_t first, uint32_t pages, uint8_t value) {
    LaneRequest& request = Make(op, first, pages, value);
    REQUIRE(lane.Submit(request) == IoResult::kOk);
    return request;
  }
  uint8_t SlabValue(uint32_t page) const {
    return static_cast<uint8_t>(fake.slab[size_t{page} << kPageShift]);
  }
  uint32_t SlabVersion(uint32_t page) const {
    PageTrailer trailer;
    std::memcpy(&trailer, fake.slab.data() + kSlabSize + 8 * page, 8);
    return trailer.version;
  }

  FakeServer fake;
  std::deque<std::vector<std::byte>> memory;
  std::deque<LaneRequest> requests;
  std::vector<LaneRequest*> ended;
  RdmaLane lane{*this, ConnectFake};
};

TEST_CASE("a write brings pages and then their trailers, a read brings pages back",
          "[remote][rdma]") {
  Rig rig;
  rig.Connect();
  rig.Submit(IoOp::kWrite, 100, 3, 0x5A);
  REQUIRE(rig.fake.posts.size() == 1);
  REQUIRE(rig.fake.posts[0].size() == 2);
  rig.fake.Do(1);
  CHECK(rig.SlabValue(102) == 0x5A);
  CHECK(rig.SlabVersion(100) == 0);  // Whoever looks now finds a page that its trailer denies.
  CHECK_FALSE(rig.lane.Poll());
  rig.fake.Do();
  CHECK(rig.SlabVersion(100) == 0x5A);
  CHECK(rig.SlabVersion(102) == 0x5A);
  CHECK(rig.SlabVersion(103) == 0);
  CHECK(rig.lane.Poll());
  CHECK(rig.ended.size() == 1);

  LaneRequest& read = rig.Submit(IoOp::kRead, 101, 2, 0);
  rig.fake.Do();
  CHECK(rig.lane.Wait([&] { return rig.ended.size() == 2; }, NowNs() + 1'000'000'000));
  CHECK(read.result == WireStatus::kOk);
  CHECK(read.memory[2 * kPageSize - 1] == std::byte{0x5A});
  CHECK(rig.lane.waiting_since_ns() == 0);
}

TEST_CASE("messages that waited for a connection go out in chains, much by itself",
          "[remote][rdma]") {
  Rig rig;
  for (uint32_t i = 0; i < 5; ++i) rig.Submit(IoOp::kWrite, i, 1, 1);
  for (uint32_t i = 0; i < 2; ++i) rig.Submit(IoOp::kWrite, 64 * (i + 1), 64, 1);
  rig.Submit(IoOp::kRead, 0, 1, 0);
  CHECK(rig.fake.posts.empty());
  rig.Connect();
  REQUIRE(rig.fake.posts.size() == 3);
  CHECK(rig.fake.posts[0].size() == 2 * 6);  // Five small ones, and the first of the large.
  CHECK(rig.fake.posts[1].size() == 2);
  CHECK(rig.fake.posts[2].size() == 1);
  rig.fake.Do();
  rig.lane.Poll();
  CHECK(rig.ended.size() == 8);
}

TEST_CASE("what was under way when a connection broke goes out again, as it was first",
          "[remote][rdma]") {
  Rig rig;
  rig.Connect();
  rig.Submit(IoOp::kWrite, 0, 1, 0x11);
  LaneRequest& second = rig.Submit(IoOp::kWrite, 1, 1, 0x22);
  rig.Submit(IoOp::kRead, 0, 1, 0);
  rig.fake.Do(2);
  rig.fake.broken = true;
  rig.lane.Poll();
  CHECK(rig.ended.size() == 1);
  CHECK(rig.lane.broken());
  second.memory[0] = std::byte{0x99};  // The program has taken the page back meanwhile.
  LaneRequest& late = rig.Submit(IoOp::kRead, 1, 1, 0);  // A broken lane queues.

  rig.fake.refuses_connections = true;
  CHECK_FALSE(rig.lane.Connect({}, {}, 0).ok());
  CHECK(rig.lane.broken());
  rig.fake.refuses_connections = false;
  rig.Connect();
  rig.fake.Do();
  rig.lane.Poll();
  CHECK(rig.ended.size() == 4);
  CHECK(rig.SlabValue(1) == 0x22);
  CHECK(late.memory[0] == std::byte{0x22});
  for (const LaneRequest* request : rig.ended) CHECK(request->result == WireStatus::kOk);
  CHECK(rig.fake.made == 2);
}

TEST_CASE("a message that the server's device refuses ends alone", "[remote][rdma]") {
  Rig rig;
  LaneRequest& before = rig.Submit(IoOp::kWrite, 0, 1, 1);
  LaneRequest& refused = rig.Make(IoOp::kWrite, 1, 1, 2);
  refused.key = kKey + 1;
  REQUIRE(rig.lane.Submit(refused) == IoResult::kOk);
  LaneRequest& after = rig.Submit(IoOp::kWrite, 2, 1, 3);
  rig.Connect();
  rig.fake.Do();
  CHECK(rig.lane.Poll());
  REQUIRE(rig.ended == std::vector<LaneRequest*>{&before, &refused});
  CHECK(before.result == WireStatus::kOk);
  CHECK(refused.result == WireStatus::kNoSlab);
  CHECK(rig.lane.broken());
  rig.Connect();
  rig.fake.Do();
  rig.lane.Poll();
  CHECK(rig.ended.back() == &after);
  CHECK(after.result == WireStatus::kOk);
  CHECK(rig.SlabValue(1) == 0);
}

TEST_CASE("a lane whose staging is full refuses until a message ends", "[remote][rdma]") {
  Rig rig;
  rig.Connect();
  constexpr uint32_t kFull = RdmaLane::kStagingPages / kMaxWirePages;
  for (uint32_t i = 0; i < kFull; ++i) rig.Submit(IoOp::kRead, 0, kMaxWirePages, 0);
  LaneRequest& more = rig.Make(IoOp::kRead, 0, 1, 0);
  CHECK(rig.lane.Submit(more) == IoResult::kBusy);
  rig.fake.Do(1);
  rig.lane.Poll();
  CHECK(rig.lane.Submit(more) == IoResult::kOk);
  rig.fake.Do();
  rig.lane.Poll();
  CHECK(rig.ended.size() == kFull + 1);
  for (uint32_t i = 0; i < RdmaLane::kWindow; ++i) rig.Submit(IoOp::kRead, i, 1, 0);
  CHECK(rig.lane.Submit(rig.Make(IoOp::kRead, 0, 1, 0)) == IoResult::kBusy);
}

TEST_CASE("a lane that is failed ends all that it holds and refuses more", "[remote][rdma]") {
  Rig rig;
  rig.Connect();
  rig.Submit(IoOp::kWrite, 0, 1, 1);
  rig.Submit(IoOp::kRead, 0, 1, 1);
  rig.lane.Fail(WireStatus::kNoSlab);
  REQUIRE(rig.ended.size() == 2);
  CHECK(rig.ended[1]->result == WireStatus::kNoSlab);
  CHECK(rig.lane.Submit(rig.Make(IoOp::kRead, 0, 1, 0)) == IoResult::kPeerGone);
}

}  // namespace
}  // namespace spiritos
