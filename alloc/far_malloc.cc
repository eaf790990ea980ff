// SPDX-License-Identifier: Apache-2.0
// A heap is a source, a pool of its addresses, arenas, and caches in front.
//
// Zeroing and copying are done here, after jemalloc has returned: both touch far
// memory, and jemalloc would do them with its locks held.
#include "alloc/far_malloc.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "alloc/arena.h"
#include "alloc/core_caches.h"
#include "alloc/extent_hooks.h"
#include "libos/base/check.h"
#include "libos/base/core.h"
#include "libos/base/status.h"
#include "libos/space.h"

namespace spiritos {
namespace {

constexpr uint32_t kCoresPerArena = 4;
constexpr uint32_t kDefaultArenas = 8;
constexpr uint32_t kMaxArenas = 64;

// Below this, writing zeroes is cheaper than discarding the pages, which costs a
// shootdown and makes every page fault again.
constexpr size_t kDiscardToZero = size_t{128} << 10;

// One region of a space.
class RegionSource final : public ExtentSource {
 public:
  RegionSource(Space& space, AddressRange range) : space_(space), range_(range) {}
  ~RegionSource() override {
    if (getpid() != owner_) return;  // A forked child, which has no region.
    const absl::Status status = space_.Unmap(range_);
    SPIRITOS_CHECK(status.ok(), "heap of {} bytes: {}", range_.size.raw(), status.ToString());
  }
  AddressRange range() const override { return range_; }
  bool Discard(AddressRange range) noexcept override { return space_.Discard(range).ok(); }

 private:
  Space& space_;
  const AddressRange range_;
  const pid_t owner_ = getpid();
};

// Raises `size` to what makes jemalloc's size classes give `alignment`, and
// returns the flag for alignments that they do not give.
int AlignFlag(size_t& size, size_t alignment) {
  if (alignment == 0) alignment = alignof(std::max_align_t);
  SPIRITOS_DCHECK(std::has_single_bit(alignment), "alignment {}", alignment);
  if (size < alignof(std::max_align_t)) {
    size = std::max({size, size_t{1}, std::min(alignment, alignof(std::max_align_t))});
  }
  return alignment <= alignof(std::max_align_t) ? 0 : MALLOCX_LG_ALIGN(std::countr_zero(alignment));
}

}  // namespace

class FarHeap::Impl {
 public:
  Impl(std::unique_ptr<ExtentSource> source, Mapping books)
      : source_(std::move(source)),
        pool_(source_->range(), std::move(books)),
        hooks_(*source_, pool_) {}

  ~Impl() {
    hooks_.Close();   // First: in a forked child, another thread may hold the pool's lock.
    caches_.reset();  // Caches give their objects back to arenas, which must still be there.
  }

  absl::Status Start(uint32_t arenas, int64_t decay_ms) {
    for (uint32_t i = 0; i < arenas; ++i) {
      SPIRITOS_ASSIGN_OR_RETURN(Arena arena, Arena::Create(hooks_.table(), decay_ms));
      arenas_.push_back(std::move(arena));
    }
    caches_ = std::make_unique<CoreCaches>(arenas_);
    return absl::OkStatus();
  }

  ExtentSource& source() { return *source_; }
  CoreCaches& caches() { return *caches_; }
  bool Owns(const void* pointer) const { return pool_.range().contains(pointer); }

  void* Allocate(size_t size, size_t alignment) noexcept {
    const int align = AlignFlag(size, alignment);
    void* p = nullptr;
    if (size <= jemalloc::kLargestSmall) [[likely]] {
      caches_->With([&](int flags) { p = spiritos_je_mallocx(size, flags | align); });
    } else {
      p = spiritos_je_mallocx(size, caches_->uncached_flags() | align);
    }
    if (p == nullptr) [[unlikely]]
      p = AllocateSlow(size, align);
    return p;
  }

  void Purge() noexcept {
    caches_->Flush();
    for (Arena& arena : arenas_) arena.Purge();
  }

  void BeforeForkSource() noexcept {
    pool_.BeforeFork();
    source_->BeforeFork();
  }
  void AfterForkSource() noexcept {
    source_->AfterFork();
    pool_.AfterFork();
  }

  Usage GetUsage() const {
    Usage usage{.mapped = pool_.taken().raw()};
    for (const Arena& arena : arenas_) {
      usage.allocated += arena.AllocatedBytes();
      usage.active += arena.ActiveBytes();
    }
    return usage;
  }

 private:
  // The heap is full: collects what arenas and caches hold unused, then tries
  // every arena, since each may keep pages that could not be discarded.
  [[gnu::noinline]] void* AllocateSlow(size_t size, int align) noexcept {
    if (size > pool_.range().size.raw()) return nullptr;
    Purge();
    for (const Arena& arena : arenas_) {
      void* p = spiritos_je_mallocx(size, arena.flag() | MALLOCX_TCACHE_NONE | align);
      if (p != nullptr) return p;
    }
    return nullptr;
  }

  // In order of construction: each may use the ones above it.
  const std::unique_ptr<ExtentSource> source_;
  AddressPool pool_;
  ExtentHooks hooks_;
  std::vector<Arena> arenas_;
  std::unique_ptr<CoreCaches> caches_;
};

absl::StatusOr<std::unique_ptr<FarHeap>> FarHeap::Create(Space& space,
                                                         const FarHeapOptions& options) {
  SPIRITOS_ASSIGN_OR_RETURN(const AddressRange range, space.CreateRegion(options.max_size));
  return CreateOver(std::make_unique<RegionSource>(space, range), options);
}

absl::StatusOr<std::unique_ptr<FarHeap>> FarHeap::CreateOver(std::unique_ptr<ExtentSource> source,
                                                             const FarHeapOptions& options) {
  if (options.decay_ms < -1) {
    return InvalidArgument("decay_ms {} is neither a time nor -1", options.decay_ms);
  }
  if (options.arenas > kMaxArenas) {
    return InvalidArgument("arenas {} is above {}", options.arenas, kMaxArenas);
  }
  const uint32_t by_cores = std::clamp(CoreCount() / kCoresPerArena, 1u, kDefaultArenas);
  jemalloc::Start();
  SPIRITOS_ASSIGN_OR_RETURN(Mapping books, AddressPool::MapBooks(source->range().size));
  auto impl = std::make_unique<Impl>(std::move(source), std::move(books));
  SPIRITOS_RETURN_IF_ERROR(
      impl->Start(options.arenas == 0 ? by_cores : options.arenas, options.decay_ms));
  return std::unique_ptr<FarHeap>(new FarHeap(std::move(impl)));
}

FarHeap::FarHeap(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FarHeap::~FarHeap() = default;

void* FarHeap::Allocate(size_t size, size_t alignment) noexcept {
  return impl_->Allocate(size, alignment);
}

void FarHeap::StartJemalloc() { jemalloc::Start(); }
void FarHeap::BeforeForkSource() noexcept { impl_->BeforeForkSource(); }
void FarHeap::AfterForkSource() noexcept { impl_->AfterForkSource(); }
void FarHeap::BeforeForkCaches() noexcept { impl_->caches().BeforeFork(); }
void FarHeap::AfterForkCaches() noexcept { impl_->caches().AfterFork(); }

void* FarHeap::AllocateZeroed(size_t size, size_t alignment) noexcept {
  void* const p = impl_->Allocate(size, alignment);
  if (p == nullptr) return nullptr;
  if (size >= kDiscardToZero) {
    const AddressRange pages{static_cast<std::byte*>(p), BytesOf(PagesFor(Bytes(size)))};
    if (impl_->source().Discard(pages)) return p;
  }
  std::memset(p, 0, size);
  return p;
}

void* FarHeap::Reallocate(void* pointer, size_t size, size_t alignment) noexcept {
  if (pointer == nullptr) return Allocate(size, alignment);
  SPIRITOS_CHECK(Owns(pointer), "{} is not of this heap", pointer);
  const size_t old_size = UsableSize(pointer);
  size_t new_size = size;
  const int align = AlignFlag(new_size, alignment);
  const size_t mask = (alignment == 0 ? alignof(std::max_align_t) : alignment) - 1;

  const bool aligned = (reinterpret_cast<uintptr_t>(pointer) & mask) == 0;
  size_t in_place = 0;
  if (aligned) in_place = spiritos_je_xallocx(pointer, new_size, 0, align | MALLOCX_TCACHE_NONE);
  // A small allocation that shrinks cannot give anything back where it is.
  if (in_place >= new_size && in_place / 2 <= new_size) return pointer;

  void* const moved = Allocate(size, alignment);
  if (moved == nullptr) return in_place >= new_size ? pointer : nullptr;
  std::memcpy(moved, pointer, std::min(old_size, size));
  Free(pointer);
  return moved;
}

void FarHeap::Free(void* pointer) noexcept {
  if (pointer == nullptr) return;
  SPIRITOS_CHECK(Owns(pointer), "{} is not of this heap", pointer);
  impl_->caches().With([=](int flags) { spiritos_je_dallocx(pointer, flags); });
}

size_t FarHeap::UsableSize(const void* pointer) const noexcept {
  return spiritos_je_sallocx(pointer, 0);
}

bool FarHeap::Owns(const void* pointer) const noexcept { return impl_->Owns(pointer); }

void FarHeap::Purge() noexcept { impl_->Purge(); }

FarHeap::Usage FarHeap::GetUsage() const { return impl_->GetUsage(); }

}  // namespace spiritos
