// SPDX-License-Identifier: Apache-2.0
// Entries of the slab map: read, changed.
#include "libos/remote/slab_map.h"

#include <new>

#include "libos/base/status.h"

namespace spiritos {
namespace {

uint64_t Pack(const SlabCopy& copy) {
  return static_cast<uint64_t>(copy.state) | uint64_t{copy.server} << 8 |
         uint64_t{copy.epoch} << 32;
}

SlabCopy Unpack(uint64_t word, uint64_t slab, uint32_t key) {
  return {static_cast<SlabCopy::State>(word & 0xFF), static_cast<uint16_t>(word >> 8),
          static_cast<uint32_t>(word >> 32), slab, key};
}

}  // namespace

absl::Status SlabMap::Init(uint64_t max_slabs) {
  SPIRITOS_ASSIGN_OR_RETURN(
      memory_, Mapping::Anonymous(Bytes(max_slabs * sizeof(Entry)), kPageSize, "the slab map"));
  // Zeroed pages are entries in their first state; they are touched as they are used.
  entries_ = reinterpret_cast<Entry*>(memory_.data());
  return absl::OkStatus();
}

SlabCopies SlabMap::Copies(uint64_t index) const noexcept {
  const Entry& entry = entries_[index];
  while (true) {
    const uint32_t before = entry.sequence.load(std::memory_order_acquire);
    SlabCopies copies;
    for (uint32_t i = 0; i < kMaxCopies; ++i) {
      copies[i] = Unpack(entry.copies[i][0].load(std::memory_order_relaxed),
                         entry.copies[i][1].load(std::memory_order_relaxed),
                         entry.keys[i].load(std::memory_order_relaxed));
    }
    std::atomic_thread_fence(std::memory_order_acquire);
    if ((before & 1) == 0 && entry.sequence.load(std::memory_order_relaxed) == before) {
      return copies;
    }
    CpuRelax();
  }
}

void SlabMap::SetCopies(uint64_t index, const SlabCopies& copies) noexcept {
  Entry& entry = entries_[index];
  const uint32_t sequence = entry.sequence.load(std::memory_order_relaxed);
  entry.sequence.store(sequence + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  for (uint32_t i = 0; i < kMaxCopies; ++i) {
    entry.copies[i][0].store(Pack(copies[i]), std::memory_order_relaxed);
    entry.copies[i][1].store(copies[i].slab, std::memory_order_relaxed);
    entry.keys[i].store(copies[i].key, std::memory_order_relaxed);
  }
  entry.sequence.store(sequence + 2, std::memory_order_release);
}

}  // namespace spiritos
