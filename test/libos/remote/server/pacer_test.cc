// SPDX-License-Identifier: Apache-2.0
// What a tenant may move: by a clock of the test, and over sockets.
#include "libos/remote/server/pacer.h"

#include <random>
#include <thread>

#include "test/libos/remote/pool_rig.h"

namespace spiritos {
namespace {

constexpr uint64_t kMs = 1'000'000;
constexpr uint64_t kSecond = 1'000 * kMs;

TEST_CASE("a busy tenant moves at its rate, however late the server looks", "[remote][server]") {
  const uint32_t seed = std::random_device()();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  const uint64_t rate = GENERATE(as<uint64_t>{}, 4 << 20, 100'000'000, uint64_t{3} << 30);
  const uint64_t lateness = GENERATE(as<uint64_t>{}, 1, 1'000'000, 10'000'000);
  CAPTURE(rate, lateness);
  Pacer pacer;
  pacer.SetRate(rate);
  const uint64_t begin = 1'000 * kSecond;  // Idle since ever.
  uint64_t now = begin;
  uint64_t largest = 0;
  uint64_t longest = 0;
  uint64_t messages = 0;
  while (now < begin + 10 * kSecond) {
    while (pacer.MayBegin(now)) {
      const uint64_t bytes = 64 + random() % (64 * kPageSize);
      pacer.Charge(bytes, now);
      ++messages;
      largest = std::max(largest, bytes);
      longest = std::max(longest, pacer.due_ns() - std::min(now, pacer.due_ns()));
    }
    now = pacer.due_ns() + random() % lateness;
  }
  CHECK(longest <= Pacer::kLongestPauseNs);
  // What a message takes is rounded down to nanoseconds.
  const double seconds = double(now - begin + messages) / kSecond;
  const double burst = double(rate) * Pacer::kDepthNs / kSecond + double(largest);
  CHECK(double(pacer.bytes()) <= double(rate) * seconds + burst);
  CHECK(double(pacer.bytes()) >= 0.99 * double(rate) * seconds);
}

TEST_CASE("without a rate nothing is held up, and with one no longer", "[remote][server]") {
  Pacer pacer;
  pacer.Charge(uint64_t{1} << 40, kSecond);
  CHECK(pacer.MayBegin(kSecond));
  pacer.SetRate(Pacer::kMinRate);
  pacer.Charge(uint64_t{1} << 40, kSecond);
  CHECK_FALSE(pacer.MayBegin(kSecond));
  CHECK(pacer.MayBegin(kSecond + Pacer::kLongestPauseNs));
  pacer.SetRate(0);
  CHECK(pacer.MayBegin(kSecond));
}

// Reads and writes as fast as it may, on all lanes.
class Greedy {
 public:
  explicit Greedy(RemoteBackend& pool) : pool_(pool) {
    REQUIRE(pool.PlaceSlab(&slab_) == IoResult::kOk);
    for (const Lane lane : kAllLanes) {
      threads_.emplace_back([this, lane] {
        Pages memory(kRun);
        const IoOp op = lane == Lane::kWriteBack ? IoOp::kWrite : IoOp::kRead;
        while (!stopping_.load()) {
          failed_ += Run(pool_, op, lane, slab_, kRun, memory[0]) != 0 ? 1 : 0;
        }
      });
    }
  }
  ~Greedy() {
    stopping_.store(true);
    for (std::thread& thread : threads_) thread.join();
  }
  uint64_t failed() const { return failed_.load(); }

 private:
  RemoteBackend& pool_;
  SlotId slab_;
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> failed_{0};
  std::vector<std::thread> threads_;
};

TenantFigures FiguresOf(const MemoryServer& server, const std::string& tenant) {
  for (const TenantFigures& figures : server.tenants()) {
    if (figures.name == tenant) return figures;
  }
  return {};
}

std::unique_ptr<ServerPool> PoolOf(const std::string& tenant,
                                   const std::vector<ServerAddress>& servers) {
  auto made = ServerPool::Create(
      {.servers = servers, .tenant = tenant, .copies = static_cast<uint32_t>(servers.size())});
  INFO(made.status().ToString());
  REQUIRE(made.ok());
  return *std::move(made);
}

// What is measured is what the server has counted between two of its own reviews. A machine
// that is busy elsewhere makes any rate too low for a while, so one good second is asked for;
// none makes it too high, so that is asked of every second.
TEST_CASE("a greedy tenant gets its bandwidth, and others do not notice", "[remote][server]") {
  constexpr uint64_t kRate = 32 << 20;
  ServerThread running({.tcp_port = 0,
                        .memory = Bytes(2 * kSlabSize),
                        .lock_memory = false,
                        .tenant_bandwidth = kRate});
  MemoryServer& server = running.server();
  const auto pool = PoolOf("greedy", {running.tcp()});
  const auto other = PoolOf("modest", {running.tcp()});
  Content content(*other);
  REQUIRE(content.Write(0, 16, 1) == 0);
  Greedy greedy(*pool);
  Eventually("it is held up", [&] { return FiguresOf(server, "greedy").pauses > 10; });
  bool reached = false;
  const auto bytes = [&] { return FiguresOf(server, "greedy").bytes; };
  const auto next_review = [&] {
    const uint64_t before = bytes();
    Eventually("the server has looked", [&] { return bytes() != before; });
    return NowNs();
  };
  for (int window = 0; window < 30 && !reached; ++window) {
    const uint64_t from = next_review();
    const uint64_t before = bytes();
    uint64_t to = from;
    while (to - from < kSecond) {
      REQUIRE(content.Read(0, 16) == 0);
      to = next_review();
    }
    const double share = double(bytes() - before) / (double(to - from) / kSecond * kRate);
    CAPTURE(share);
    CHECK(share < 1.1);
    reached = share > 0.9;
  }
  CHECK(reached);
  CHECK(FiguresOf(server, "modest").pauses == 0);
  CHECK(greedy.failed() == 0);
}

TEST_CASE("a tenant with very little bandwidth takes no server for dead", "[remote][server]") {
  const auto start = [](const char* host) {
    return std::make_unique<ServerThread>(ServerOptions{.tcp_port = 0,
                                                        .host = host,
                                                        .memory = Bytes(4 * kSlabSize),
                                                        .lock_memory = false,
                                                        .tenant_bandwidth = Pacer::kMinRate});
  };
  const auto one = start("one");
  const auto two = start("two");
  const auto pool = PoolOf("t", {one->tcp(), two->tcp()});
  const auto again = PoolOf("t", {one->tcp(), two->tcp()});
  Greedy greedy(*pool);
  Greedy another(*again);  // The same tenant: twice as many lanes for one bandwidth.
  const auto counted = [&](ServerCounter counter) { return one->server().counters().Get(counter); };
  Eventually("much has had to wait", [&] {
    CHECK(pool->health().degraded_slabs + again->health().degraded_slabs == 0);
    return counted(ServerCounter::kPauses) > 60;
  });
  CHECK(counted(ServerCounter::kConnections) == 8);  // None was made anew.
  CHECK(greedy.failed() + another.failed() == 0);
}

TEST_CASE("bandwidth that cannot be kept to is refused", "[remote][server]") {
  const auto low = MemoryServer::Create({.tcp_port = 0, .tenant_bandwidth = 1 << 20});
  CHECK(low.status().message().find("1048576 bytes a second are below 4194304") !=
        std::string::npos);
  CHECK(low.status().message().find("--tenant-bandwidth") != std::string::npos);
  const auto rdma =
      MemoryServer::Create({.tcp_port = 0, .rdma = true, .tenant_bandwidth = 8 << 20});
  CHECK(rdma.status().message().find("without --rdma") != std::string::npos);
}

}  // namespace
}  // namespace spiritos
