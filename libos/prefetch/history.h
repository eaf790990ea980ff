// SPDX-License-Identifier: Apache-2.0
// FaultHistory: the last faults of a core, newest first.
#pragma once

#include <array>
#include <cstdint>

#include "libos/base/units.h"

namespace spiritos {

class FaultHistory {
 public:
  static constexpr uint32_t kSize = 32;  // Leap's H.

  void Add(Vpn vpn) noexcept {
    head_ = (head_ + 1) % kSize;
    pages_[head_] = vpn.raw();
    since_repeat_ = DeltaAt(0) == DeltaAt(1) ? 0 : since_repeat_ + 1;
  }
  // The i-th newest, i < kSize; 0 where nothing was recorded yet.
  uint64_t At(uint32_t i) const noexcept { return pages_[(head_ + kSize - i) % kSize]; }
  // The distance from the (i+1)-th newest to the i-th.
  int64_t DeltaAt(uint32_t i) const noexcept { return static_cast<int64_t>(At(i) - At(i + 1)); }
  // How many faults ago the last distance that equals the one before it was added.
  uint32_t since_repeat() const noexcept { return since_repeat_; }
  bool Contains(uint64_t page) const noexcept {
    bool found = false;
    for (const uint64_t seen : pages_) found |= seen == page;
    return found;
  }

 private:
  std::array<uint64_t, kSize> pages_{};
  uint32_t head_ = 0;
  uint32_t since_repeat_ = 0;
};

}  // namespace spiritos
