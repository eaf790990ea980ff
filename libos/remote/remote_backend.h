// SPDX-License-Identifier: Apache-2.0
// RemoteBackend: where evicted pages' bytes are; slots by runs, on lanes.
//
// Slots come in slabs of 64 MiB that are placed when first needed. A request
// moves a run of pages between consecutive slots and consecutive near (or
// frozen) memory. Lanes keep apart what must not queue behind each other: demand
// reads, read-ahead, write-backs.
//
// A backend whose slots are memory of this process says so by Direct(): then
// readers and writers use the bytes in place and nothing is ever in flight.
//
// All calls but Create-like setup are `signal` context. A request belongs to the
// caller and stays where it is until its status is final.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "libos/base/options.h"
#include "libos/base/units.h"

namespace spiritos {

enum class Lane : uint8_t { kDemand, kPrefetch, kWriteBack };
inline constexpr size_t kLanes = 3;

enum class IoOp : uint8_t { kRead, kWrite };

enum class IoStatus : uint32_t {
  kIdle,
  kPending,
  kDone,
  kFailed,  // `error` of the request says why; the slots' contents are unknown
            // after a failed write.
};

enum class IoResult : uint8_t {
  kOk,
  kBusy,      // The lane's window is full: poll, then try again.
  kNoSpace,   // The pool cannot place another slab.
  kPeerGone,  // A lane's server has been given up; seen by pools, not by their users.
};

inline constexpr uint8_t kBackupSource = 0x80;

struct IoRequest {
  IoOp op = IoOp::kRead;
  Lane lane = Lane::kDemand;
  SlotId first;
  uint32_t pages = 0;
  std::byte* memory = nullptr;  // pages * 4096 bytes; written by reads only.
  // Of each page of a write, counted up from write to write.
  const uint32_t* versions = nullptr;
  // Of a read: copies, a bit for each, whose bytes turned out wrong. Others are asked
  // first. In `sources` the pool says which it has read; a backup is kBackupSource.
  uint8_t avoid = 0;
  std::atomic<uint8_t> sources{0};
  int error = 0;  // errno, when kFailed; EBADMSG: bytes were read that were never written.

  std::atomic<IoStatus> status{IoStatus::kIdle};
  IoRequest* next = nullptr;  // The backend's, while pending.
  uint64_t due_ns = 0;        // The shaper's, while pending.
  // A server pool's, while pending: what is still to end, by copy, and with whom.
  std::atomic<uint32_t> parts{0};
  std::atomic<uint8_t> failed{0};
  uint8_t targets = 0;
  uint8_t era = 0;
  std::array<std::atomic<uint16_t>, 3> servers{};
  void* read = nullptr;   // The message of a demand read, until that ends;
  uint64_t asked_ns = 0;  // when it was sent.
  // An encrypting pool's, which has `parts` count pages and `failed` be an errno: of a
  // write, pages that are on their way.
  uint32_t begun = 0;

  bool final() const noexcept {
    const IoStatus s = status.load(std::memory_order_acquire);
    return s == IoStatus::kDone || s == IoStatus::kFailed;
  }
  // Release: publishes the bytes read and `error`. Pairs with the acquire above.
  void Finish(int with_error) noexcept {
    error = with_error;
    status.store(with_error == 0 ? IoStatus::kDone : IoStatus::kFailed, std::memory_order_release);
  }
};

// Of a pool that keeps copies.
struct PoolHealth {
  uint64_t degraded_slabs = 0;  // With a copy too few.
  uint64_t lost_slabs = 0;      // With none.
  uint64_t mended_slabs = 0;    // Copied to another server, so far.
  uint64_t moved_slabs = 0;     // From servers that asked for them, so far.
  uint64_t hedged_reads = 0;    // Asked of a second server too, so far,
  uint64_t hedges_won = 0;      // and answered by it first.
  uint64_t unbacked_slabs = 0;  // That should be in a backup, and are not.
  uint64_t backup_behind = 0;   // Pages on their way to a backup.
  uint64_t backup_errors = 0;   // Runs that could not be written to it, so far.
};

// What a child of fork(2) has of a pool's slots.
enum class ForkedSlots : uint8_t {
  kNone,
  kCopied,  // All, and may write to them.
  kShared,  // All, with its parent: neither may write to a slab while it is shared().
};

class RemoteBackend {
 public:
  virtual ~RemoteBackend() = default;

  // Places a slab: its first slot. kNoSpace leaves nothing behind.
  virtual IoResult PlaceSlab(SlotId* first) noexcept = 0;
  // Gives a slab back. REQUIRES: no request on it is pending.
  virtual void ReleaseSlab(SlotId first) noexcept = 0;

  // Whether slots are memory of this process: Direct() is never null then, and
  // always null otherwise.
  virtual bool addressable() const = 0;
  // The slot's 4096 bytes, followed by those of the rest of its slab; null where
  // slots are not memory of this process.
  virtual std::byte* Direct(SlotId slot) noexcept = 0;

  // Starts `request`. Unless kOk nothing was started.
  [[nodiscard]] virtual IoResult Submit(IoRequest& request) noexcept = 0;
  // Finishes what has completed on a lane; true if anything had. Any thread may
  // poll for any other.
  virtual bool Poll(Lane lane) noexcept = 0;
  // Blocks until `request` is final, polling its lane meanwhile: spins no longer
  // than a wake-up costs, then sleeps.
  virtual void Wait(IoRequest& request) noexcept = 0;

  // The slots' bytes are not needed any more; their memory may be reused. Best
  // effort: reading them afterwards gives anything.
  virtual void Forget(SlotId first, uint32_t pages) noexcept = 0;

  // Around fork(2), with nothing pending: what the child will have. Unless it is nothing,
  // AfterFork() in both processes, and no call in between.
  virtual ForkedSlots BeforeFork() noexcept { return ForkedSlots::kNone; }
  virtual void AfterFork(bool /*child*/) noexcept {}
  // Whether another process may have the slab too, as far as is known: true for a while
  // after that has ended. False until the next fork, once it is.
  virtual bool shared(SlotId) noexcept { return false; }

  // Bytes that slabs may take in all; 0 = not known beforehand.
  virtual Bytes capacity() const = 0;
  // Whether nothing is left of a placed slab: whatever is asked of it fails, until it is
  // given back.
  virtual bool lost(SlotId) const noexcept { return false; }
  // Of a pool of servers: whether what a placed slab holds is somewhere else too, so that its
  // loss is better than waiting. It is not, until this is said.
  virtual void SetBacked(SlotId, bool) noexcept {}
  // Near memory for pages that is the pool's own: it counts in the space's budget.
  virtual Bytes near_buffers() const { return Bytes(); }
  virtual PoolHealth health() const noexcept { return {}; }
  virtual std::string description() const = 0;
};

}  // namespace spiritos
