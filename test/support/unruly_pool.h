// SPDX-License-Identifier: Apache-2.0
// UnrulyPool: a pool that does whatever a pool may do, and looks at what it is asked.
//
// Requests stay in flight until somebody polls or waits, end in any order, and
// their bytes are taken at any moment between: at Submit() or at the end, as a
// coin falls. What no correct caller does is noted in trespasses(): two writes in
// flight to one slot, a read of a slot that is being written, a read of a slot
// that was never written.
//
// Context: signal.
#pragma once

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "libos/base/lock.h"
#include "libos/base/mapping.h"
#include "libos/remote/remote_backend.h"

namespace spiritos {

class UnrulyPool final : public RemoteBackend {
 public:
  // What a caller does wrong is noted, or, with kStop, stops the process at once:
  // threads that hold each other up can tell nobody.
  enum class OnTrespass { kNote, kStop };
  UnrulyPool(uint64_t slabs, uint64_t seed, OnTrespass on_trespass = OnTrespass::kNote);

  IoResult PlaceSlab(SlotId* first) noexcept override;
  void ReleaseSlab(SlotId first) noexcept override;
  bool addressable() const override { return false; }
  std::byte* Direct(SlotId) noexcept override { return nullptr; }
  IoResult Submit(IoRequest& request) noexcept override;
  bool Poll(Lane lane) noexcept override;
  void Wait(IoRequest& request) noexcept override;
  void Forget(SlotId first, uint32_t pages) noexcept override;
  Bytes capacity() const override { return Bytes(slab_count_ * kSlabSize); }
  std::string description() const override { return "unruly pool of a test"; }

  // What the callers did wrong, one line each; empty = nothing.
  std::vector<std::string> trespasses();
  // Writes that slot `slot` has seen.
  uint32_t writes(SlotId slot);
  uint64_t reads() const { return reads_.load(); }

 private:
  struct Flight {
    IoRequest* request = nullptr;
    SlotId first;
    uint32_t pages = 0;
    std::byte* memory = nullptr;
    bool moved = false;  // The bytes went at Submit().
    bool write = false;
  };
  static constexpr size_t kFlights = 256;

  std::byte* BytesOf(SlotId slot) { return memory_.data() + (slot.raw() << kPageShift); }
  void Move(const Flight& flight) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Admit(const IoRequest& request) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void EndOne(size_t index) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Note(const char* what, uint64_t slot) noexcept ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);

  const uint64_t slab_count_;
  const OnTrespass on_trespass_;
  Mapping memory_;
  std::atomic<uint64_t> reads_{0};

  SpinLock lock_{LockRank::kLane};
  std::minstd_rand random_ ABSL_GUARDED_BY(lock_);
  std::vector<uint64_t> free_slabs_ ABSL_GUARDED_BY(lock_);
  std::vector<Flight> flights_ ABSL_GUARDED_BY(lock_);  // Reserved for kFlights.
  // By slot.
  std::vector<uint8_t> writing_ ABSL_GUARDED_BY(lock_);
  std::vector<uint32_t> writes_ ABSL_GUARDED_BY(lock_);
  // The first few; kept as numbers, as nothing may be allocated here.
  struct Trespass {
    const char* what;
    uint64_t slot;
  };
  std::vector<Trespass> trespasses_ ABSL_GUARDED_BY(lock_);  // Reserved.
};

}  // namespace spiritos
