// SPDX-License-Identifier: Apache-2.0
// Slabs in two places, and requests from one to the other.
#include "libos/remote/backup_backend.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "libos/base/check.h"
#include "libos/base/parker.h"
#include "libos/base/service_thread.h"
#include "libos/base/status.h"

namespace spiritos {

BackupBackend::BackupBackend(std::unique_ptr<RemoteBackend> servers,
                             std::unique_ptr<FileBackend> file, Bytes buffer)
    : servers_(std::move(servers)),
      file_(std::move(file)),
      buffer_(buffer),
      behind_(*file_, *this) {}

absl::StatusOr<std::unique_ptr<BackupBackend>> BackupBackend::Create(
    std::unique_ptr<RemoteBackend> servers, std::unique_ptr<FileBackend> file, Bytes buffer) {
  std::unique_ptr<BackupBackend> backup(
      new BackupBackend(std::move(servers), std::move(file), buffer));
  SPIRITOS_RETURN_IF_ERROR(backup->Start());
  return backup;
}

absl::Status BackupBackend::Start() {
  SPIRITOS_ASSIGN_OR_RETURN(memory_, Mapping::Anonymous(Bytes(kMaxSlabs * sizeof(Slab)), kPageSize,
                                                        "the list of a backup's slabs"));
  slabs_ = reinterpret_cast<Slab*>(memory_.data());
  fill_buffer_ = static_cast<std::byte*>(arena_.Allocate(kFillRun << kPageShift, kPageSize));
  for (Queue& queue : queues_) {
    Flight* const flights = arena_.NewArray<Flight>(kWindow);
    if (flights == nullptr || fill_buffer_ == nullptr) {
      return absl::ResourceExhaustedError("no memory for a backup's queues (SPIRITOS_DURABILITY)");
    }
    LockGuard guard(queue.lock);
    for (uint32_t f = 0; f < kWindow; ++f) {
      flights[f].next = queue.free;
      queue.free = &flights[f];
    }
  }
  SPIRITOS_RETURN_IF_ERROR(behind_.Start(buffer_));
  tender_ = StartServiceThread("spiritos-tender", [this] { Tend(); });
  return absl::OkStatus();
}

BackupBackend::~BackupBackend() {
  stopping_.store(true);
  CallTender();
  if (tender_.joinable()) tender_.join();
  behind_.Stop();
}

BackupBackend::Slab* BackupBackend::ClaimSlab() noexcept {
  for (uint64_t index = 0; index < kMaxSlabs; ++index) {
    Slab::Stage stage = Slab::kFree;
    if (!slabs_[index].stage.compare_exchange_strong(stage, Slab::kPlacing)) continue;
    uint64_t used = used_.load();
    while (used <= index && !used_.compare_exchange_weak(used, index + 1)) {
    }
    return &slabs_[index];
  }
  return nullptr;
}

bool BackupBackend::PlaceInFile(SlotId* first) noexcept {
  do {
    if (file_->PlaceSlab(first) == IoResult::kOk) return true;
  } while (behind_.AwaitReleases());
  return false;
}

IoResult BackupBackend::PlaceSlab(SlotId* first) noexcept {
  // Threads that ask for the last ones together must not get the halves of one each.
  const uint64_t most = capacity().raw() / kSlabSize;
  uint64_t placed = placed_.load();
  do {
    if (placed >= most) return IoResult::kNoSpace;
  } while (!placed_.compare_exchange_weak(placed, placed + 1));
  Slab* const slab = ClaimSlab();
  if (slab == nullptr) {
    placed_.fetch_sub(1);
    return IoResult::kNoSpace;
  }
  SlotId slot;
  const bool in_file = PlaceInFile(&slot);
  slab->file.store(in_file ? slot.raw() + 1 : 0);
  slab->torn.store(false);
  const bool at_servers = !refused_.load() && servers_->PlaceSlab(&slot) == IoResult::kOk;
  slab->server.store(at_servers ? slot.raw() + 1 : 0);
  slab->fill.store(at_servers ? 2 * kSlabPages : 0);
  if (at_servers) TellServers(*slab);
  if (!in_file && !at_servers) {
    slab->stage.store(Slab::kFree);
    placed_.fetch_sub(1);
    return IoResult::kNoSpace;
  }
  if (!in_file && !said_full_.exchange(true)) {
    Complain("{}: no room for another slab; what lies in it has no backup (SPIRITOS_DURABILITY)",
             file_->path());
  }
  *first = SlotId(static_cast<uint64_t>(slab - slabs_) * kSlabPages);
  slab->stage.store(Slab::kPlaced);
  if (!at_servers) {
    refused_.store(true);
    CallTender();
  }
  return IoResult::kOk;
}

void BackupBackend::ReleaseSlab(SlotId first) noexcept {
  Slab& slab = SlabOf(first);
  if (slab.stage.exchange(Slab::kReleasing) == Slab::kPlaced) GiveBack(slab);  // Else the tender.
}

void BackupBackend::GiveBack(Slab& slab) noexcept {
  if (slab.server.load() != 0) servers_->ReleaseSlab(slab.ServerSlot(0));
  if (slab.file.load() != 0) behind_.Release(slab.FileSlot(0));
  slab.stage.store(Slab::kFree);
  placed_.fetch_sub(1);
}

void BackupBackend::OnFailed(SlotId first, int error) noexcept {
  errors_.fetch_add(1, std::memory_order_relaxed);
  for (uint64_t index = 0; index < used_.load(); ++index) {
    Slab& slab = slabs_[index];
    const uint64_t file = slab.file.load();
    if (file == 0 || first.raw() + 1 - file >= kSlabPages) continue;
    slab.torn.store(true);
    TellServers(slab);
  }
  if (said_failed_.exchange(true)) return;
  Complain(
      "{}: writing failed (errno {}); pages that cannot be written have no backup, and are counted "
      "as "
      "backup_errors (SPIRITOS_DURABILITY)",
      file_->path(), error);
}

bool BackupBackend::IsBacked(const Slab& slab) const noexcept {
  return slab.file.load() != 0 && !slab.torn.load();
}

// Twice, as the slab may be torn meanwhile.
void BackupBackend::TellServers(Slab& slab) noexcept {
  const uint64_t server = slab.server.load();
  if (server == 0) return;
  servers_->SetBacked(SlotId(server - 1), IsBacked(slab));
  if (!IsBacked(slab)) servers_->SetBacked(SlotId(server - 1), false);
}

bool BackupBackend::AtServers(const Slab& slab) const noexcept {
  const uint64_t server = slab.server.load();
  return server != 0 && slab.fill.load() == 2 * kSlabPages && !servers_->lost(SlotId(server - 1));
}

BackupBackend::Flight* BackupBackend::TakeFlight(Queue& queue, IoRequest& request) noexcept {
  LockGuard guard(queue.lock);
  Flight* const flight = queue.free;
  if (flight == nullptr) return nullptr;
  queue.free = flight->next;
  flight->request = &request;
  flight->slab = &SlabOf(request.first);
  flight->page = static_cast<uint32_t>(request.first.raw() % kSlabPages);
  flight->pages = request.pages;
  flight->writes = request.op == IoOp::kWrite;
  flight->done = 0;
  flight->error = 0;
  flight->at = Flight::At::kServers;
  flight->to_servers.store(true, std::memory_order_relaxed);  // Until it is known.
  flight->alone = flight->queued = false;
  flight->moving = true;
  flight->waiters = 0;
  flight->index = queue.count.load(std::memory_order_relaxed);
  queue.flying[flight->index] = flight;
  queue.count.store(flight->index + 1);
  return flight;
}

void BackupBackend::Drop(Queue& queue, Flight& flight) noexcept {
  {
    LockGuard guard(queue.lock);
    const uint32_t last = queue.count.load(std::memory_order_relaxed) - 1;
    queue.flying[flight.index] = queue.flying[last];
    queue.flying[flight.index]->index = flight.index;
    queue.count.store(last);
    flight.next = queue.free;
    queue.free = &flight;
  }
  // Sequentially consistent: AwaitFlights() sets draining_, then looks at the flights.
  if (!draining_.load(std::memory_order_seq_cst)) return;
  ended_.fetch_add(1, std::memory_order_release);
  FutexWake(ended_, 1);
}

void BackupBackend::PutBack(Queue& queue, Flight& flight) noexcept {
  LockGuard guard(queue.lock);
  flight.moving = false;
}

BackupBackend::Flight* BackupBackend::TakeReady(Queue& queue) noexcept {
  LockGuard guard(queue.lock);
  const uint32_t count = queue.count.load(std::memory_order_relaxed);
  for (uint32_t f = 0; f < count; ++f) {
    Flight& flight = *queue.flying[f];
    // With waiters, those are about to move it.
    if (flight.moving || flight.waiters != 0 || !IsReady(flight)) continue;
    flight.moving = true;
    return &flight;
  }
  return nullptr;
}

bool BackupBackend::IsReady(const Flight& flight) const noexcept {
  switch (flight.at) {
    case Flight::At::kServers:
      return flight.at_servers.final();
    case Flight::At::kToFile:
      return true;
    case Flight::At::kFile:
      return flight.in_file.final();
    case Flight::At::kToBehind:
      return behind_.has_room();
    case Flight::At::kBehind:
      return behind_.IsWritten(flight.ticket.sequence);
  }
  return false;
}

IoResult BackupBackend::Submit(IoRequest& request) noexcept {
  Queue& queue = QueueOf(request.lane);
  Flight* const flight = TakeFlight(queue, request);
  if (flight == nullptr) return IoResult::kBusy;
  const IoResult result = request.op == IoOp::kRead ? SubmitRead(*flight) : SubmitWrite(*flight);
  if (result != IoResult::kOk) {
    Drop(queue, *flight);
    return result;
  }
  request.next = reinterpret_cast<IoRequest*>(flight);
  request.status.store(IoStatus::kPending, std::memory_order_relaxed);
  if (flight->at == Flight::At::kToFile) {
    BeginReadFile(queue, *flight);
  } else {
    PutBack(queue, *flight);
  }
  return IoResult::kOk;
}

IoResult BackupBackend::ToServers(Flight& flight) noexcept {
  const IoRequest& request = *flight.request;
  IoRequest& at_servers = flight.at_servers;
  at_servers.op = request.op;
  at_servers.lane = request.lane;
  at_servers.first = flight.slab->ServerSlot(flight.page);
  at_servers.pages = request.pages;
  at_servers.memory = request.memory;
  at_servers.versions = request.versions;
  at_servers.avoid = request.avoid & ~kBackupSource;
  at_servers.status.store(IoStatus::kPending, std::memory_order_relaxed);
  flight.at = Flight::At::kServers;
  return servers_->Submit(at_servers);
}

// What was wrong at a server is asked for here first, then of other servers.
IoResult BackupBackend::SubmitRead(Flight& flight) noexcept {
  const uint8_t avoid = flight.request->avoid;
  const bool wrong_there = avoid != 0 && (avoid & kBackupSource) == 0;
  // Sequentially consistent: the flight is in the list before this looks at `fill`.
  const bool there = flight.slab->fill.load() == 2 * kSlabPages;
  if (there && (!wrong_there || flight.slab->file.load() == 0)) return ToServers(flight);
  flight.to_servers.store(false, std::memory_order_relaxed);
  flight.at = Flight::At::kToFile;
  return IoResult::kOk;
}

IoResult BackupBackend::SubmitWrite(Flight& flight) noexcept {
  // As above.
  const uint32_t fill = flight.slab->fill.load();
  const uint32_t end = flight.page + flight.request->pages;
  const bool in_file = flight.slab->file.load() != 0;
  flight.alone = end > fill / 2;
  if (!flight.alone) {
    if (const IoResult result = ToServers(flight); result != IoResult::kOk) return result;
  } else if (flight.page < fill / 2 + (fill % 2) * kFillRun) {
    return IoResult::kBusy;  // The tender is there just now.
  } else {
    flight.to_servers.store(false, std::memory_order_relaxed);
  }
  SPIRITOS_DCHECK(in_file || !flight.alone, "a slab at page {} is nowhere", flight.page);
  if (!in_file) return IoResult::kOk;
  const auto copy = flight.alone ? WriteBehind::Copy::kNever : WriteBehind::Copy::kIfRoom;
  flight.queued = behind_.Append(flight.slab->FileSlot(flight.page), flight.request->pages,
                                 flight.request->memory, copy, &flight.ticket);
  if (flight.alone) flight.at = flight.queued ? Flight::At::kBehind : Flight::At::kToBehind;
  return IoResult::kOk;
}

BackupBackend::Moved BackupBackend::End(Queue& queue, Flight& flight, int error) noexcept {
  if (flight.at == Flight::At::kToFile || flight.at == Flight::At::kFile) {
    queue.reading_file.fetch_sub(1, std::memory_order_relaxed);
  }
  // First this: a waiter looks at the flight only as long as the request is not final. Its
  // owner may be gone from here on.
  flight.request->Finish(error);
  Drop(queue, flight);
  return Moved::kEnded;
}

BackupBackend::Moved BackupBackend::Move(Queue& queue, Flight& flight) noexcept {
  switch (flight.at) {
    case Flight::At::kServers:
      return AfterServers(queue, flight);
    case Flight::At::kToFile:
      return ReadFile(queue, flight);
    case Flight::At::kFile:
      if (flight.in_file.error != 0) return End(queue, flight, flight.in_file.error);
      flight.done += flight.in_file.pages;
      return ReadFile(queue, flight);
    case Flight::At::kToBehind:
      return QueueWrite(queue, flight,
                        flight.alone ? WriteBehind::Copy::kNever : WriteBehind::Copy::kIfRoom);
    case Flight::At::kBehind:
      break;
  }
  // What the servers still have is good, whatever has become of the file's copy.
  const int in_file = flight.ticket.error.load(std::memory_order_relaxed);
  if (in_file != 0) OnFailed(flight.slab->FileSlot(flight.page), in_file);
  const bool only = flight.alone || servers_->lost(flight.slab->ServerSlot(0));
  return End(queue, flight, only ? in_file : flight.error);
}

BackupBackend::Moved BackupBackend::AfterServers(Queue& queue, Flight& flight) noexcept {
  const bool in_file = flight.slab->file.load() != 0;
  flight.error = flight.at_servers.error;
  // A write may have gone to a copy that is being made, and to none that is whole.
  const bool lost =
      (flight.error != 0 || flight.writes) && servers_->lost(flight.slab->ServerSlot(0));
  if (lost && in_file) CallTender();
  if (flight.request->op == IoOp::kRead) {
    if (flight.error != 0 && in_file) return BeginReadFile(queue, flight);
    flight.request->sources.store(flight.at_servers.sources.load(std::memory_order_relaxed),
                                  std::memory_order_relaxed);
    return End(queue, flight, flight.error);
  }
  flight.alone = lost && in_file;
  // A copy's end is nobody's to wait for: what counts alone is written from where it is.
  if (flight.alone && (!flight.queued || flight.ticket.copied)) {
    return QueueWrite(queue, flight, WriteBehind::Copy::kNever);
  }
  if (!in_file || (flight.queued && flight.ticket.copied)) return End(queue, flight, flight.error);
  if (!flight.queued) return QueueWrite(queue, flight, WriteBehind::Copy::kIfRoom);
  flight.at = Flight::At::kBehind;
  PutBack(queue, flight);
  return Moved::kOn;
}

BackupBackend::Moved BackupBackend::QueueWrite(Queue& queue, Flight& flight,
                                               WriteBehind::Copy copy) noexcept {
  flight.queued = behind_.Append(flight.slab->FileSlot(flight.page), flight.request->pages,
                                 flight.request->memory, copy, &flight.ticket);
  if (flight.queued && flight.ticket.copied) return End(queue, flight, flight.error);
  flight.at = flight.queued ? Flight::At::kBehind : Flight::At::kToBehind;
  const Moved moved = flight.queued ? Moved::kOn : Moved::kStuck;
  PutBack(queue, flight);
  return moved;
}

BackupBackend::Moved BackupBackend::BeginReadFile(Queue& queue, Flight& flight) noexcept {
  queue.reading_file.fetch_add(1, std::memory_order_relaxed);
  flight.at = Flight::At::kToFile;
  return ReadFile(queue, flight);
}

// Page by page from near copies, and what lies between them from the file.
BackupBackend::Moved BackupBackend::ReadFile(Queue& queue, Flight& flight) noexcept {
  IoRequest& request = *flight.request;
  while (flight.done < request.pages) {
    const SlotId slot = flight.slab->FileSlot(flight.page + flight.done);
    std::byte* const memory = request.memory + (size_t{flight.done} << kPageShift);
    uint32_t pages = request.pages - flight.done;
    if (behind_.Read(slot, &pages, memory)) {
      ++flight.done;
      continue;
    }
    flight.in_file.op = IoOp::kRead;
    flight.in_file.lane = request.lane;
    flight.in_file.first = slot;
    flight.in_file.pages = pages;
    flight.in_file.memory = memory;
    flight.in_file.status.store(IoStatus::kPending, std::memory_order_relaxed);
    const bool submitted = file_->Submit(flight.in_file) == IoResult::kOk;
    flight.at = submitted ? Flight::At::kFile : Flight::At::kToFile;
    PutBack(queue, flight);
    return submitted ? Moved::kOn : Moved::kStuck;
  }
  request.sources.store(kBackupSource, std::memory_order_relaxed);
  return End(queue, flight, 0);
}

bool BackupBackend::Poll(Lane lane) noexcept {
  Queue& queue = QueueOf(lane);
  if (queue.count.load(std::memory_order_relaxed) == 0) return false;
  servers_->Poll(lane);
  if (queue.reading_file.load(std::memory_order_relaxed) != 0) file_->Poll(lane);
  bool any = false;
  while (Flight* const flight = TakeReady(queue)) {
    const Moved moved = Move(queue, *flight);
    any = any || moved == Moved::kEnded;
    if (moved == Moved::kStuck) break;
  }
  return any;
}

void BackupBackend::AwaitStep(Flight& flight) noexcept {
  switch (flight.at) {
    case Flight::At::kServers:
      return servers_->Wait(flight.at_servers);
    case Flight::At::kToFile:
      return;
    case Flight::At::kFile:
      return file_->Wait(flight.in_file);
    case Flight::At::kToBehind:
      return behind_.AwaitRoom();
    case Flight::At::kBehind:
      return behind_.Await(flight.ticket.sequence);
  }
}

void BackupBackend::Wait(IoRequest& request) noexcept {
  Queue& queue = QueueOf(request.lane);
  while (!request.final()) {
    Flight* flight = nullptr;
    bool moves = false;
    {
      LockGuard guard(queue.lock);
      if (request.final()) return;
      flight = reinterpret_cast<Flight*>(request.next);
      const bool ready = !flight->moving && IsReady(*flight);
      if (flight->moving || (ready && flight->waiters != 0)) {
        flight = nullptr;  // Somebody moves it on, or is on the way out to do so.
      } else if (ready) {
        flight->moving = moves = true;
      } else {
        ++flight->waiters;
      }
    }
    if (flight == nullptr) {
      sched_yield();
    } else if (moves) {
      if (Move(queue, *flight) == Moved::kStuck) file_->Poll(request.lane);
    } else {
      AwaitStep(*flight);
      LockGuard guard(queue.lock);
      --flight->waiters;
    }
  }
}

Bytes BackupBackend::capacity() const {
  return servers_->capacity().raw() == 0 ? file_->capacity() : servers_->capacity();
}

PoolHealth BackupBackend::health() const noexcept {
  PoolHealth health = servers_->health();
  health.lost_slabs = 0;
  health.mended_slabs += filled_.load();
  health.backup_behind = behind_.pages_behind();
  health.backup_errors = errors_.load();
  for (uint64_t index = 0; index < used_.load(); ++index) {
    const Slab& slab = slabs_[index];
    const Slab::Stage stage = slab.stage.load();
    if (stage != Slab::kPlaced && stage != Slab::kTended) continue;
    const bool there = AtServers(slab);
    const bool in_file = slab.file.load() != 0;
    health.degraded_slabs += !there && in_file ? 1 : 0;
    health.lost_slabs += !there && !in_file ? 1 : 0;
    health.unbacked_slabs += IsBacked(slab) ? 0 : 1;
  }
  return health;
}

std::string BackupBackend::description() const {
  return fmt::format("{}, {} bytes of near copies behind {}", file_->description(), buffer_.raw(),
                     servers_->description());
}

}  // namespace spiritos
