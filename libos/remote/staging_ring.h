// SPDX-License-Identifier: Apache-2.0
// StagingRing: runs of near pages, given back in the order in which they were taken.
//
//   0      begin            end            size
//   | free | taken, oldest .. newest | free |      a run never wraps around: what is
//   | taken .. newest | free | oldest .. | left |  left at the end goes with the next
//
// Threads: one at a time. Context: signal.
#pragma once

#include <cstdint>
#include <optional>

#include "libos/base/check.h"

namespace spiritos {

class StagingRing {
 public:
  explicit StagingRing(uint32_t pages) : size_(pages) {}

  // The first of so many pages in a row; none when they are not free.
  std::optional<uint32_t> Take(uint32_t pages) noexcept {
    if (used_ == 0) begin_ = end_ = 0;
    const bool wrapped = used_ != 0 && end_ <= begin_;
    uint32_t first = end_;
    if (wrapped) {
      if (pages > begin_ - end_) return std::nullopt;
    } else if (pages > size_ - end_) {
      if (pages > begin_) return std::nullopt;
      used_ += size_ - end_;
      first = 0;
    }
    end_ = first + pages;
    used_ += pages;
    return first;
  }

  // REQUIRES: the oldest run that is taken.
  void Give(uint32_t first, uint32_t pages) noexcept {
    SPIRITOS_DCHECK(first == begin_ || first == 0, "page {} is not the oldest, {} is", first,
                    begin_);
    used_ -= (first == begin_ ? 0 : size_ - begin_) + pages;
    begin_ = first + pages;
  }

  // Pages that are taken or left over.
  uint32_t used() const { return used_; }

 private:
  const uint32_t size_;
  uint32_t begin_ = 0;
  uint32_t end_ = 0;
  uint32_t used_ = 0;
};

}  // namespace spiritos
