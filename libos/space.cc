// SPDX-License-Identifier: Apache-2.0
// Builds, owns, connects and stops everything below the public object.
#include "libos/space.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>
#include <string>
#include <vector>

#include "libos/base/check.h"
#include "libos/base/log.h"
#include "libos/base/mapping.h"
#include "libos/base/pagemap.h"
#include "libos/base/status.h"
#include "libos/options_env.h"
#include "libos/space_impl.h"

namespace spiritos {
namespace {

// Unless asked for: what any disk makes good use of.
constexpr Bytes kMaxBackupBuffer(64 << 20);

}  // namespace

Space::Impl::Impl(const Options& options, std::unique_ptr<RemoteBackend> remote)
    : options_(options),
      remote_(std::move(remote)),
      frames_(PagesFor(options.budget)),
      cache_(frames_),
      zone_pool_(arena_),
      pager_({regions_, arena_, zone_pool_, *remote_, frames_, cache_, zones_, parker_, hasher_,
              metrics_},
             options.prefetch) {}

absl::Status Space::Impl::Start() {
  KernelCalls calls = ProbeKernel();
  if (options_.fault.oldest_calls) calls = OldestCalls(calls);
  const bool sigbus = options_.fault.mode != FaultMode::kThread;
  if (sigbus) {
    SPIRITOS_RETURN_IF_ERROR(calls.sigbus_mode);
    SPIRITOS_ASSIGN_OR_RETURN(fault_, UffdSigbus::Create(calls, pager_, metrics_));
  } else {
    SPIRITOS_RETURN_IF_ERROR(calls.thread_mode);
    SPIRITOS_ASSIGN_OR_RETURN(
        fault_, UffdThread::Create(calls, options_.fault.handler_threads, pager_, metrics_));
  }
  // Waiting by spinning for longer than a wake-up costs never pays; on one CPU
  // spinning only delays whom one waits for.
  parker_.set_spins(UsableCores() > 1 ? 400 : 0);
  const EvictContext context{*fault_, *remote_, frames_,          zones_,      parker_,
                             hasher_, metrics_, regions_.epoch(), unseen_pins_};
  const int64_t buffers = PagesFor(remote_->near_buffers()).raw();
  if (frames_.TryTake(buffers) != buffers) {
    return absl::ResourceExhaustedError(
        fmt::format("the pool's buffers of {} pages do not fit the budget of {} "
                    "(SPIRITOS_BUDGET, SPIRITOS_BACKUP_BUFFER)",
                    buffers, frames_.budget().raw()));
  }
  evictors_ = std::make_unique<EvictorGroup>(context, cache_, options_.evict, stalls_);
  SPIRITOS_RETURN_IF_ERROR(pager_.Attach(*fault_, *evictors_));
  SPIRITOS_RETURN_IF_ERROR(evictors_->Start(arena_));
  description_ = fmt::format("{}faults: {}\npool: {}\npage hash: {} lanes\nbudget: {} pages\n",
                             calls.ToText(), sigbus ? "sigbus" : "thread", remote_->description(),
                             hasher_.lanes(), frames_.budget().raw());
  if (options_.live_stats) {
    absl::StatusOr<std::unique_ptr<LiveStats>> live =
        LiveStats::Start([this] { return GetStats(); });
    if (!live.ok()) LogWarning(live.status().ToString());
    if (live.ok()) live_stats_ = *std::move(live);
  }
  return absl::OkStatus();
}

Space::Impl::~Impl() {
  live_stats_.reset();
  StopMerging();
  if (evictors_ != nullptr) evictors_->Stop();
  while (!owned_.empty()) {
    const AddressRange range = regions_.FirstOf(owned_.back().get());  // A part, perhaps.
    if (absl::Status status = Unmap(range); !status.ok()) {
      // Pinned pages of a space that ends: their owner is wrong, not the space.
      SPIRITOS_CHECK(false, "the space ends while a region is in use: {}", status.ToString());
    }
  }
  LockGuard guard(mutex_);
  OpenSlab(nullptr, 0);
}

absl::StatusOr<AddressRange> Space::Impl::CreateRegion(Bytes size) {
  LockGuard guard(mutex_);
  return CreateRegionLocked(size, {}, 0);
}

absl::StatusOr<AddressRange> Space::Impl::CreateRegionLocked(
    Bytes size, std::vector<std::shared_ptr<Slab>> slabs, uint32_t first_page) {
  if (size.raw() == 0 || size.raw() > (uint64_t{1} << 46)) {
    return InvalidArgument("a region of {} bytes: from 1 byte to 64 TiB are possible", size.raw());
  }
  const Bytes rounded((size.raw() + kZoneSize - 1) / kZoneSize * kZoneSize);
  SPIRITOS_ASSIGN_OR_RETURN(const uint64_t new_slabs, AddSlabs(rounded, first_page, slabs));
  SPIRITOS_ASSIGN_OR_RETURN(Mapping mapping, Mapping::Anonymous(rounded, kZoneSize, "region"));
  SPIRITOS_RETURN_IF_ERROR(AdviseRegion(mapping.range()));
  auto region =
      std::make_unique<Region>(mapping.range(), std::move(slabs), first_page, kZoneListCount);
  SPIRITOS_RETURN_IF_ERROR(Cover(*region));
  Own(std::move(region), new_slabs);
  return mapping.Release();
}

absl::StatusOr<uint64_t> Space::Impl::AddSlabs(Bytes size, uint32_t first_page,
                                               std::vector<std::shared_ptr<Slab>>& slabs) {
  // One that no region uses any more is worth less than a whole one.
  if (open_slab_ != nullptr && open_slab_.use_count() == 1) OpenSlab(nullptr, 0);
  const uint64_t wanted =
      (first_page + static_cast<uint64_t>(PagesFor(size).raw()) + kSlabPages - 1) / kSlabPages;
  const uint64_t added = wanted - std::min<uint64_t>(wanted, slabs.size());
  const uint64_t capacity = remote_->capacity().raw() / kSlabSize;
  if (capacity != 0 && reserved_slabs_ + added > capacity) {
    return absl::ResourceExhaustedError(
        fmt::format("a region of {} bytes needs {} slabs of 64 MiB, the pool has {} of {} left "
                    "(SPIRITOS_POOL_SIZE)",
                    size.raw(), added, capacity - reserved_slabs_, capacity));
  }
  while (slabs.size() < wanted) slabs.push_back(std::make_shared<Slab>());
  return added;
}

absl::StatusOr<uint64_t> Space::Impl::ShareSlabs(AddressRange range, uint32_t* first_page,
                                                 std::vector<std::shared_ptr<Slab>>& slabs) {
  constexpr uint32_t kSlabZones = kSlabPages / kZonePages;
  const uint32_t within = Zone::IndexOf(Vpn::Of(range.begin));  // No zone lies in two slabs.
  const auto pages = static_cast<uint64_t>(PagesFor(range.size).raw());
  const uint64_t zones = (within + pages + kZonePages - 1) / kZonePages;
  if (open_slab_ != nullptr && open_zone_ + zones <= kSlabZones) {
    *first_page = open_zone_ * kZonePages + within;
    slabs.push_back(open_slab_);
    open_zone_ += static_cast<uint32_t>(zones);
    return 0;
  }
  *first_page = within;
  SPIRITOS_ASSIGN_OR_RETURN(const uint64_t added, AddSlabs(range.size, within, slabs));
  const auto used = static_cast<uint32_t>((zones - 1) % kSlabZones + 1);
  if (open_slab_ != nullptr && used >= open_zone_) return added;
  ++reserved_slabs_;  // The last one, whatever becomes of the range.
  OpenSlab(slabs.back(), used);
  return added - 1;
}

void Space::Impl::OpenSlab(std::shared_ptr<Slab> slab, uint32_t zone) {
  const std::shared_ptr<Slab> before = std::exchange(open_slab_, std::move(slab));
  open_zone_ = zone;
  if (before != nullptr) GiveUpSlab(before);
}

void Space::Impl::GiveUpSlab(const std::shared_ptr<Slab>& slab) {
  if (slab.use_count() != 1) return;  // Other regions have pages in it.
  slab->ForEachPlace([&](uint8_t, SlotId first) { remote_->ReleaseSlab(first); });
  --reserved_slabs_;
}

absl::Status Space::Impl::AdviseRegion(AddressRange range) {
  madvise(range.begin, range.size.raw(), MADV_NOHUGEPAGE);
  if (madvise(range.begin, range.size.raw(), MADV_DONTFORK) == 0) return absl::OkStatus();
  return ErrnoStatus(errno, "madvise(MADV_DONTFORK) on a new region");
}

absl::Status Space::Impl::Cover(Region& region) {
  regions_.Insert(region.range(), &region);
  absl::Status status = fault_->Cover(region.range());
  if (!status.ok()) regions_.Erase(region.range());
  return status;
}

void Space::Impl::Own(std::unique_ptr<Region> region, uint64_t new_slabs) {
  reserved_slabs_ += new_slabs;
  far_pages_ += region->pages().raw();
  owned_.push_back(std::move(region));
}

// No zone of it may be swept before all its pages are known: a sweep drops what lies
// between its victims as well. So their gates are closed until then.
absl::Status Space::Impl::Adopt(AddressRange range) {
  SPIRITOS_RETURN_IF_ERROR(CheckPages(range));
  SPIRITOS_ASSIGN_OR_RETURN(const Pagemap pagemap, Pagemap::Open());
  LockGuard guard(mutex_);
  if (regions_.Meets(range)) {
    return InvalidArgument("range {} + {} is in a region already", static_cast<void*>(range.begin),
                           range.size.raw());
  }
  uint32_t first_page = 0;
  std::vector<std::shared_ptr<Slab>> slabs;
  SPIRITOS_ASSIGN_OR_RETURN(const uint64_t new_slabs, ShareSlabs(range, &first_page, slabs));
  SPIRITOS_RETURN_IF_ERROR(AdviseRegion(range));
  auto owned = std::make_unique<Region>(range, std::move(slabs), first_page, kZoneListCount);
  Region& region = *owned;
  absl::Status status;
  for (size_t z = 0; z < region.zone_count() && status.ok(); ++z) {
    Zone* const zone =
        region.FindOrMakeZone(std::max(region.first(), region.ZoneBegin(z)), zone_pool_);
    if (zone == nullptr) {
      status = absl::ResourceExhaustedError("no near memory for a zone");
    } else {
      pager_.EnterExclusive(*zone, 0, kZonePages);
    }
  }
  if (status.ok()) status = Cover(region);
  if (!status.ok()) {
    regions_.epoch().Synchronize();
    GiveZones(region);
    madvise(range.begin, range.size.raw(), MADV_DOFORK);  // As it was.
    return status;
  }
  Own(std::move(owned), new_slabs);
  for (size_t z = 0; z < region.zone_count(); ++z) {
    Zone& zone = *region.zone(z);
    const Vpn begin = std::max(region.first(), zone.first);
    const Vpn end = std::min(region.first() + region.pages(), zone.vpn(kZonePages));
    std::array<bool, kZonePages> known;
    const std::span<bool> touched(known.data(), static_cast<size_t>((end - begin).raw()));
    status = pagemap.Read(begin, touched);
    SPIRITOS_CHECK(status.ok(), "{}", status.ToString());
    const auto pages = std::count(touched.begin(), touched.end(), true);
    frames_.TakeOwed(pages);
    if (pages != 0) zones_.NoteFill(zone);
    for (uint32_t i = 0; i < touched.size(); ++i) {
      if (touched[i]) pager_.AdoptPage(zone, Zone::IndexOf(begin) + i);
    }
    pager_.LeaveExclusive(zone);
  }
  if (frames_.level() < 0) PayDebt();  // What cannot leave yet is owed on.
  return absl::OkStatus();
}

absl::Status Space::Impl::AllowUnseenPins() {
  LockGuard guard(mutex_);
  SPIRITOS_RETURN_IF_ERROR(fault_->AllowPins());
  unseen_pins_.store(true, std::memory_order_seq_cst);
  // Sweeps that did not see it end.
  ForEachOwnedZone([this](Zone& zone) {
    pager_.EnterExclusive(zone, 0, 0);
    pager_.LeaveExclusive(zone);
  });
  return absl::OkStatus();
}

absl::Status Space::Impl::SetBudget(Bytes budget) {
  LockGuard guard(mutex_);
  Options changed = options_;
  changed.budget = budget;
  SPIRITOS_RETURN_IF_ERROR(CheckOptions(changed));
  const PageCount old = frames_.budget();
  const int64_t reserve = PagesFor(kMinBudget).raw() / 2;
  const int64_t pinned = pinned_.load(std::memory_order_relaxed);
  const int64_t buffers = PagesFor(remote_->near_buffers()).raw();
  if (PagesFor(budget).raw() < pinned + buffers + reserve) {
    return absl::ResourceExhaustedError(fmt::format(
        "{} pages are pinned and {} are the pool's buffers: the budget cannot shrink to {} pages",
        pinned, buffers, PagesFor(budget).raw()));
  }
  frames_.Resize(PagesFor(budget));
  if (PayDebt()) return absl::OkStatus();
  const int64_t short_of = -frames_.level();
  frames_.Resize(old);
  return absl::ResourceExhaustedError(
      fmt::format("the budget cannot shrink to {} pages: {} more are pinned or cannot be written "
                  "to the pool; it stays at {}",
                  PagesFor(budget).raw(), short_of, old.raw()));
}

bool Space::Impl::PayDebt() {
  if (evictors_->PayDebt()) return true;
  // It does not see the zones that other sweeps own. Here each is waited for, so a
  // round in which the debt did not fall has looked at every page that could leave.
  int64_t before;
  do {
    before = frames_.level();
    for (const auto& region : owned_) {
      for (size_t z = 0; z < region->zone_count(); ++z) {
        Zone* zone = region->zone(z);
        if (zone != nullptr) evictors_->SweepNow(*zone, 0, kZonePages);
        if (frames_.level() >= 0) return true;
      }
    }
  } while (frames_.level() > before);
  return false;
}

void Space::Impl::Drain() {
  LockGuard guard(mutex_);
  for (const auto& region : owned_) {
    for (size_t z = 0; z < region->zone_count(); ++z) {
      Zone* zone = region->zone(z);
      if (zone == nullptr) continue;
      pager_.EnterExclusive(*zone, 0, kZonePages);
      pager_.LeaveExclusive(*zone);
    }
  }
  evictors_->AwaitIdle();
}

Stats Space::Impl::GetStats() const {
  Stats stats;
  stats.counters = metrics_.Snapshot();
  stats.budget = frames_.budget();
  stats.free_frames = PageCount(frames_.level() + cache_.cached());
  stats.used_frames = stats.budget - stats.free_frames;
  stats.pinned = PageCount(pinned_.load(std::memory_order_relaxed));
  const PoolHealth health = remote_->health();
  stats.degraded_slabs = health.degraded_slabs;
  stats.lost_slabs = health.lost_slabs;
  stats.mended_slabs = health.mended_slabs;
  stats.hedged_reads = health.hedged_reads;
  stats.hedges_won = health.hedges_won;
  stats.moved_slabs = health.moved_slabs;
  stats.unbacked_slabs = health.unbacked_slabs;
  stats.backup_behind = PageCount(static_cast<int64_t>(health.backup_behind));
  stats.backup_errors = health.backup_errors;
  stats.metadata = arena_.used() - pager_.buffer_bytes();
  stats.far_pages = PageCount(far_pages_.load(std::memory_order_relaxed));
  pager_.AddFaultTimes(stats.fault_ns);
  stalls_.AddTo(stats.stall_ns);
  return stats;
}

Space::Space(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Space::~Space() = default;

absl::StatusOr<std::unique_ptr<Space>> Space::Create(const Options& options) {
  SPIRITOS_RETURN_IF_ERROR(CheckOptions(options));
  RemoteOptions pool = options.remote;
  if (pool.backup_buffer.raw() == 0) {
    pool.backup_buffer = std::min(Bytes(options.budget.raw() / 16), kMaxBackupBuffer);
  }
  SPIRITOS_ASSIGN_OR_RETURN(std::unique_ptr<RemoteBackend> remote, MakePool(pool));
  auto impl = std::make_unique<Impl>(options, std::move(remote));
  SPIRITOS_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<Space>(new Space(std::move(impl)));
}

absl::StatusOr<AddressRange> Space::CreateRegion(Bytes size) { return impl_->CreateRegion(size); }
absl::Status Space::Unmap(AddressRange range) { return impl_->Unmap(range); }
absl::Status Space::Discard(AddressRange range) { return impl_->Discard(range); }
absl::Status Space::Protect(AddressRange range, int protection) {
  return impl_->Protect(range, protection);
}
absl::StatusOr<AddressRange> Space::Move(AddressRange from, Bytes new_size) {
  return impl_->Move(from, new_size);
}
absl::Status Space::Prefetch(AddressRange range) { return impl_->Prefetch(range); }
absl::Status Space::Evict(AddressRange range) { return impl_->Evict(range); }
absl::Status Space::Pin(AddressRange range) { return impl_->Pin(range); }
void Space::Unpin(AddressRange range) { impl_->Unpin(range); }
absl::Status Space::Adopt(AddressRange range) { return impl_->Adopt(range); }
absl::Status Space::SetBudget(Bytes budget) { return impl_->SetBudget(budget); }
Bytes Space::budget() const { return BytesOf(impl_->budget()); }
Stats Space::GetStats() const { return impl_->GetStats(); }
absl::Status Space::CheckUnseenPins(const Options& options) {
  SPIRITOS_ASSIGN_OR_RETURN(const UffdFeatures features, Uffd::Probe());
  if (features.move() && !options.fault.oldest_calls) return absl::OkStatus();
  return PageMover::CannotMove();
}
absl::Status Space::AllowUnseenPins() { return impl_->AllowUnseenPins(); }
void Space::Drain() { impl_->Drain(); }
bool Space::BeforeFork() { return impl_->BeforeFork(); }
void Space::AfterForkInParent() { impl_->AfterForkInParent(); }
void Space::AfterForkInChild() { impl_->AfterForkInChild(); }
const std::string& Space::description() const { return impl_->description(); }

}  // namespace spiritos
