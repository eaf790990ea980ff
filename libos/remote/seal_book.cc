// SPDX-License-Identifier: Apache-2.0
// A slab's seals, from the arena.
#include "libos/remote/seal_book.h"

#include <algorithm>

#include "libos/base/status.h"

namespace spiritos {
namespace {

constexpr uint64_t kLeastSlabs = uint64_t{1} << 16;  // 4 TiB: half a MiB, where it is used.

}  // namespace

absl::Status SealBook::Init(Bytes capacity) {
  max_slabs_ = std::max(capacity.raw() / kSlabSize, kLeastSlabs);
  SPIRITOS_ASSIGN_OR_RETURN(memory_, Mapping::Anonymous(Bytes(max_slabs_ * sizeof(*slabs_)),
                                                        kPageSize, "seals of encrypted pages"));
  slabs_ = reinterpret_cast<std::atomic<PageSeal*>*>(memory_.data());  // All null.
  return absl::OkStatus();
}

bool SealBook::Begin(SlotId first) noexcept {
  const uint64_t slab = first.raw() / kSlabPages;
  if (slab >= max_slabs_) return false;
  if (slabs_[slab].load(std::memory_order_acquire) != nullptr) {
    Forget(first, kSlabPages);
    return true;
  }
  auto* const seals = arena_.NewArray<PageSeal>(kSlabPages);
  // Release: publishes the seals. Pairs with the acquire of who is told of the slab.
  slabs_[slab].store(seals, std::memory_order_release);
  return seals != nullptr;
}

void SealBook::Forget(SlotId first, uint32_t pages) noexcept {
  std::fill_n(&(*this)[first], pages, PageSeal{});
}

}  // namespace spiritos
