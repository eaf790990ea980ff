// SPDX-License-Identifier: Apache-2.0
// Fill: makes an allocation feasible and full.
//
// Too much of a resource: what exceeds the minimums shrinks in proportion. Too little: a
// trifle is added in proportion; more goes, in portions, to who gains most by a portion,
// relative to what it has, and then, as it is of no use to anyone, in proportion to weights.
// Shares never leave their bounds; without the minimums' sum above the supply the result is
// feasible, and it is full unless all are at their maximum.
#pragma once

#include <optional>
#include <span>

#include "arbiter/resources.h"
#include "arbiter/utility.h"

namespace spiritos {

struct Tenant {
  const Utility* utility = nullptr;  // Borrowed; null: worthless.
  double weight = 1;                 // Its part of all money is weight / sum of weights.
  Bounds bounds;

  // What a bundle of the two resources is worth to it.
  double UtilityOf(const Shares& shares) const {
    return utility == nullptr ? 0 : utility->At(shares.first(2));
  }
};

// Below its entitlement by less, relative, is not below it.
inline constexpr double kFairMargin = 1e-7;

void Fill(std::span<const Tenant> tenants, const Shares& supply, size_t resources,
          std::span<Shares> allocation);

// What tenants are entitled to: its weight's part of each resource, but within its bounds;
// what these take or leave is shared by the others in proportion to weights.
Allocation Entitlements(std::span<const Tenant> tenants, size_t resources);

// Mean logarithm of the gain over the entitlement; nothing if somebody is below it.
std::optional<double> MeanLogGain(std::span<const Tenant> tenants, std::span<const Shares> entitled,
                                  std::span<const Shares> allocation);

}  // namespace spiritos
