// SPDX-License-Identifier: Apache-2.0
// BackupBackend: a pool of servers with a local file behind it, which outlives them.
//
//   write --+--> servers ---- kDone --+--> done, once the file's part is copied or written
//           '--> WriteBehind: copy, or the wait for the file
//   read -----> servers -- fails, or was wrong (avoid) --> near copy --> file
//
// A slab has a place at the servers, one in the file, or both:
//
//   both --- servers lose it ---> file alone --- tender: placed anew, filled ---> both
//   servers alone: no room in the file; said once, counted (unbacked_slabs)
//
// What is in the file alone is written there before it counts: nobody else has it. Once
// the servers have lost a slab they fail every request for it, so that nothing old is
// read from them; they get it back, as another, from the tender (backup_tender.cc). Up to
// `fill` its pages are there, writes behind that go to the file alone, and those between
// are asked to come again:
//
//   0 .......... fill .. fill + kFillRun ......... kSlabPages
//     both         refused while busy    file
//
// The file's copy may be wrong where writing it has failed (backup_errors): like a
// server's, it is checked by who reads it. Such a slab, and one that is at servers alone,
// is waited for when its server is silent, as any is without a backup (SetBacked). Slots are
// neither the servers' nor the file's.
//
// A request becomes a Flight, which whoever polls its lane or waits for it moves on. While
// a thread waits for what a flight is at, nobody else moves it, so that what is waited for
// stays the same. Context: signal, but for Create() and the tender.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "libos/base/mapping.h"
#include "libos/remote/file_backend.h"
#include "libos/remote/remote_backend.h"
#include "libos/remote/write_behind.h"

namespace spiritos {

class BackupBackend final : public RemoteBackend, private WriteBehind::Sink {
 public:
  // `buffer`: what copies of writes may take. REQUIRES: `servers` is not addressable.
  static absl::StatusOr<std::unique_ptr<BackupBackend>> Create(
      std::unique_ptr<RemoteBackend> servers, std::unique_ptr<FileBackend> file, Bytes buffer);
  // REQUIRES: no request is pending.
  ~BackupBackend() override;

  IoResult PlaceSlab(SlotId* first) noexcept override;
  void ReleaseSlab(SlotId first) noexcept override;
  bool addressable() const override { return false; }
  std::byte* Direct(SlotId) noexcept override { return nullptr; }
  IoResult Submit(IoRequest& request) noexcept override;
  bool Poll(Lane lane) noexcept override;
  void Wait(IoRequest& request) noexcept override;
  // The file keeps the space of its slabs, so that later writes have it.
  void Forget(SlotId, uint32_t) noexcept override {}
  Bytes capacity() const override;
  Bytes near_buffers() const override {
    return buffer_ + Bytes(kFillRun << kPageShift);  // With the tender's.
  }
  PoolHealth health() const noexcept override;
  std::string description() const override;

 private:
  static constexpr uint64_t kMaxSlabs = uint64_t{1} << 16;
  // Requests in flight on a lane.
  static constexpr uint32_t kWindow = 256;
  // Pages that the tender copies at a time.
  static constexpr uint32_t kFillRun = 64;

  // Zeroed memory is a free one.
  struct Slab {
    enum Stage : uint32_t { kFree, kPlacing, kPlaced, kTended, kReleasing };
    std::atomic<Stage> stage{kFree};
    std::atomic<uint32_t> fill{0};    // Pages at the servers, twice; plus 1 while busy.
    std::atomic<uint64_t> server{0};  // First slot + 1; 0 = none.
    std::atomic<uint64_t> file{0};    // The same.
    std::atomic<bool> torn{false};    // Pages could not be written to the file.

    SlotId ServerSlot(uint32_t page) const { return SlotId(server.load() - 1 + page); }
    SlotId FileSlot(uint32_t page) const { return SlotId(file.load() - 1 + page); }
  };

  struct Flight {
    enum class At : uint8_t {
      kServers,
      kToFile,    // A read, of pages from `done` on.
      kFile,      // The same, under way.
      kToBehind,  // A write that the queue had no entry for.
      kBehind,    // A write that waits for the file.
    };
    IoRequest* request = nullptr;
    Slab* slab = nullptr;
    uint32_t page = 0;  // First, in the slab.
    uint32_t pages = 0;
    bool writes = false;
    uint32_t index = 0;  // In the lane's list.
    IoRequest at_servers;
    IoRequest in_file;
    WriteBehind::Ticket ticket;
    uint32_t done = 0;
    int error = 0;  // The servers'.
    At at = At::kServers;
    std::atomic<bool> to_servers{false};
    bool alone = false;   // The file has to have it: the servers have not.
    bool queued = false;  // `ticket` is good.
    // Under the lane's lock.
    bool moving = false;  // A thread moves it on.
    uint32_t waiters = 0;
    Flight* next = nullptr;  // Free.
  };
  enum class Moved { kEnded, kOn, kStuck };

  struct alignas(kCacheLine) Queue {
    SpinLock lock{LockRank::kBackup};
    Flight* free ABSL_GUARDED_BY(lock) = nullptr;
    std::array<Flight*, kWindow> flying ABSL_GUARDED_BY(lock){};
    std::atomic<uint32_t> count{0};         // Of those. Changed under the lock.
    std::atomic<uint32_t> reading_file{0};  // Those that read the file.
  };

  BackupBackend(std::unique_ptr<RemoteBackend> servers, std::unique_ptr<FileBackend> file,
                Bytes buffer);
  absl::Status Start();

  Queue& QueueOf(Lane lane) { return queues_[static_cast<size_t>(lane)]; }
  Slab& SlabOf(SlotId slot) { return slabs_[slot.raw() / kSlabPages]; }
  Slab* ClaimSlab() noexcept;
  bool PlaceInFile(SlotId* first) noexcept;
  void OnFailed(SlotId first, int error) noexcept override;
  bool AtServers(const Slab& slab) const noexcept;
  bool IsBacked(const Slab& slab) const noexcept;
  void TellServers(Slab& slab) noexcept;

  // A flight is moved on by whoever took it, until it has ended or is put back.
  Flight* TakeFlight(Queue& queue, IoRequest& request) noexcept;
  Flight* TakeReady(Queue& queue) noexcept;
  void PutBack(Queue& queue, Flight& flight) noexcept;
  void Drop(Queue& queue, Flight& flight) noexcept;
  bool IsReady(const Flight& flight) const noexcept;
  IoResult SubmitRead(Flight& flight) noexcept;
  IoResult SubmitWrite(Flight& flight) noexcept;
  IoResult ToServers(Flight& flight) noexcept;
  Moved Move(Queue& queue, Flight& flight) noexcept;
  Moved End(Queue& queue, Flight& flight, int error) noexcept;
  Moved AfterServers(Queue& queue, Flight& flight) noexcept;
  Moved BeginReadFile(Queue& queue, Flight& flight) noexcept;
  Moved ReadFile(Queue& queue, Flight& flight) noexcept;
  Moved QueueWrite(Queue& queue, Flight& flight, WriteBehind::Copy copy) noexcept;
  void AwaitStep(Flight& flight) noexcept;

  // The tender's; see backup_tender.cc.
  void Tend();
  void CallTender() noexcept;
  bool FillAll();
  template <typename Work>
  bool TendEach(Work work);
  void Vacate(Slab& slab);
  bool PlaceAnew(Slab& slab);
  bool Fill(Slab& slab);
  bool CopyRun(Slab& slab, uint32_t page);
  enum class Copied { kAll, kUnreadable, kRefused };
  Copied CopyPages(Slab& slab, uint32_t page, uint32_t pages);
  void GiveBack(Slab& slab) noexcept;
  template <typename Counts>
  void AwaitFlights(Counts counts);

  const std::unique_ptr<RemoteBackend> servers_;
  const std::unique_ptr<FileBackend> file_;
  const Bytes buffer_;
  PinnedArena arena_;
  Mapping memory_;
  Slab* slabs_ = nullptr;  // kMaxSlabs of them.
  std::array<Queue, kLanes> queues_;
  WriteBehind behind_;

  std::atomic<uint64_t> placed_{0};     // Slabs.
  std::atomic<uint64_t> used_{0};       // One past the highest slab ever placed.
  std::atomic<bool> refused_{false};    // The servers had no slab, and the tender asks them.
  std::atomic<bool> said_full_{false};  // What is said once.
  std::atomic<bool> said_failed_{false};
  std::atomic<uint64_t> errors_{0};
  std::atomic<uint64_t> filled_{0};

  std::byte* fill_buffer_ = nullptr;
  std::atomic<uint32_t> calls_{0};     // For the tender.
  std::atomic<bool> draining_{false};  // It waits for flights to end,
  std::atomic<uint32_t> ended_{0};     // of which then each is counted.
  std::atomic<bool> stopping_{false};
  std::thread tender_;
};

}  // namespace spiritos
