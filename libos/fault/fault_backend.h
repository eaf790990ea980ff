// SPDX-License-Identifier: Apache-2.0
// FaultBackend: the seam between policy and whatever changes mappings.
//
// The pager and the evictors see nothing else of userfaultfd (or, one day, of
// page tables of our own). All calls are `signal` context unless said otherwise,
// and all of them resume after partial results by themselves: what they return
// is final.
//
//   Fill    absent pages appear with given bytes; waiters wake
//   Freeze  no store into the range goes unseen from here on; loads go on
//   Drop    pages leave the application; their frames are free
//   Thaw    stores go on again
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "libos/base/units.h"

namespace spiritos {

enum class FaultKind : uint8_t {
  kUnknown,       // An address and nothing else.
  kMissing,       // The page is absent: a load.
  kMissingWrite,  // The page is absent: a store.
  kWriteProtect,  // The page is protected: a store.
};

// What a sink did with a fault, for backends whose waiters need a wake.
enum class FaultOutcome : uint8_t {
  kMapped,   // A Fill or Thaw resolved it and woke whoever waited.
  kRetry,    // Nothing was left to do: the access must be tried again.
  kNotOurs,  // No region holds the address.
  kLost,     // The page's bytes cannot be had: the access must fail.
};

// Told of every fault in a covered range, in the faulting thread or a handler
// thread. Returns when the access may be tried again.
class FaultSink {
 public:
  virtual FaultOutcome OnFault(Vpn vpn, FaultKind kind) noexcept = 0;

 protected:
  ~FaultSink() = default;
};

enum class MapResult : uint8_t {
  kOk,
  kPresent,   // Fill: the page was there already and kept its bytes.
  kGone,      // The range is not mapped or not covered any more.
  kNoMemory,  // The kernel has no frame (cgroup limit or the machine).
  kFailed,    // Anything else; `error` says what.
};

struct MapOutcome {
  MapResult result = MapResult::kOk;
  // Pages done, counted from the range's start, when `result` is not kOk.
  uint32_t done = 0;
  int error = 0;  // errno of the call that ended it.
};

// Whether pages appear protected, as Freeze would leave them.
enum class FillMode : uint8_t { kWritable, kProtected };

struct FaultCaps {
  bool in_thread = false;      // The faulting thread serves itself.
  bool kernel_faults = false;  // System calls on absent pages wait for us.
  bool dirty_bits = false;
  bool accessed_bits = false;
  bool batched_zap = false;  // One Drop call takes many runs and flushes once.
  bool move = false;         // Runs can be moved instead of copied.
  bool forks = false;        // A child of fork(2) can go on: see Pause().
  // Measured when the space starts, in nanoseconds.
  double shootdown_ns = 0;
  double wakeup_ns = 0;
  double fill_ns = 0;
};

class FaultBackend {
 public:
  virtual ~FaultBackend() = default;

  // Starts and stops seeing faults in a range of private anonymous memory.
  // Context: any.
  virtual absl::Status Cover(AddressRange range) = 0;
  virtual void Uncover(AddressRange range) = 0;

  // Maps `count` absent pages from `first` with the bytes at `bytes`. kPresent
  // stops at a page that was there: `done` counts the pages before it.
  virtual MapOutcome Fill(Vpn first, uint32_t count, const std::byte* bytes,
                          FillMode mode) noexcept = 0;

  virtual MapOutcome Freeze(PageRun run) noexcept = 0;
  virtual MapOutcome Thaw(PageRun run) noexcept = 0;

  // Absent afterwards: all pages of all runs (absent ones among them are
  // allowed). On failure `done` counts pages over the runs in order.
  virtual MapOutcome Drop(std::span<const PageRun> runs) noexcept = 0;

  // Drop() for memory that the kernel may have pinned for a device, which writes to it
  // unseen. A page stays when it is pinned, or when `unchanged(page, bytes)` is false of it
  // once nothing can write to it any more. Not kOk, with `done` 0, when some stayed:
  // Present() says which; they are not protected any more, or are still.
  // REQUIRES: AllowPins() succeeded; all pages of the runs are present, and faults on them
  // wait.
  virtual MapOutcome DropUnpinned(
      std::span<const PageRun> runs,
      absl::FunctionRef<bool(Vpn, const std::byte*)> unchanged) noexcept = 0;
  // kUnimplemented where this kernel has no way to do that. Context: any.
  virtual absl::Status AllowPins() = 0;

  // Whether the page is mapped now: for what a failed Drop left behind.
  virtual bool Present(Vpn vpn) noexcept = 0;

  // Wakes threads that wait for `vpn` without changing it; nothing where faults
  // are served in-thread.
  virtual void Wake(Vpn vpn) noexcept = 0;

  // Around fork(2): no fault is being served, nor will be, from Pause() to Resume(). In the
  // child Restart() comes instead of Resume(), then a Cover() of all that was covered; it has
  // the bytes, and nothing in it is protected. REQUIRES: caps().forks. Context: any.
  virtual void Pause() {}
  virtual void Resume() {}
  virtual absl::Status Restart() { return absl::UnimplementedError("fork(2)"); }

  virtual const FaultCaps& caps() const = 0;
};

}  // namespace spiritos
