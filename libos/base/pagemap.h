// SPDX-License-Identifier: Apache-2.0
// Pagemap: which pages of this process have memory, by proc_pid_pagemap(5).
#pragma once

#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libos/base/fd.h"
#include "libos/base/units.h"

namespace spiritos {

class Pagemap {
 public:
  static absl::StatusOr<Pagemap> Open();

  // Whether each of the pages from `first` on is in memory or in swap: touched, and not
  // given up since. Shared zeroes count.
  absl::Status Read(Vpn first, std::span<bool> touched) const;

 private:
  explicit Pagemap(UniqueFd file) : file_(std::move(file)) {}

  UniqueFd file_;
};

}  // namespace spiritos
