// SPDX-License-Identifier: Apache-2.0
// Interval: a timer for what is shown again and again. One thread.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <utility>

#include "libos/base/fd.h"

namespace spiritos::cli {

class Interval {
 public:
  // `option` is named in errors. The first interval begins now.
  static absl::StatusOr<Interval> Every(double seconds, const char* option);

  // Until the next interval begins; at once if it has.
  absl::Status Await();

 private:
  Interval(UniqueFd timer, const char* option) : timer_(std::move(timer)), option_(option) {}

  UniqueFd timer_;
  const char* option_;
};

}  // namespace spiritos::cli
