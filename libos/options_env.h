// SPDX-License-Identifier: Apache-2.0
// OptionsFromEnvironment: the SPIRITOS_* table: names, parsing, ranges.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libos/base/export.h"
#include "libos/base/options.h"

namespace spiritos {

// `base` with what the environment's SPIRITOS_* variables set. An unknown
// variable, a value that does not parse or lies outside its range is
// kInvalidArgument and names the variable, the value and what is allowed.
SPIRITOS_PUBLIC absl::StatusOr<Options> OptionsFromEnvironment(Options base = {});

// The same from `variables`, "NAME=value" each: for tests and configuration files.
SPIRITOS_PUBLIC absl::StatusOr<Options> ApplyOptions(Options base,
                                                     const std::vector<std::string>& variables);

// Whether the fields make sense together; ranges of single fields as well, so
// that options set in code are checked too.
SPIRITOS_PUBLIC absl::Status CheckOptions(const Options& options);

// "4096", "64K", "1.5G": bytes, with binary suffixes K, M, G, T.
SPIRITOS_PUBLIC absl::StatusOr<Bytes> ParseBytes(std::string_view text);
// "250ns", "10us", "1.5ms", "2s": nanoseconds.
SPIRITOS_PUBLIC absl::StatusOr<uint64_t> ParseNanoseconds(std::string_view text);

}  // namespace spiritos
