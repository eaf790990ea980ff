// SPDX-License-Identifier: Apache-2.0
// The emulated distance keeps what was asked for; how near it comes is a benchmark's matter.
#include "libos/remote/shaped_backend.h"

#include <algorithm>
#include <vector>

#include "libos/base/clock.h"
#include "test/libos/remote/remote_rig.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

std::unique_ptr<ShapedBackend> Shape(std::unique_ptr<RemoteBackend> inner,
                                     ShapedBackend::Distance distance) {
  auto shaped = ShapedBackend::Create(std::move(inner), distance);
  REQUIRE(shaped.ok());
  return *std::move(shaped);
}

std::unique_ptr<ShapedBackend> ShapedEmbedded(ShapedBackend::Distance distance) {
  auto inner = EmbeddedBackend::Create(Bytes(2 * kSlabSize));
  REQUIRE(inner.ok());
  return Shape(*std::move(inner), distance);
}

// What a request is due after: when it was asked for, by this thread's clock, and when the
// link was free.
struct Asked {
  uint64_t begin_ns;
  uint64_t end_ns;

  // Of one that has the link for `ns` from when it is free.
  bool IsDue(uint64_t due_ns, uint64_t free_ns, uint64_t ns, uint64_t latency_ns) const {
    return due_ns >= std::max(begin_ns, free_ns) + ns + latency_ns &&
           due_ns <= std::max(end_ns, free_ns) + ns + latency_ns;
  }
};

Asked SubmitAsking(RemoteBackend& pool, IoRequest& request) {
  const uint64_t begin_ns = NowNs();
  SubmitWhenFree(pool, request);
  return {begin_ns, NowNs()};
}

TEST_CASE("requests are due when the latency is over, and are seen then", "[remote]") {
  const uint64_t latency_ns = GENERATE(5'000u, 20'000u, 100'000u, 1'000'000u);
  const bool in_file = GENERATE(false, true);
  INFO(latency_ns << " ns" << (in_file ? ", file" : ""));
  TempDir dir;
  std::unique_ptr<RemoteBackend> inner;
  if (in_file) {
    auto file = FileBackend::Create(dir.file("pool"), Bytes(kSlabSize));
    REQUIRE(file.ok());
    inner = *std::move(file);
  } else {
    auto embedded = EmbeddedBackend::Create(Bytes(kSlabSize));
    REQUIRE(embedded.ok());
    inner = *std::move(embedded);
  }
  const auto pool = Shape(std::move(inner), {.latency_ns = latency_ns});
  SlotId slab;
  REQUIRE(pool->PlaceSlab(&slab) == IoResult::kOk);
  const Pages page(1);
  uint64_t early = 0;
  uint64_t off = 0;
  uint64_t may_be_counted = 0;
  for (int i = 0; i < 200; ++i) {
    IoRequest request;
    Prepare(request, IoOp::kRead, Lane::kDemand, slab, 1, page[0]);
    const Asked asked = SubmitAsking(*pool, request);
    off += asked.IsDue(request.due_ns, 0, 0, latency_ns) ? 0 : 1;
    may_be_counted += NowNs() < request.due_ns ? 1 : 0;
    pool->Wait(request);
    early += NowNs() < request.due_ns ? 1 : 0;
  }
  CHECK(off == 0);
  CHECK(early == 0);
  // What it says of itself is what was seen from outside, less a call or two: of the waits
  // that came before the latency was over, which on a slow machine may be none.
  const Histogram reached = pool->ReachedLatency();
  CHECK(reached.count() <= may_be_counted);
  const bool counted = reached.count() != 0;
  CHECK((counted || latency_ns < 1'000'000));
  CHECK((!counted || reached.Quantile(0.5) * 100 >= latency_ns * 97));  // Half a bucket below.
  INFO(pool->ToText());
  CHECK(pool->ToText().find("emulated") != std::string::npos);
}

TEST_CASE("requests are due one after the other, as fast as the cap lets them", "[remote]") {
  constexpr uint32_t kDepth = 64;
  constexpr uint32_t kRounds = 1000;
  constexpr uint32_t kRun = 16;
  constexpr uint64_t kLatencyNs = 10'000;
  const uint64_t cap = GENERATE(100'000'000u, 1'000'000'000u);
  const Lane lane = GENERATE(Lane::kDemand, Lane::kWriteBack);
  const auto pool = ShapedEmbedded({.latency_ns = kLatencyNs, .bytes_per_second = cap});
  SlotId slab;
  REQUIRE(pool->PlaceSlab(&slab) == IoResult::kOk);
  const Pages pages(kDepth * kRun);
  std::array<IoRequest, kDepth> requests;
  const uint64_t ns = kRun * kPageSize * 1'000'000'000 / cap;
  uint64_t free_ns = 0;
  uint64_t off = 0;
  for (uint32_t i = 0; i < kRounds + kDepth; ++i) {
    IoRequest& request = requests[i % kDepth];
    if (i >= kDepth) pool->Wait(request);
    if (i >= kRounds) continue;
    Prepare(request, i % 2 == 0 ? IoOp::kRead : IoOp::kWrite, lane,
            slab + PageCount(int64_t{kRun} * (i % 64)), kRun, pages[kRun * (i % kDepth)]);
    const Asked asked = SubmitAsking(*pool, request);
    off += asked.IsDue(request.due_ns, free_ns, ns, kLatencyNs) ? 0 : 1;
    free_ns = request.due_ns - kLatencyNs;
  }
  CHECK(off == 0);
}

TEST_CASE("a demand read does not queue behind write-backs", "[remote]") {
  constexpr uint32_t kWrites = 8;
  constexpr uint64_t kCap = 400'000'000;
  const auto pool = ShapedEmbedded({.latency_ns = 10'000, .bytes_per_second = kCap});
  SlotId slab;
  REQUIRE(pool->PlaceSlab(&slab) == IoResult::kOk);
  const Pages run(kZonePages);
  const Pages page(1);
  std::array<IoRequest, kWrites> writes;
  const uint64_t begin = NowNs();
  for (IoRequest& write : writes) {
    Prepare(write, IoOp::kWrite, Lane::kWriteBack, slab, kZonePages, run[0]);
    SubmitWhenFree(*pool, write);
  }
  IoRequest read;
  Prepare(read, IoOp::kRead, Lane::kDemand, slab, 1, page[0]);
  SubmitWhenFree(*pool, read);
  CHECK(read.due_ns < writes[0].due_ns);
  pool->Wait(read);
  for (IoRequest& write : writes) pool->Wait(write);
  const double all_ns = kWrites * static_cast<double>(kZonePages * kPageSize) * 1e9 / kCap;
  CHECK(static_cast<double>(NowNs() - begin) >= all_ns);
}

TEST_CASE("nothing is seen before it is due, however hard it is polled for", "[remote]") {
  constexpr uint64_t kLatencyNs = 200'000;
  const auto pool = ShapedEmbedded({.latency_ns = kLatencyNs});
  SlotId slab;
  REQUIRE(pool->PlaceSlab(&slab) == IoResult::kOk);
  const Pages page(1);
  std::atomic<bool> stop{false};
  uint64_t earliest = UINT64_MAX;
  RunTogether(2, [&](uint32_t thread) {
    if (thread == 1) {
      while (!stop.load()) pool->Poll(Lane::kPrefetch);
      return;
    }
    for (int i = 0; i < 200; ++i) {
      IoRequest request;
      const uint64_t begin = NowNs();
      Prepare(request, IoOp::kRead, Lane::kPrefetch, slab, 1, page[0]);
      SubmitWhenFree(*pool, request);
      YieldUntil([&] { return request.final(); });
      earliest = std::min(earliest, NowNs() - begin);
    }
    stop.store(true);
  });
  CHECK(earliest >= kLatencyNs);
}

TEST_CASE("more sleepers than timers all wake", "[remote]") {
  constexpr uint32_t kSleepers = 40;
  const auto pool = ShapedEmbedded({.latency_ns = 2'000'000});
  SlotId slab;
  REQUIRE(pool->PlaceSlab(&slab) == IoResult::kOk);
  std::atomic<uint32_t> failed{0};
  RunTogether(kSleepers, [&](uint32_t) {
    const Pages page(1);
    for (int i = 0; i < 3; ++i) {
      if (Run(*pool, IoOp::kRead, Lane::kDemand, slab, 1, page[0]) != 0) ++failed;
    }
  });
  CHECK(failed == 0);
}

}  // namespace
}  // namespace spiritos
