// SPDX-License-Identifier: Apache-2.0
// SlabCopier: copies a slab from one memory server to another, while it is in use.
//
//   Idle --Start--> Copying --> Ended --Finish--> Idle
//
// Pages travel with their trailers, over connections of their own. Every write that does
// not go to both servers has ended before the copy starts; so a page that is read here is
// either the newest, or has a newer write under way to the other server, which refuses
// what that write has overtaken. Pages that were never written are skipped. So are pages
// that do not match their CRC, also when they are read again: they are being written, or
// damaged, and not on the way here. Of a damaged page the new copy then has nothing, and no
// reader takes that for the page.
//
// Threads: one thread calls, another copies.
#pragma once

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "libos/base/fd.h"
#include "libos/base/units.h"
#include "libos/remote/wire.h"

namespace spiritos {

class SlabCopier {
 public:
  // One side: a greeted connection, and a slab there.
  struct Side {
    UniqueFd socket;
    uint16_t version = kWireVersion;
    uint64_t slab = 0;
    uint32_t epoch = 0;
  };

  // `on_end` is called by the copying thread when it ends.
  explicit SlabCopier(std::function<void()> on_end);
  ~SlabCopier();
  SlabCopier(const SlabCopier&) = delete;
  SlabCopier& operator=(const SlabCopier&) = delete;

  // REQUIRES: idle.
  void Start(Side from, Side to);
  bool ended() const { return ended_.load(std::memory_order_acquire); }
  // REQUIRES: ended. What came of it; idle again.
  absl::Status Finish();
  // Idle again: the thread is the parent's.
  void AfterForkInChild();

 private:
  absl::Status Copy();
  absl::Status CopyPiece(uint32_t first);
  absl::Status ReadPiece(uint32_t first);
  enum class Page { kSound, kUnsound, kUnwritten };
  Page Arrived(uint32_t page) const;
  absl::Status WriteRun(uint32_t first, uint32_t begin, uint32_t end);
  FrameHeader NextFrame(const Side& side, WireOp op, uint32_t first, uint32_t pages);

  const std::function<void()> on_end_;
  Side from_;
  Side to_;
  std::vector<std::byte> arriving_;  // Trailers, then pages, as they are on the wire.
  std::vector<std::byte> leaving_;
  uint64_t next_id_ = 1;
  absl::Status result_;
  std::atomic<bool> ended_{false};
  std::atomic<bool> cancelled_{false};
  std::thread thread_;
};

}  // namespace spiritos
