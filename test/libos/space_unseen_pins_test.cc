// SPDX-License-Identifier: Apache-2.0
// Memory that the kernel has pinned behind the runtime's back: io_uring's registered buffers.
//
// A registered buffer is pinned from its registration on, for as long as a test likes, and
// what IORING_OP_READ_FIXED stores there goes to the pinned frames, whatever the page tables
// say by then.
#include <fcntl.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <thread>
#include <vector>

#include "libos/base/failpoint.h"
#include "libos/base/fd.h"
#include "libos/fault/probe.h"
#include "libos/space.h"
#include "test/support/eventually.h"
#include "test/support/space_peer.h"

namespace spiritos {
namespace {

constexpr uint64_t kPages = 4096;
constexpr uint64_t kPinned = 64;  // RLIMIT_MEMLOCK counts these.

bool KernelMoves() {
  const bool moves = ProbeKernel().uffd_move;
  if (!moves) WARN("UFFDIO_MOVE is not in this kernel: not run");
  return moves;
}

// Each page's first word holds its number + 1.
class PinRig {
 public:
  explicit PinRig(FaultMode mode) {
    Options options;
    options.budget = 8_MiB;
    options.fault.mode = mode;
    auto made = Space::Create(options);
    if (!made.ok()) FAIL(made.status().ToString());
    space = *std::move(made);
    region = space->CreateRegion(Bytes(kPages * kPageSize)).value();
    REQUIRE(io_uring_queue_init(8, &ring, 0) == 0);
    std::array<int, 2> ends;
    REQUIRE(pipe(ends.data()) == 0);
    out = UniqueFd(ends[0]);
    in = UniqueFd(ends[1]);
    REQUIRE(space->AllowUnseenPins().ok());
    for (uint64_t page = 0; page < kPages; ++page) Word(page) = page + 1;
  }
  ~PinRig() { io_uring_queue_exit(&ring); }
  PinRig(const PinRig&) = delete;
  PinRig& operator=(const PinRig&) = delete;

  volatile uint64_t& Word(uint64_t page) const {
    return *reinterpret_cast<volatile uint64_t*>(region.begin + page * kPageSize);
  }
  PageWord At(uint64_t page) const {
    return SpaceTestPeer::WordOf(*space, region.begin + page * kPageSize);
  }
  // Pinned by the kernel: pages [first, first + kPinned).
  void Register(uint64_t first) {
    const iovec buffer{region.begin + first * kPageSize, kPinned * kPageSize};
    REQUIRE(io_uring_register_buffers(&ring, &buffer, 1) == 0);
  }
  void Unregister() { REQUIRE(io_uring_unregister_buffers(&ring) == 0); }
  // The device stores `value` in the page's first word.
  void StoreByDevice(uint64_t page, uint64_t value) {
    REQUIRE(write(in.get(), &value, sizeof(value)) == sizeof(value));
    io_uring_sqe* const sqe = io_uring_get_sqe(&ring);
    io_uring_prep_read_fixed(sqe, out.get(), region.begin + page * kPageSize, sizeof(value), 0, 0);
    io_uring_cqe* cqe = nullptr;
    REQUIRE(io_uring_submit_and_wait(&ring, 1) == 1);
    REQUIRE(io_uring_wait_cqe(&ring, &cqe) == 0);
    REQUIRE(cqe->res == sizeof(value));
    io_uring_cqe_seen(&ring, cqe);
  }

  std::unique_ptr<Space> space;
  AddressRange region;
  io_uring ring{};
  UniqueFd in;
  UniqueFd out;
};

TEST_CASE("pages that the kernel has pinned stay, and keep what a device stores", "[space][pins]") {
  if (!KernelMoves()) return;
  const auto mode = GENERATE(FaultMode::kSigbus, FaultMode::kThread);
  PinRig rig(mode);
  constexpr uint64_t kFirst = 1000;
  // SIGBUS mode: the kernel cannot fault them in.
  REQUIRE(rig.space->Pin({rig.region.begin + kFirst * kPageSize, Bytes(kPinned * kPageSize)}).ok());
  rig.Register(kFirst);
  rig.space->Unpin({rig.region.begin + kFirst * kPageSize, Bytes(kPinned * kPageSize)});
  for (int round = 0; round < 3; ++round) {
    static_cast<void>(rig.space->Evict(rig.region));
    for (uint64_t page = kFirst; page < kFirst + kPinned; ++page) {
      CAPTURE(round, page);
      REQUIRE(rig.At(page).state() == PageState::kResident);
    }
    CHECK(rig.At(0).state() == PageState::kRemote);
    rig.StoreByDevice(kFirst + static_cast<uint64_t>(round), 77);
    CHECK(rig.Word(kFirst + static_cast<uint64_t>(round)) == 77);
  }
  CHECK(rig.space->GetStats()[Metric::kPinnedByKernel] >= 3 * kPinned);
  rig.Unregister();
  const auto here = [&] {
    uint64_t count = 0;
    for (uint64_t page = 0; page < kPages; ++page) {
      count += rig.At(page).state() != PageState::kRemote;
    }
    return count;
  };
  // The kernel lets go of what it had pinned in its own time.
  Eventually("all pages may leave",
             [&] { return rig.space->Evict(rig.region).ok() && here() == 0; });
  uint64_t wrong = 0;
  for (uint64_t page = 0; page < kPages; ++page) {
    const bool by_device = page >= kFirst && page < kFirst + 3;
    wrong += rig.Word(page) != (by_device ? 77 : page + 1);
  }
  CHECK(wrong == 0);
}

PinRig* stored_late = nullptr;  // What the hook below works on.
constexpr uint64_t kLate = 700;

TEST_CASE("what a device stores between a page's write and its drop is kept", "[space][pins]") {
  if (!KernelMoves()) return;
  const auto mode = GENERATE(FaultMode::kSigbus, FaultMode::kThread);
  PinRig rig(mode);
  const AddressRange late{rig.region.begin + kLate * kPageSize, Bytes(kPinned * kPageSize)};
  REQUIRE(rig.space->Evict(rig.region).ok());
  REQUIRE(rig.space->Pin(late).ok());
  rig.Register(kLate);
  rig.space->Unpin(late);
  stored_late = &rig;
  // Written, about to be dropped: the device stores, and is done with the memory.
  Failpoints::SetPause(PausePoint::kBeforeDrop, [] {
    PinRig* const once = std::exchange(stored_late, nullptr);
    if (once == nullptr) return;
    once->StoreByDevice(kLate + 5, 99);
    once->Unregister();
  });
  static_cast<void>(rig.space->Evict(late));
  Failpoints::SetPause(PausePoint::kBeforeDrop, nullptr);
  REQUIRE(stored_late == nullptr);
  CHECK(rig.At(kLate).state() == PageState::kRemote);
  CHECK(rig.At(kLate + 5).state() == PageState::kResident);
  CHECK(rig.Word(kLate + 5) == 99);
  // Its new bytes leave as anybody's.
  REQUIRE(rig.space->Evict(late).ok());
  CHECK(rig.At(kLate + 5).state() == PageState::kRemote);
  for (uint64_t i = 0; i < kPinned; ++i) {
    CAPTURE(i);
    CHECK(rig.Word(kLate + i) == (i == 5 ? 99 : kLate + i + 1));
  }
}

TEST_CASE("where pages cannot be moved, unseen pins are refused", "[space][pins]") {
  Options options;
  options.budget = 8_MiB;
  options.fault.oldest_calls = true;
  const auto space = Space::Create(options).value();
  const absl::Status status = space->AllowUnseenPins();
  CHECK(status.code() == absl::StatusCode::kUnimplemented);
  CHECK(status.message().find("UFFDIO_MOVE") != std::string_view::npos);
}

TEST_CASE("a device reads into memory while evictors work on it", "[space][pins]") {
  if (!KernelMoves()) return;
  PinRig rig(FaultMode::kThread);
  // Somebody else needs every frame that there is.
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    for (uint64_t page = 0; !stop; page = (page + 1) % 3500) {
      if (rig.Word(page) != page + 1) std::abort();
    }
  });
  uint64_t wrong = 0;
  for (uint64_t round = 0; round < 200; ++round) {
    const uint64_t first = 3500 + round % 500;
    rig.Register(first);  // Faults them in, in the kernel.
    const uint64_t evicted = rig.space->GetStats()[Metric::kEvictedPages];
    while (rig.space->GetStats()[Metric::kEvictedPages] < evicted + 256) std::this_thread::yield();
    rig.StoreByDevice(first + round % kPinned, round + 1'000'000);
    rig.Unregister();
    wrong += rig.Word(first + round % kPinned) != round + 1'000'000;
    rig.Word(first + round % kPinned) = first + round % kPinned + 1;
  }
  stop = true;
  reader.join();
  CHECK(wrong == 0);
  REQUIRE(rig.space->Evict(rig.region).ok());
  for (uint64_t page = 0; page < kPages; ++page) wrong += rig.Word(page) != page + 1;
  CHECK(wrong == 0);
}

}  // namespace
}  // namespace spiritos
