// SPDX-License-Identifier: Apache-2.0
// Fetcher: reads from pools that are not memory of this process.
//
// A demand read goes into a staging page on the demand lane and is waited for.
// Read-ahead goes into windows: runs of pages read on their own lane while the
// program works. A window that has arrived stands by in its staging buffer, not
// mapped, not holding frames: its first touch fills all of it in one call, and
// that touch is also the prefetcher's marker that starts the next window.
//
//   Free --StartWindow--> Reading --arrived--> Ready --touched / reclaimed--> Free
//
// A window's pages name it: they are Loading while it is read and Standby while it
// is ready; whoever moves the window out of Free, Reading or Ready by
// compare-and-swap owns it (Taken) until it sets the next stage. A thread that
// waits for a window's read holds it meanwhile: a held window is not read into
// anew, so that its request stays the one that is waited for. Context: signal.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "libos/base/metrics.h"
#include "libos/base/parker.h"
#include "libos/base/pinned_arena.h"
#include "libos/fault/fault_backend.h"
#include "libos/mem/free_frame_pool.h"
#include "libos/mem/page_hash.h"
#include "libos/mem/staging.h"
#include "libos/mem/zone.h"
#include "libos/remote/remote_backend.h"

namespace spiritos {

class Fetcher {
 public:
  Fetcher(RemoteBackend& remote, FreeFramePool& frames, Parker& parker, const PageHasher& hasher,
          Metrics& metrics);

  // Takes the buffers' frames off the budget. False when it cannot.
  [[nodiscard]] bool Init(PinnedArena& arena, uint32_t max_window) noexcept;

  // A demand read of one page: submitted by Begin(), awaited and verified by
  // End(), whose bytes are good until Release(). Null when the page cannot be had.
  struct DemandRead {
    IoRequest request;
    Vpn vpn;
    bool to_rewrite = false;  // Some copy in the pool is not what it should be.
  };
  void Begin(DemandRead& read, Zone& zone, uint32_t index) noexcept;
  const std::byte* End(DemandRead& read, const Zone& zone, uint32_t index) noexcept;
  void Release(DemandRead& read) noexcept;

  // Starts reading up to `count` pages from `index` on, as far as they are in the
  // pool, valid, and in one slab. The pages it claimed; 0 if none.
  uint32_t StartWindow(Zone& zone, uint32_t index, uint32_t count) noexcept;
  uint32_t max_window() const { return max_window_; }
  // What the buffers take: frames of the budget, not books.
  Bytes buffer_bytes() const { return BytesOf(frames_held_); }

  // Moves arrived windows on; cheap when none is being read.
  void PollWindows() noexcept;
  // Waits until a page that a window reads (word.read_ahead()) is that no more, and
  // moves the window on: read-ahead has no thread of its own.
  void AwaitWindow(const AtomicPageWord& page, PageWord word) noexcept;

  // A ready window taken for filling: its pages are claimed (Loading) by the
  // caller. Null when the page stands by no more.
  struct Window {
    enum Stage : uint32_t { kFree, kReading, kReady, kTaken };

    Stage stage() const noexcept {
      return static_cast<Stage>(word.load(std::memory_order_acquire) & kStageMask);
    }
    // From `from` to Taken; false when it is at another stage.
    [[nodiscard]] bool TryTake(Stage from) noexcept;
    // Keeps a window that is being read from being read anew. False when it is
    // not being read.
    [[nodiscard]] bool TryHold() noexcept;
    void Unhold() noexcept { word.fetch_sub(kHolder, std::memory_order_release); }

    static constexpr uint32_t kStageMask = 3;
    static constexpr uint32_t kHolder = 4;
    std::atomic<uint32_t> word{kFree};  // Stage, and the number of holders above it.
    std::atomic<Zone*> zone{nullptr};
    std::atomic<uint32_t> first{0};  // Index in the zone.
    std::atomic<uint32_t> count{0};
    std::byte* buffer = nullptr;
    std::atomic<uint64_t> started{0};
    IoRequest request;
  };
  Window* TakeReady(const Zone& zone, uint32_t index, PageWord word) noexcept;
  bool IsReady(PageWord word) const noexcept {
    return windows_[word.staging_buffer()].stage() == Window::kReady;
  }
  void Free(Window& window) noexcept { Set(window, Window::kFree); }

 private:
  // For who took the window. Release: publishes what it is about.
  void Set(Window& window, Window::Stage to) noexcept {
    window.word.fetch_sub(Window::kTaken - to, std::memory_order_release);
    parker_.Unpark(&window.word);
  }
  static constexpr uint32_t kMaxWindows = 16;
  static constexpr int kAttempts = 3;

  void SubmitDemand(DemandRead& read) noexcept;
  Window* TakeFree() noexcept;
  // Gives up a window that arrived and was never touched.
  bool ReclaimOldest() noexcept;
  void Arrived(Window& window, uint32_t number) noexcept;

  RemoteBackend& remote_;
  FreeFramePool& frames_;
  Parker& parker_;
  const PageHasher& hasher_;
  Metrics& metrics_;

  PageCount frames_held_;
  StagingPool pages_;
  uint32_t max_window_ = 0;
  uint32_t window_count_ = 0;
  Window* windows_ = nullptr;
  std::atomic<uint32_t> reading_{0};
  std::atomic<uint64_t> clock_{0};
};

}  // namespace spiritos
