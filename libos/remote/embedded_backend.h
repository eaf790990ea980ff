// SPDX-License-Identifier: Apache-2.0
// EmbeddedBackend: slabs in this process's own memory: the reference backend.
//
// Far memory without the distance: what a program gets when no server is near,
// and what every other backend is tested against. Reads and writes are loads and
// stores on Direct() memory.
#pragma once

#include <array>
#include <atomic>
#include <vector>

#include "libos/base/lock.h"
#include "libos/base/mapping.h"
#include "libos/remote/remote_backend.h"

namespace spiritos {

class EmbeddedBackend final : public RemoteBackend {
 public:
  // `capacity` in bytes, rounded down to slabs; 0 = as much as address space.
  static absl::StatusOr<std::unique_ptr<EmbeddedBackend>> Create(Bytes capacity);

  IoResult PlaceSlab(SlotId* first) noexcept override;
  void ReleaseSlab(SlotId first) noexcept override;
  bool addressable() const override { return true; }
  std::byte* Direct(SlotId slot) noexcept override {
    return memory_.data() + (slot.raw() << kPageShift);
  }
  IoResult Submit(IoRequest& request) noexcept override;
  bool Poll(Lane) noexcept override { return false; }
  void Wait(IoRequest&) noexcept override {}
  void Forget(SlotId first, uint32_t pages) noexcept override;
  ForkedSlots BeforeFork() noexcept override;
  void AfterFork(bool child) noexcept override;
  Bytes capacity() const override { return Bytes(slab_count_ * kSlabSize); }
  std::string description() const override;

 private:
  EmbeddedBackend(Mapping memory, size_t slabs);

  Mapping memory_;
  const size_t slab_count_;
  SpinLock lock_{LockRank::kSlabMap};
  size_t unused_ ABSL_GUARDED_BY(lock_) = 0;               // Never placed from here on.
  std::vector<uint32_t> released_ ABSL_GUARDED_BY(lock_);  // Reserved for slab_count_.
};

}  // namespace spiritos
