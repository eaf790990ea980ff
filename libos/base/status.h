// SPDX-License-Identifier: Apache-2.0
// Status helpers: early return, and errno with the call that set it.
#pragma once

#include <fmt/core.h>

#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns from the enclosing function unless `expression` is OK.
#define SPIRITOS_RETURN_IF_ERROR(expression)                                               \
  do {                                                                                     \
    if (absl::Status status_or_ok = (expression); !status_or_ok.ok()) return status_or_ok; \
  } while (false)

#define SPIRITOS_CONCAT_INNER(a, b) a##b
#define SPIRITOS_CONCAT(a, b) SPIRITOS_CONCAT_INNER(a, b)

// Declares or assigns `target` from a StatusOr, or returns its status.
#define SPIRITOS_ASSIGN_OR_RETURN(target, expression) \
  SPIRITOS_ASSIGN_OR_RETURN_INNER(SPIRITOS_CONCAT(spiritos_or_, __LINE__), target, expression)
#define SPIRITOS_ASSIGN_OR_RETURN_INNER(value, target, expression) \
  auto value = (expression);                                       \
  if (!value.ok()) return std::move(value).status();               \
  target = *std::move(value)

namespace spiritos {

// The status of a failed system call: its code from `error`, its text
// "<what>: <strerror>". `what` names the value and the knob that led here.
inline absl::Status ErrnoStatus(int error, std::string_view what) {
  return absl::ErrnoToStatus(error, absl::string_view(what.data(), what.size()));
}

template <typename... Args>
absl::Status InvalidArgument(fmt::format_string<Args...> format, Args&&... args) {
  return absl::InvalidArgumentError(fmt::vformat(format, fmt::make_format_args(args...)));
}

}  // namespace spiritos
