// SPDX-License-Identifier: Apache-2.0
// Case files of `spiritos arbiter solve`: a market of two resources as JSON.
//
//   {"weights": [w, ...],                  optional; all the same without
//    "bounds": {"c": [min, max], "b": [min, max]},     optional; [0, 1] without
//    "apps": [{"name": "kvs", "kind": "closed_loop",
//              "params": {"gamma": 100, "kappa": 30},
//              "mrc": {"shape": "power", "m0": 0.05, "s": 0.1, "a": 1.6}}, ...]}
//
// Kinds and shapes are those of arbiter/utility_kinds.h; kind "table" has a "grid" with
// "u", a square of values over [0, 1]^2. "n", if there, is the number of apps. Weights are
// normalised. Keys that are not known are left alone.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "arbiter/fill.h"
#include "arbiter/utility.h"

namespace spiritos::cli {

struct ArbiterCase {
  std::vector<std::string> names;
  std::vector<std::unique_ptr<Utility>> utilities;
  std::vector<Tenant> tenants;
};

// Errors name the key, the value and what would be right.
absl::StatusOr<ArbiterCase> ParseArbiterCase(std::string_view text);

}  // namespace spiritos::cli
