// SPDX-License-Identifier: Apache-2.0
// Addresses from a reservation, memory from a FarMap.
#include "runtime/shim/program_heap.h"

#include <sys/mman.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "alloc/extent_hooks.h"
#include "libos/base/mapping.h"
#include "libos/base/status.h"
#include "runtime/shim/kernel.h"
#include "runtime/shim/near_scope.h"

namespace spiritos::shim {
namespace {

class ChunkSource final : public ExtentSource {
 public:
  ChunkSource(FarMap& map, AddressRange range, Bytes chunk)
      : map_(map), range_(range), chunk_(chunk), mapped_end_(range.begin) {}

  AddressRange range() const override { return range_; }

  bool Commit(AddressRange range) noexcept override {
    // Acquire: pairs with the release below; whoever sees the end may use what is before.
    if (range.end() <= mapped_end_.load(std::memory_order_acquire)) return true;
    const NearScope near;
    LockGuard guard(mutex_);
    std::byte* const begin = mapped_end_.load(std::memory_order_relaxed);
    if (range.end() <= begin) return true;
    const auto wanted = static_cast<uint64_t>(range.end() - begin);
    const uint64_t left = static_cast<uint64_t>(range_.end() - begin);
    const Bytes more(std::min((wanted + chunk_.raw() - 1) / chunk_.raw() * chunk_.raw(), left));
    if (kernel::Protect(begin, more.raw(), PROT_READ | PROT_WRITE) != 0) return false;
    if (!map_.Add({begin, more})) {
      kernel::Protect(begin, more.raw(), PROT_NONE);
      return false;
    }
    mapped_end_.store(begin + more.raw(), std::memory_order_release);
    return true;
  }

  bool Discard(AddressRange range) noexcept override {
    const NearScope near;
    return map_.Advise(range, MADV_DONTNEED) == 0;
  }

  void BeforeFork() noexcept override ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex_.lock(); }
  void AfterFork() noexcept override ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex_.unlock(); }

 private:
  FarMap& map_;
  const AddressRange range_;
  const Bytes chunk_;
  RankedMutex mutex_{LockRank::kHeapChunks};
  std::atomic<std::byte*> mapped_end_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<FarHeap>> MakeProgramHeap(FarMap& map, Bytes reserve, Bytes chunk) {
  SPIRITOS_ASSIGN_OR_RETURN(Mapping reserved,
                            Mapping::Reserve(reserve, kZoneSize, "the program's heap"));
  return FarHeap::CreateOver(std::make_unique<ChunkSource>(map, reserved.Release(), chunk), {});
}

}  // namespace spiritos::shim
