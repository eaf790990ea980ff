// SPDX-License-Identifier: Apache-2.0
// Threads on one RDMA lane whose queue pairs break again and again, without a device.
#include <catch2/catch.hpp>
#include <cstring>
#include <deque>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#include "libos/base/clock.h"
#include "libos/remote/rdma_lane.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

constexpr uint32_t kPages = 64;  // Of each thread.
constexpr uint32_t kThreads = 3;

// A slab in memory, and when the next queue pair breaks.
struct Shelf {
  std::mutex mutex;
  std::vector<std::byte> slab = std::vector<std::byte>(kSlabSize + kSlabPages * 8);
  std::mt19937_64 random;
  uint32_t made = 0;
};
Shelf* shelf = nullptr;  // A connector is a function alone.

// Does some of what was posted at each poll; breaks after some dozens.
class UnsteadyQueuePair final : public QueuePair {
 public:
  UnsteadyQueuePair() : left_(static_cast<uint32_t>(30 + shelf->random() % 60)) { ++shelf->made; }

  bool Post(std::span<const Transfer> transfers) noexcept override {
    const std::lock_guard<std::mutex> guard(mutex_);
    if (left_ == 0) return false;
    under_way_.insert(under_way_.end(), transfers.begin(), transfers.end());
    return true;
  }
  Progress Poll() noexcept override {
    const std::lock_guard<std::mutex> guard(mutex_);
    Progress progress;
    for (uint32_t n = 0; n < 3 && left_ != 0 && !under_way_.empty(); ++n) {
      const Transfer transfer = under_way_.front();
      under_way_.pop_front();
      --left_;
      const std::lock_guard<std::mutex> shelf_guard(shelf->mutex);
      std::byte* const there = shelf->slab.data() + transfer.remote;
      const bool reads = transfer.op == IoOp::kRead;
      std::memcpy(reads ? transfer.local : there, reads ? there : transfer.local, transfer.bytes);
      const bool whole = under_way_.empty() || under_way_.front().message != transfer.message;
      if (whole) progress.through = transfer.message;
    }
    if (left_ == 0) progress.fault = Progress::Fault::kBroken;
    return progress;
  }
  void Arm() noexcept override {}
  bool Sleep(uint64_t) noexcept override { return !ended(); }
  void Interrupt() noexcept override {}
  bool ended() const noexcept override {
    const std::lock_guard<std::mutex> guard(mutex_);
    return left_ == 0;
  }
  std::string_view failure() const noexcept override { return ""; }

 private:
  mutable std::mutex mutex_;
  std::deque<Transfer> under_way_;
  uint32_t left_;
};

absl::StatusOr<std::unique_ptr<QueuePair>> ConnectUnsteady(const ServerAddress&,
                                                           const RdmaGreeting&, AddressRange,
                                                           uint64_t) {
  return std::make_unique<UnsteadyQueuePair>();
}

struct Request : LaneRequest {
  std::atomic<bool> ended{false};
};
struct Sink : ServerLane::Sink {
  void OnFinal(LaneRequest& request) noexcept override {
    static_cast<Request&>(request).ended.store(true, std::memory_order_release);
  }
};

TEST_CASE("threads read what they wrote through queue pairs that break", "[remote][rdma]") {
  const uint64_t seed = TestSeed();
  INFO("SPIRITOS_TEST_SEED=" << seed);
  Shelf here;
  here.random.seed(seed);
  shelf = &here;
  Sink sink;
  RdmaLane lane(sink, ConnectUnsteady);
  REQUIRE(lane.Connect({}, {}, 0).ok());
  std::atomic<uint32_t> working{kThreads};
  std::atomic<uint32_t> wrong{0};

  RunTogether(kThreads + 1, [&](uint32_t thread) {
    if (thread == kThreads) {  // The keeper.
      while (working.load() != 0) {
        if (lane.broken() && !lane.Connect({}, {}, 0).ok()) ++wrong;
        sched_yield();
      }
      return;
    }
    std::mt19937_64 random(seed + thread + 1);
    std::vector<std::byte> memory(kPages << kPageShift);
    std::vector<uint8_t> values(kPages);
    for (uint32_t round = 0; round < Rounds(1500); ++round) {
      const auto pages = static_cast<uint32_t>(1 + random() % 24);
      const auto first = static_cast<uint32_t>(random() % (kPages - pages));
      Request request;
      request.op = random() % 2 == 0 ? IoOp::kRead : IoOp::kWrite;
      request.first = thread * kPages + first;
      request.pages = pages;
      request.memory = memory.data();
      for (uint32_t i = 0; i < pages && request.op == IoOp::kWrite; ++i) {
        values[first + i] = static_cast<uint8_t>(random());
        std::memset(&memory[i << kPageShift], values[first + i], kPageSize);
      }
      while (lane.Submit(request) == IoResult::kBusy) lane.Poll();
      const auto ended = [&] { return request.ended.load(std::memory_order_acquire); };
      YieldUntil([&] { return lane.Wait(ended, NowNs() + 10'000'000); });
      if (request.result != WireStatus::kOk) ++wrong;
      for (uint32_t i = 0; i < pages && request.op == IoOp::kRead; ++i) {
        const auto value = std::byte{values[first + i]};
        if (memory[i << kPageShift] != value) ++wrong;
        if (memory[((i + 1) << kPageShift) - 1] != value) ++wrong;
      }
    }
    working.fetch_sub(1);
  });
  CHECK(wrong == 0);
  CHECK(here.made > 3);
}

}  // namespace
}  // namespace spiritos
