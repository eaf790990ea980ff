// SPDX-License-Identifier: Apache-2.0
// ServerPool: a pool whose slots lie on memory servers, each slab on one or several.
//
//   request --split--> messages of at most kMaxWirePages, for each copy --> lanes
//                      the last one that ends finishes the request
//
// Reads go to a live copy and, when that fails, to the next. A write goes to every copy
// that is live or being filled, and is done when all have it or are dead in the slab
// map: a copy that is not dead holds all that was acknowledged. Who is dead is decided
// by the keeper, a thread that also places slabs, gives them back, reconnects, and
// copies slabs that have lost a copy to another server.
//
// Context: signal, but for Create() and what the keeper runs.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "libos/base/lock.h"
#include "libos/remote/remote_backend.h"
#include "libos/remote/server_link.h"
#include "libos/remote/slab_desk.h"
#include "libos/remote/slab_map.h"

namespace spiritos {

class ServerPool final : public RemoteBackend, private ServerLane::Sink {
 public:
  struct Options {
    std::vector<ServerAddress> servers;
    std::string tenant;
    uint32_t copies = 1;
    // A copy that has not acknowledged a message for so long is dead, if there is
    // another; if there is none, requests wait for its server for `give_up_ms`.
    uint64_t dead_ms = 400;
    uint64_t give_up_ms = 30'000;
    Bytes capacity;  // Of the pool; 0 = what the servers have.
  };
  static absl::StatusOr<std::unique_ptr<ServerPool>> Create(Options options);
  ~ServerPool() override;

  IoResult PlaceSlab(SlotId* first) noexcept override;
  void ReleaseSlab(SlotId first) noexcept override;
  bool addressable() const override { return false; }
  std::byte* Direct(SlotId) noexcept override { return nullptr; }
  [[nodiscard]] IoResult Submit(IoRequest& request) noexcept override;
  bool Poll(Lane lane) noexcept override;
  void Wait(IoRequest& request) noexcept override;
  // Servers keep what nobody asks for until its slab is given back.
  void Forget(SlotId, uint32_t) noexcept override {}
  Bytes capacity() const override;
  std::string description() const override;

 private:
  struct Message : LaneRequest {
    IoRequest* parent = nullptr;
    uint64_t index = 0;  // Of the slab.
    uint8_t copy = 0;
    uint8_t attempts = 0;
    uint8_t tried = 0;  // Copies that a read has failed on.
    Message* next = nullptr;
  };
  // Enough for every lane's window, with one request's messages beside.
  static constexpr uint32_t kMessages = 512;

  explicit ServerPool(Options options);
  absl::Status Start();

  Message* TakeMessages(uint32_t count) noexcept;
  void GiveMessage(Message& message) noexcept;
  void Launch(Message& message) noexcept;
  void LaunchDeferred(Lane lane) noexcept;
  void OnFinal(LaneRequest& request) noexcept override;
  void OnReadFailed(Message& message) noexcept;
  void EndMessage(Message& message, bool good) noexcept;
  static int LiveCopy(const SlabCopies& copies, uint64_t index, uint32_t avoid) noexcept;

  // The keeper's; see server_pool_keeper.cc.
  void Keep();
  SlabDesk::Stage PlaceCopies(uint64_t index);
  void ReleaseUnused();
  void BuryOrphans();
  void TendLink(uint16_t server, uint64_t now_ns);
  void LoseServer(uint16_t server, std::string_view why);

  const Options options_;
  Bytes capacity_;
  WireId client_;
  SlabDesk desk_;
  SlabMap map_;
  std::vector<std::unique_ptr<ServerLink>> links_;

  std::vector<Message> messages_;
  SpinLock messages_lock_{LockRank::kMessages};
  Message* free_messages_ ABSL_GUARDED_BY(messages_lock_) = nullptr;
  std::array<Message*, kLanes> deferred_ ABSL_GUARDED_BY(messages_lock_){};
  std::array<std::atomic<uint32_t>, kLanes> deferred_count_{};
  // Writes that a server refused: their copies are to be declared dead.
  Message* orphans_ ABSL_GUARDED_BY(messages_lock_) = nullptr;

  struct Tending {
    uint64_t next_try_ns = 0;
    uint64_t back_off_ns = 0;
    uint64_t down_since_ns = 0;
    uint64_t pinged_ns = 0;
  };
  // The keeper's.
  std::vector<Tending> tending_;
  std::vector<uint64_t> placed_slabs_;  // By server.
  std::atomic<bool> stopping_{false};
  std::thread keeper_;
};

}  // namespace spiritos
