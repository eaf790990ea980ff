// SPDX-License-Identifier: Apache-2.0
// ServerPool: a pool whose slots lie on memory servers, each slab on one or several.
//
//   request --split--> messages of at most kMaxWirePages, for each copy --> lanes
//                      the last one that ends finishes the request
//
// Reads go to a live copy and, when that fails, to the next; a demand read that is late is
// asked of a second one meanwhile: see server_pool_hedge.cc. A write goes to every copy
// that is in the slab map, and is done when all that are still there have it: a live
// copy holds all that was acknowledged. The map is the keeper's, a thread that also
// places slabs, gives them back, and reconnects.
//
//   server silent for dead_ms ---> suspended: its copies leave the map where another
//                                  server, which answers, has one, or a backup behind
//                                  the pool; the rest waits for it
//   back, and knows us ----------> goes on; copies that had left are given back there
//   back as another, or silent
//   for give_up_ms --------------> what only it held is lost: requests for it fail
//
// A child of fork(2) is another client of every server, with a reference to each slab: see
// server_pool_fork.cc.
//
// A slab with a copy too few is copied to another server, and one that its server asks
// back is moved to another: see server_pool_mend.cc.
//
// Context: signal, but for Create() and what the keeper runs.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "libos/base/lock.h"
#include "libos/base/mapping.h"
#include "libos/remote/remote_backend.h"
#include "libos/remote/server_link.h"
#include "libos/remote/slab_copier.h"
#include "libos/remote/slab_desk.h"
#include "libos/remote/slab_map.h"

namespace spiritos {

class ServerPool final : public RemoteBackend, private ServerLane::Sink {
 public:
  struct Options {
    std::vector<ServerAddress> servers;
    std::string tenant;
    uint32_t copies = 1;
    uint64_t dead_ms = 600;  // A quarter, once connections to it are refused.
    uint64_t give_up_ms = 30'000;
    // Slabs may be elsewhere besides, as SetBacked() says: those do not wait for a server
    // that may come back, and new ones not for room.
    bool backed = false;
    Bytes capacity;                     // Of the pool; 0 = what the servers have.
    std::unique_ptr<TlsTunnel> tunnel;  // What connections go through; null = plain TCP.
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
  bool lost(SlotId first) const noexcept override;
  void SetBacked(SlotId first, bool backed) noexcept override;
  ForkedSlots BeforeFork() noexcept override ABSL_NO_THREAD_SAFETY_ANALYSIS;
  void AfterFork(bool child) noexcept override ABSL_NO_THREAD_SAFETY_ANALYSIS;
  bool shared(SlotId slot) noexcept override {
    return shared_[SlabMap::IndexOf(slot)].load(std::memory_order_acquire);
  }
  PoolHealth health() const noexcept override;
  std::string description() const override;

 private:
  struct Message : LaneRequest {
    IoRequest* parent = nullptr;
    uint64_t index = 0;  // Of the slab.
    Lane lane = Lane::kDemand;
    uint16_t server = 0;
    uint8_t copy = 0;
    uint8_t attempts = 0;
    uint8_t tried = 0;        // Copies that a read has failed on.
    int8_t bounce = -1;       // The buffer that it is sent from, if any.
    int8_t hedge = -1;        // The page that a second question is answered into.
    bool orphan = false;      // The other question has been answered: this answer is nobody's.
    Message* twin = nullptr;  // The other question, while both are open.
    Message* next = nullptr;
  };
  // Enough for every lane's window, with one request's messages beside.
  static constexpr uint32_t kMessages = 512;
  static constexpr uint32_t kBounces = 8;
  static constexpr uint32_t kHedges = 32;

  // Messages of each copy that a request still waits for, a byte for a copy.
  static constexpr uint32_t Parts(uint32_t copy, uint32_t count) { return count << (8 * copy); }
  static constexpr uint32_t PartsOf(uint32_t parts, uint32_t copy) {
    return parts >> (8 * copy) & 0xFF;
  }
  static_assert(kZonePages / kMaxWirePages <= 0xFF);

  explicit ServerPool(Options options);
  absl::Status Start();

  Message* TakeMessages(uint32_t count) noexcept;
  void GiveMessage(Message& message) noexcept;
  void Push(Message** list, Message& message) noexcept;
  void Launch(Message& message) noexcept;
  void LaunchDeferred(Lane lane) noexcept;
  void OnFinal(LaneRequest& request) noexcept override;
  void OnReadFailed(Message& message) noexcept;
  void OnWriteFailed(Message& message) noexcept;
  void Stall(Message& message) noexcept;
  bool CopyToBounce(Message& message) noexcept;
  void EndMessage(Message& message, bool good) noexcept;
  bool IsInMap(const Message& message) const noexcept;
  static int LiveCopy(const SlabCopies& copies, uint64_t index, uint32_t avoid) noexcept;
  static void Aim(Message& message, const SlabCopies& copies, uint32_t copy) noexcept;
  ServerLane& LaneOf(const Message& message) noexcept {
    return links_[message.server]->lane(message.lane);
  }

  // See server_pool_hedge.cc.
  bool MayHedge(const IoRequest& request) const noexcept {
    return options_.copies > 1 && request.op == IoOp::kRead && request.lane == Lane::kDemand &&
           request.pages == 1;
  }
  void NoteReadNs(uint64_t ns) noexcept;
  uint32_t SlowCopies(const SlabCopies& copies) const noexcept;
  // Asks a late read's second server: whose lane to wait on then, or null.
  ServerLane* Hedge(IoRequest& request) noexcept;
  // False when the end of a demand read's message ends nothing else.
  bool SettleHedge(Message& message) noexcept;
  std::byte* Nowhere() noexcept { return hedge_memory_.data() + (size_t{kHedges} << kPageShift); }

  // A write counts in an era from before it looks at the map until it has ended.
  uint8_t BeginWrite() noexcept;
  void EndWrite(uint8_t era) noexcept;

  // The keeper's; see server_pool_keeper.cc.
  void Keep();
  SlabDesk::Stage PlaceCopies(uint64_t index);
  std::vector<uint16_t> ServersBeside(const SlabCopies& copies) const;
  // Servers that had no room for us, or did not say, while one thing was tried.
  struct Refusals {
    std::vector<bool> by;
    bool soon = false;  // One is clearing a slab.
  };
  std::optional<SlabCopy> PlaceOn(const std::vector<uint16_t>& servers, SlabCopy::State state,
                                  Refusals* refusals);
  void ReleaseUnused();
  void TendLink(uint16_t server, uint64_t now_ns);
  void Reconnect(uint16_t server);
  void FetchReplies(uint16_t server, uint64_t now_ns);
  void Ping(uint16_t server, uint64_t now_ns);
  struct Silence {
    uint64_t ns = 0;
    const char* what = "";
  };
  Silence SilenceOf(uint16_t server, uint64_t now_ns) const;
  uint64_t PatienceNs(uint16_t server) const;
  void SuspendServer(uint16_t server, std::string_view why);
  // Takes a server's copies from the map: those that others have, or all.
  struct Removed {
    uint64_t copies = 0;
    uint64_t lost = 0;
    uint64_t kept = 0;
  };
  enum class Which { kReplaceable, kAll };
  bool IsReplaceable(uint64_t index, const SlabCopies& copies, uint16_t server);
  bool CanDoWithout(uint16_t server);
  Removed RemoveCopies(uint16_t server, Which which);
  void RemoveCopy(uint64_t index, uint32_t copy);
  void Bury(const SlabCopy& copy);
  void ReleaseBuried(uint16_t server);
  void DropRefused();
  void RelaunchStalled();

  // fork(2); see server_pool_fork.cc.
  bool MakeChildClients();
  bool MakeChildClient(uint16_t server);
  void BecomeChild();
  void MakeLinks();
  void AskForHolders(uint64_t now_ns);
  bool HasOthers(const SlabCopies& copies);

  // Repair and removal; see server_pool_mend.cc.
  struct Mending {
    enum class Stage { kIdle, kDraining, kCopying };
    Stage stage = Stage::kIdle;
    uint64_t index = 0;
    uint32_t copy = 0;  // The one that is being filled.
    SlabCopy filling;
    std::optional<SlabCopy> leaving;  // The one whose place it takes.
    uint8_t era = 0;
    uint64_t next_try_ns = 0;
    bool stale = true;      // Copies have come or gone since the pool was looked through.
    bool degraded = false;  // Said so, and not yet that it is over.
  };
  void Mend(uint64_t now_ns);
  bool BeginMending();
  bool IsAskedBack() const;
  bool BeginMoving();
  void BeginDraining(uint64_t index, const SlabCopy& filling);
  absl::Status BeginCopying();
  void EndMending(const absl::Status& status, uint64_t now_ns);
  bool DropLeaving();
  bool IsBeingMended(uint64_t index) const;

  const Options options_;
  Bytes capacity_;
  WireId client_;
  SlabDesk desk_;
  SlabMap map_;
  std::vector<std::atomic<bool>> backed_;  // By slab.
  std::vector<std::atomic<bool>> shared_;  // By slab: with a parent or a child.
  std::vector<std::unique_ptr<ServerLink>> links_;

  std::vector<Message> messages_;
  Mapping bounce_memory_;  // kBounces times a message's pages.
  std::atomic<uint32_t> free_bounces_{(1u << kBounces) - 1};
  Mapping hedge_memory_;  // kHedges pages, and one for what nobody wants any more.
  std::atomic<uint64_t> late_ns_{10'000'000};   // When a demand read is late;
  std::atomic<uint64_t> median_ns_{1'000'000};  // what half of them take.
  std::atomic<uint64_t> hedged_reads_{0};
  std::atomic<uint64_t> hedges_won_{0};
  SpinLock messages_lock_{LockRank::kMessages};
  Message* free_messages_ ABSL_GUARDED_BY(messages_lock_) = nullptr;
  uint32_t free_hedges_ ABSL_GUARDED_BY(messages_lock_) = UINT32_MAX;
  std::array<Message*, kLanes> deferred_ ABSL_GUARDED_BY(messages_lock_){};
  std::array<std::atomic<uint32_t>, kLanes> deferred_count_{};
  // Writes that a server refused: their copies are to leave the map.
  Message* refused_ ABSL_GUARDED_BY(messages_lock_) = nullptr;
  // What waits for the return of the only server that has it.
  Message* stalled_ ABSL_GUARDED_BY(messages_lock_) = nullptr;

  std::atomic<uint32_t> era_{0};
  std::array<std::atomic<uint32_t>, 2> writing_{};  // By the era's parity.
  std::atomic<uint64_t> unreachable_writes_{0};     // Whose server was given up under them.
  std::atomic<bool> draining_{false};               // The keeper waits for an era to end.

  struct Tending {
    uint64_t next_try_ns = 0;
    uint64_t back_off_ns = 0;
    uint64_t down_since_ns = 0;  // 0 = connected.
    uint64_t pinged_ns = 0;
    uint32_t incarnation = 0;  // Whose slabs are in the map.
    bool refused = false;      // The last try to connect was.
    std::string error;         // What came of it.
    bool holds_last = false;   // Suspended with copies that are the only ones.
    uint64_t placed = 0;       // Slabs of ours.
    uint64_t asked_back = 0;   // Of those, by the server.
    bool inherited = false;    // Slabs of a parent's, which the server has still to confirm.
  };
  struct Grave {
    uint16_t server = 0;
    uint64_t slab = 0;
  };
  // Held by the keeper while it does not sleep; at a fork it is at rest.
  RankedMutex keeper_mutex_{LockRank::kSlabMap};
  WireId child_client_;
  uint64_t next_holders_ns_ = 0;
  // The keeper's.
  std::vector<Tending> tending_;
  uint64_t full_until_ns_ = 0;  // The servers have said so, and are not asked again at once.
  std::vector<Grave> buried_;   // Not in the map any more, still to be released.
  Mending mending_;
  SlabCopier copier_;
  std::atomic<uint64_t> degraded_slabs_{0};
  std::atomic<uint64_t> lost_slabs_{0};
  std::atomic<uint64_t> mended_slabs_{0};
  std::atomic<uint64_t> moved_slabs_{0};
  std::atomic<bool> stopping_{false};
  std::thread keeper_;
};

}  // namespace spiritos
