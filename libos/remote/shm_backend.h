// SPDX-License-Identifier: Apache-2.0
// ShmBackend: slabs of a memory server of this machine, mapped here.
//
// The server hands out a slab's file over its Unix socket, once; from then on slots are
// loads and stores, and the server is needed only to place and give back slabs. When it
// dies the mappings stay, and so do all pages. A keeper thread tries to reach it again;
// the one that it finds, if it is new, is given the slabs' files to adopt.
//
// A child of fork(2) is another client of the server, with references to all slabs and the
// same mappings. Until the server says that nobody else has a reference, neither may write
// to one (shared()). What was shared when a server was lost stays so: the next one cannot
// know.
//
// All slabs lie in one reservation of address space, so that a slot's place is a sum.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "libos/base/fd.h"
#include "libos/base/lock.h"
#include "libos/base/mapping.h"
#include "libos/remote/remote_backend.h"
#include "libos/remote/server_link.h"
#include "libos/remote/slab_desk.h"

namespace spiritos {

class ShmBackend final : public RemoteBackend, private ServerLane::Sink {
 public:
  // `capacity` in bytes; 0 = what the server has. With kCopied nobody sees slots but through
  // copies: what was checked cannot change any more, whoever has the server's memory.
  static absl::StatusOr<std::unique_ptr<ShmBackend>> Create(ServerAddress address,
                                                            std::string tenant, Bytes capacity,
                                                            Verify verify = Verify::kMapped);
  ~ShmBackend() override;

  IoResult PlaceSlab(SlotId* first) noexcept override;
  void ReleaseSlab(SlotId first) noexcept override;
  bool addressable() const override { return verify_ == Verify::kMapped; }
  std::byte* Direct(SlotId slot) noexcept override {
    return verify_ == Verify::kMapped ? At(slot) : nullptr;
  }
  [[nodiscard]] IoResult Submit(IoRequest& request) noexcept override;
  bool Poll(Lane) noexcept override { return false; }
  void Wait(IoRequest&) noexcept override {}
  void Forget(SlotId, uint32_t) noexcept override {}  // The server's memory is taken anyway.
  ForkedSlots BeforeFork() noexcept override ABSL_NO_THREAD_SAFETY_ANALYSIS;
  void AfterFork(bool child) noexcept override ABSL_NO_THREAD_SAFETY_ANALYSIS;
  bool shared(SlotId slot) noexcept override {
    return sharing_[slot.raw() / kSlabPages].load(std::memory_order_acquire) != Sharing::kNone;
  }
  Bytes capacity() const override { return Bytes(slab_count_ * kSlabSize); }
  std::string description() const override;

 private:
  // No server counts the slab.
  static constexpr uint64_t kUncounted = 0;
  // A placed slab; the keeper's.
  struct Held {
    uint64_t slab = kUncounted;  // The server's number of it.
    UniqueFd file;
  };

  enum class Sharing : uint8_t {
    kNone,
    kCounted,  // With whom the server counts.
    kForGood,
  };

  ShmBackend(ServerAddress address, std::string tenant, Verify verify);
  // As many as places for slabs: those of a fork come on top of what regions may use.
  uint64_t place_count() const { return 2 * slab_count_; }
  std::byte* At(SlotId slot) noexcept { return memory_.data() + (slot.raw() << kPageShift); }
  std::unique_ptr<ServerLink> NewLink();
  absl::Status Start(Bytes capacity);
  void OnFinal(LaneRequest&) noexcept override {}

  void StartKeeper();
  void Keep();
  void Reconnect(uint64_t now_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(keeper_mutex_);
  absl::Status AdoptAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(keeper_mutex_);
  // The server that counted our slabs is gone.
  void Uncount() ABSL_EXCLUSIVE_LOCKS_REQUIRED(keeper_mutex_);
  SlabDesk::Stage PlaceOne(uint64_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(keeper_mutex_);
  void ReleaseUnused() ABSL_EXCLUSIVE_LOCKS_REQUIRED(keeper_mutex_);
  void AskForHolders(uint64_t now_ns) ABSL_EXCLUSIVE_LOCKS_REQUIRED(keeper_mutex_);
  bool MakeChildClient() ABSL_EXCLUSIVE_LOCKS_REQUIRED(keeper_mutex_);
  uint64_t CountHeld() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(keeper_mutex_);
  template <typename Visit>
  void ForEachMapped(Visit&& visit) ABSL_EXCLUSIVE_LOCKS_REQUIRED(keeper_mutex_);

  const ServerAddress address_;
  const std::string tenant_;
  const Verify verify_;
  WireId client_;
  uint64_t slab_count_ = 0;
  Mapping memory_;
  SlabDesk desk_;
  std::unique_ptr<std::atomic<Sharing>[]> sharing_;
  // The keeper's while it does not sleep; at a fork it is at rest.
  RankedMutex keeper_mutex_{LockRank::kSlabMap};
  std::vector<Held> held_ ABSL_GUARDED_BY(keeper_mutex_);
  std::unique_ptr<ServerLink> link_ ABSL_GUARDED_BY(keeper_mutex_);
  bool to_adopt_ ABSL_GUARDED_BY(keeper_mutex_) = false;  // The server does not know all slabs yet.
  bool inherited_ ABSL_GUARDED_BY(keeper_mutex_) = false;  // Of a parent's slabs, as client_.
  WireId child_client_ ABSL_GUARDED_BY(keeper_mutex_);
  uint64_t next_try_ns_ ABSL_GUARDED_BY(keeper_mutex_) = 0;
  uint64_t back_off_ns_ ABSL_GUARDED_BY(keeper_mutex_) = 0;
  uint64_t pinged_ns_ ABSL_GUARDED_BY(keeper_mutex_) = 0;
  uint64_t next_holders_ns_ ABSL_GUARDED_BY(keeper_mutex_) = 0;
  std::atomic<bool> stopping_{false};
  std::thread keeper_;
};

}  // namespace spiritos
