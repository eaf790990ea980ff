// SPDX-License-Identifier: Apache-2.0
// The memory that this process may have: the machine's, or less by its control groups
// (cgroups(7), version 1 and 2).
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "libos/base/units.h"

namespace spiritos {

// `root` is where /proc and /sys are.
Bytes MemoryLimit(const std::string& root = "");

// A size as 256M or 4G, or a share of MemoryLimit() as 25%. kInvalidArgument names `key`.
absl::StatusOr<Bytes> ParseBudget(std::string_view key, std::string_view text,
                                  const std::string& root = "");

}  // namespace spiritos
