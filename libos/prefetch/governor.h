// SPDX-License-Identifier: Apache-2.0
// PrefetchGovernor: how far to read ahead, from hits and waste.
//
// A window that hits doubles its stream's next one. A stream that is given up
// before its marker is reached wasted its last window. The moving share of hits
// decides how new streams begin: with 4 pages while most windows hit, with 2
// while they do not, and not at all below a tenth, except for a trial now and
// then.
#pragma once

#include <algorithm>
#include <cstdint>

namespace spiritos {

class PrefetchGovernor {
 public:
  void Hit() noexcept {
    ++hits_;
    share_ += (kOne - share_) / kWeight;
  }
  void Waste() noexcept {
    ++wasted_;
    share_ -= share_ / kWeight;
  }

  // Pages of a new stream's first window; 1 = none.
  uint32_t FirstWindow(uint32_t max_window) noexcept {
    if (share_ < kOne / 10 && ++trials_ % 16 != 0) return 1;
    return std::min(max_window, share_ < kOne / 2 ? 2u : 4u);
  }
  static uint32_t NextWindow(uint32_t window, uint32_t max_window) noexcept {
    return std::min(2 * window, max_window);
  }

  uint64_t hits() const { return hits_; }
  uint64_t wasted() const { return wasted_; }

 private:
  static constexpr int32_t kOne = 1 << 16;
  static constexpr int32_t kWeight = 8;

  int32_t share_ = kOne;  // Of windows that hit, in 1/65536.
  uint32_t trials_ = 0;
  uint64_t hits_ = 0;
  uint64_t wasted_ = 0;
};

}  // namespace spiritos
