// SPDX-License-Identifier: Apache-2.0
// ShmBackend: slabs of a memory server of this machine, mapped here.
//
// The server hands out a slab's file over its Unix socket, once; from then on slots are
// loads and stores, and the server is needed only to place and give back slabs. When it
// dies the mappings stay, and so do all pages. A keeper thread tries to reach it again;
// the one that it finds, if it is new, is given the slabs' files to adopt.
//
// All slabs lie in one reservation of address space, so that a slot's place is a sum.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "libos/base/fd.h"
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

  ShmBackend(ServerAddress address, std::string tenant, Verify verify);
  std::byte* At(SlotId slot) noexcept { return memory_.data() + (slot.raw() << kPageShift); }
  std::unique_ptr<ServerLink> NewLink();
  absl::Status Start(Bytes capacity);
  void OnFinal(LaneRequest&) noexcept override {}

  void Keep();
  void Reconnect(uint64_t now_ns);
  absl::Status AdoptAll();
  SlabDesk::Stage PlaceOne(uint64_t index);
  void ReleaseUnused();

  const ServerAddress address_;
  const std::string tenant_;
  const Verify verify_;
  WireId client_;
  uint64_t slab_count_ = 0;
  Mapping memory_;
  SlabDesk desk_;
  std::vector<Held> held_;
  std::unique_ptr<ServerLink> link_;
  bool to_adopt_ = false;  // The server does not know all slabs yet.
  uint64_t next_try_ns_ = 0;
  uint64_t back_off_ns_ = 0;
  uint64_t pinged_ns_ = 0;
  std::atomic<bool> stopping_{false};
  std::thread keeper_;
};

}  // namespace spiritos
