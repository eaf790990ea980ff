// SPDX-License-Identifier: Apache-2.0
// What every pool must do, whatever it is made of.
#include <sched.h>

#include <atomic>
#include <cerrno>
#include <deque>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "libos/base/failpoint.h"
#include "test/libos/remote/remote_rig.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

SlotId After(SlotId slot, uint64_t pages) { return slot + PageCount(static_cast<int64_t>(pages)); }

TEST_CASE("a run that was written is read back, on every lane and of every length", "[remote]") {
  const std::string kind = GENERATE(from_range(PoolKinds()));
  RemoteRig rig(kind);
  const SlotId slab = rig.Place();
  const Pages out(kZonePages);
  const Pages in(kZonePages);
  uint64_t version = 0;
  for (const Lane lane : kAllLanes) {
    for (const uint32_t length : {1u, 2u, 7u, 64u, kZonePages}) {
      const SlotId first = After(slab, kSlabPages - length);  // Up to the slab's last slot.
      ++version;
      for (uint32_t i = 0; i < length; ++i) WritePage(out[i], first.raw() + i, version);
      REQUIRE(Run(rig.pool(), IoOp::kWrite, lane, first, length, out[0]) == 0);
      REQUIRE(Run(rig.pool(), IoOp::kRead, lane, first, length, in[0]) == 0);
      bool same = true;
      for (uint32_t i = 0; i < length; ++i) same &= PageHolds(in[i], first.raw() + i, version);
      CHECK(same);
    }
  }
}

TEST_CASE("a write leaves the slots beside its run alone", "[remote]") {
  const std::string kind = GENERATE(from_range(PoolKinds()));
  RemoteRig rig(kind);
  const SlotId slab = rig.Place();
  const Pages pages(9);
  for (uint32_t i = 0; i < 9; ++i) WritePage(pages[i], i, 1);
  REQUIRE(Run(rig.pool(), IoOp::kWrite, Lane::kWriteBack, slab, 9, pages[0]) == 0);
  for (uint32_t i = 3; i < 6; ++i) WritePage(pages[i], i, 2);
  REQUIRE(Run(rig.pool(), IoOp::kWrite, Lane::kWriteBack, After(slab, 3), 3, pages[3]) == 0);
  const Pages in(9);
  REQUIRE(Run(rig.pool(), IoOp::kRead, Lane::kDemand, slab, 9, in[0]) == 0);
  for (uint32_t i = 0; i < 9; ++i) CHECK(PageHolds(in[i], i, i >= 3 && i < 6 ? 2 : 1));
}

TEST_CASE("threads with many requests in flight read what they wrote", "[remote]") {
  constexpr uint32_t kThreads = 4;
  constexpr uint32_t kDepth = 12;
  constexpr uint32_t kSlots = 512;  // Of each thread.
  constexpr uint32_t kLongest = 8;
  const std::string kind = GENERATE(from_range(PoolKinds()));
  const uint64_t seed = TestSeed();
  INFO("SPIRITOS_TEST_SEED=" << seed << ", " << kind);
  RemoteRig rig(kind);
  RemoteBackend& pool = rig.pool();
  const SlotId slab = rig.Place();
  std::atomic<uint32_t> wrong{0};
  std::atomic<uint32_t> working{kThreads};

  RunTogether(kThreads + 1, [&](uint32_t thread) {
    if (thread == kThreads) {  // Polls for all the others.
      while (working.load() != 0) {
        for (const Lane lane : kAllLanes) pool.Poll(lane);
        sched_yield();
      }
      return;
    }
    std::mt19937_64 random(seed + thread);
    const uint64_t first = slab.raw() + thread * kSlots;
    struct Flight {
      IoRequest request;
      uint64_t begin = 0;
      bool busy = false;
    };
    std::array<Flight, kDepth> flights;
    const Pages memory(kDepth * kLongest);
    std::array<uint64_t, kSlots> shadow{};  // 0 = never written.
    std::array<bool, kSlots> in_use{};
    uint64_t version = 0;

    const auto finish = [&](uint32_t f) {
      Flight& flight = flights[f];
      IoRequest& request = flight.request;
      if (request.status.load() != IoStatus::kDone) ++wrong;
      for (uint32_t i = 0; i < request.pages; ++i) {
        const uint64_t slot = flight.begin + i;
        in_use[slot] = false;
        if (request.op == IoOp::kWrite || shadow[slot] == 0) continue;
        if (!PageHolds(memory[f * kLongest + i], slot, shadow[slot])) ++wrong;
      }
      flight.busy = false;
    };
    for (uint32_t round = 0; round < Rounds(4000); ++round) {
      const auto f = static_cast<uint32_t>(random() % kDepth);
      Flight& flight = flights[f];
      if (flight.busy) {
        if (random() % 2 == 0) {
          pool.Wait(flight.request);
        } else if (pool.Poll(flight.request.lane); !flight.request.final()) {
          continue;
        }
        finish(f);
        continue;
      }
      const auto length = static_cast<uint32_t>(1 + random() % kLongest);
      const uint64_t begin = random() % (kSlots - length);
      bool free = true;
      for (uint64_t s = begin; s < begin + length; ++s) free &= !in_use[s];
      if (!free) continue;
      const IoOp op = random() % 2 == 0 ? IoOp::kRead : IoOp::kWrite;
      if (op == IoOp::kWrite) ++version;
      for (uint64_t s = begin; s < begin + length; ++s) {
        in_use[s] = true;
        if (op == IoOp::kRead) continue;
        shadow[s] = version;
        WritePage(memory[f * kLongest + static_cast<uint32_t>(s - begin)], s, version);
      }
      flight.begin = begin;
      flight.busy = true;
      Prepare(flight.request, op, kAllLanes[random() % kLanes], SlotId(first + begin), length,
              memory[f * kLongest]);
      SubmitWhenFree(pool, flight.request);
    }
    for (uint32_t f = 0; f < kDepth; ++f) {
      if (!flights[f].busy) continue;
      pool.Wait(flights[f].request);
      finish(f);
    }
    working.fetch_sub(1);
  });
  CHECK(wrong == 0);
}

TEST_CASE("a request finishes though its thread only ever submits", "[remote]") {
  const std::string kind = GENERATE(from_range(PoolKinds()));
  RemoteRig rig(kind);
  const SlotId slab = rig.Place();
  constexpr uint32_t kRequests = 32;
  const Pages out(kRequests);
  const Pages in(kRequests);
  for (uint32_t i = 0; i < kRequests; ++i) WritePage(out[i], i, 7);
  REQUIRE(Run(rig.pool(), IoOp::kWrite, Lane::kWriteBack, slab, kRequests, out[0]) == 0);
  std::array<IoRequest, kRequests> requests;
  std::thread submitter([&] {
    for (uint32_t i = 0; i < kRequests; ++i) {
      Prepare(requests[i], IoOp::kRead, Lane::kPrefetch, After(slab, i), 1, in[i]);
      SubmitWhenFree(rig.pool(), requests[i]);
    }
  });
  submitter.join();  // It is gone, with its requests under way.
  for (uint32_t i = 0; i < kRequests; ++i) {
    if (i % 2 == 0) {
      rig.pool().Wait(requests[i]);
    } else {
      YieldUntil([&] {
        rig.pool().Poll(Lane::kPrefetch);
        return requests[i].final();
      });
    }
    CHECK(requests[i].status.load() == IoStatus::kDone);
    CHECK(PageHolds(in[i], i, 7));
  }
}

TEST_CASE("several threads may wait for one request", "[remote]") {
  const std::string kind = GENERATE(from_range(PoolKinds()));
  RemoteRig rig(kind);
  const SlotId slab = rig.Place();
  const Pages page(1);
  std::atomic<uint32_t> submitted{0};
  std::atomic<uint32_t> arrived{0};
  IoRequest request;
  RunTogether(3, [&](uint32_t thread) {
    for (uint32_t round = 1; round <= Rounds(300); ++round) {
      if (thread == 0) {
        YieldUntil([&] { return arrived.load() == 3 * (round - 1); });
        Prepare(request, round % 2 == 0 ? IoOp::kRead : IoOp::kWrite, Lane::kDemand, slab, 1,
                page[0]);
        SubmitWhenFree(rig.pool(), request);
        submitted.store(round);
      }
      YieldUntil([&] { return submitted.load() >= round; });
      rig.pool().Wait(request);
      arrived.fetch_add(request.final() ? 1 : 1000);
    }
  });
  CHECK(arrived == 3 * Rounds(300));
}

TEST_CASE("a full lane refuses, takes more after a poll, and loses nothing", "[remote]") {
  const std::string kind = GENERATE(from_range(PoolKinds()));
  RemoteRig rig(kind);
  const SlotId slab = rig.Place();
  constexpr uint32_t kRequests = 2000;
  const Pages page(1);
  std::deque<IoRequest> requests(kRequests);
  uint32_t refused = 0;
  for (uint32_t i = 0; i < kRequests; ++i) {
    Prepare(requests[i], IoOp::kRead, Lane::kDemand, After(slab, i), 1, page[0]);
    while (rig.pool().Submit(requests[i]) != IoResult::kOk) {
      ++refused;
      REQUIRE(requests[i].status.load() == IoStatus::kIdle);
      rig.pool().Poll(Lane::kDemand);
    }
  }
  for (IoRequest& request : requests) {
    rig.pool().Wait(request);
    REQUIRE(request.status.load() == IoStatus::kDone);
  }
  // A disk may keep up; what is 20 us away cannot.
  if (kind.starts_with("shaped")) CHECK(refused != 0);
}

TEST_CASE("slabs do not overlap, end with the pool and can be placed again", "[remote]") {
  const std::string kind = GENERATE(from_range(PoolKinds()));
  RemoteRig rig(kind, 3);
  CHECK(rig.pool().capacity() == Bytes(3 * kSlabSize));
  std::set<uint64_t> slabs;
  for (int i = 0; i < 3; ++i) slabs.insert(rig.Place().raw());
  REQUIRE(slabs.size() == 3);
  const Pages page(1);
  for (const uint64_t slab : slabs) {
    CHECK(slab % kSlabPages == 0);
    WritePage(page[0], slab, 3);
    REQUIRE(Run(rig.pool(), IoOp::kWrite, Lane::kWriteBack, SlotId(slab + kSlabPages - 1), 1,
                page[0]) == 0);
  }
  SlotId none(77);
  CHECK(rig.pool().PlaceSlab(&none) == IoResult::kNoSpace);
  CHECK(none == SlotId(77));

  const uint64_t released = *std::next(slabs.begin());
  rig.pool().ReleaseSlab(SlotId(released));
  const uint64_t again = rig.Place().raw();
  CHECK((again == released || !slabs.contains(again)));
  CHECK(rig.pool().PlaceSlab(&none) == IoResult::kNoSpace);
  for (const uint64_t slab : slabs) {
    if (slab == released) continue;
    REQUIRE(Run(rig.pool(), IoOp::kRead, Lane::kDemand, SlotId(slab + kSlabPages - 1), 1,
                page[0]) == 0);
    CHECK(PageHolds(page[0], slab, 3));
  }
}

TEST_CASE("threads that place slabs at once get one each", "[remote]") {
  const std::string kind = GENERATE(from_range(PoolKinds()));
  constexpr uint32_t kSlabs = 6;
  RemoteRig rig(kind, kSlabs);
  std::mutex mutex;
  std::set<uint64_t> slabs;
  std::atomic<uint32_t> placed{0};
  RunTogether(3, [&](uint32_t) {
    SlotId first;
    while (rig.pool().PlaceSlab(&first) == IoResult::kOk) {
      ++placed;
      const std::lock_guard<std::mutex> guard(mutex);
      slabs.insert(first.raw());
    }
  });
  CHECK(placed == kSlabs);
  CHECK(slabs.size() == kSlabs);
}

TEST_CASE("forgetting slots keeps the others and leaves them fit for writing", "[remote]") {
  const std::string kind = GENERATE(from_range(PoolKinds()));
  RemoteRig rig(kind);
  const SlotId slab = rig.Place();
  const Pages out(64);
  for (uint32_t i = 0; i < 64; ++i) WritePage(out[i], i, 1);
  REQUIRE(Run(rig.pool(), IoOp::kWrite, Lane::kWriteBack, slab, 64, out[0]) == 0);
  rig.pool().Forget(After(slab, 16), 32);
  const Pages in(64);
  REQUIRE(Run(rig.pool(), IoOp::kRead, Lane::kDemand, slab, 64, in[0]) == 0);
  for (uint32_t i = 0; i < 64; ++i) {
    if (i < 16 || i >= 48) CHECK(PageHolds(in[i], i, 1));
  }
  WritePage(out[0], 20, 2);
  REQUIRE(Run(rig.pool(), IoOp::kWrite, Lane::kWriteBack, After(slab, 20), 1, out[0]) == 0);
  REQUIRE(Run(rig.pool(), IoOp::kRead, Lane::kDemand, After(slab, 20), 1, in[0]) == 0);
  CHECK(PageHolds(in[0], 20, 2));
}

TEST_CASE("an addressable pool has memory for its slots and no other has", "[remote]") {
  const std::string kind = GENERATE(from_range(PoolKinds()));
  RemoteRig rig(kind);
  const SlotId slab = rig.Place();
  CHECK((rig.pool().Direct(slab) != nullptr) == rig.pool().addressable());
  CHECK(rig.pool().addressable() == (kind == "embedded" || kind == "shm"));
}

TEST_CASE("no call of a pool changes errno", "[remote]") {
  const std::string kind = GENERATE(from_range(PoolKinds()));
  RemoteRig rig(kind, 1);
  const Pages page(1);
  errno = 77;
  SlotId slab;
  const IoResult placed = rig.pool().PlaceSlab(&slab);
  const int error = Run(rig.pool(), IoOp::kWrite, Lane::kWriteBack, slab, 1, page[0]);
  rig.pool().Forget(slab, 1);
  rig.pool().Poll(Lane::kWriteBack);
  rig.pool().ReleaseSlab(slab);
  const int after = errno;
  CHECK(after == 77);
  CHECK(placed == IoResult::kOk);
  CHECK(error == 0);
}

#ifdef SPIRITOS_FAILPOINTS
TEST_CASE("an injected failure ends its request with the errno and no other", "[remote]") {
  const std::string kind = GENERATE(from_range(PoolKinds()));
  const bool reads = GENERATE(true, false);
  if (kind.find("backup") != kind.npos) return;  // What fails at one place is had from the other.
  INFO(kind << (reads ? ", reads" : ", writes"));
  RemoteRig rig(kind);
  const SlotId slab = rig.Place();
  constexpr uint32_t kRequests = 8;
  const Pages pages(kRequests);
  for (uint32_t i = 0; i < kRequests; ++i) WritePage(pages[i], i, 1);
  REQUIRE(Run(rig.pool(), IoOp::kWrite, Lane::kWriteBack, slab, kRequests, pages[0]) == 0);

  const Failpoint point = reads ? Failpoint::kBackendRead : Failpoint::kBackendWrite;
  Failpoints::Arm(point, 3, ENODATA, 2);
  std::array<IoRequest, kRequests> requests;
  for (uint32_t i = 0; i < kRequests; ++i) {
    Prepare(requests[i], reads ? IoOp::kRead : IoOp::kWrite, Lane::kDemand, After(slab, i), 1,
            pages[i]);
    SubmitWhenFree(rig.pool(), requests[i]);
  }
  uint32_t failed = 0;
  for (uint32_t i = 0; i < kRequests; ++i) {
    rig.pool().Wait(requests[i]);
    if (requests[i].status.load() == IoStatus::kDone) {
      CHECK(PageHolds(pages[i], i, 1));
      continue;
    }
    ++failed;
    CHECK(requests[i].error == ENODATA);
  }
  CHECK(failed == 2);
  CHECK(Failpoints::Passes(point) == kRequests);
  Failpoints::DisarmAll();
  // What a failed write has left behind is unknown; the next one makes it good.
  CHECK(Run(rig.pool(), IoOp::kWrite, Lane::kWriteBack, slab, kRequests, pages[0]) == 0);
  CHECK(Run(rig.pool(), IoOp::kRead, Lane::kDemand, slab, kRequests, pages[0]) == 0);
}
#endif

}  // namespace
}  // namespace spiritos
