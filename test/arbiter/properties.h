// SPDX-License-Identifier: Apache-2.0
// What an allocation is worth: the measures that the auction is held to, and an equilibrium
// found by brute force to hold it against. Slow and simple on purpose; shares no code with
// the auction.
#pragma once

#include <span>
#include <vector>

#include "arbiter/fill.h"

namespace spiritos {

struct Properties {
  bool feasible = true;    // Within bounds, and no more than there is.
  double full = 1;         // The less used resource; 1 if all are at their maximum of it.
  double gain = 1;         // Geometric mean of what tenants have over what they are entitled to.
  double sharing = 1e300;  // The least of these.
  double envy = 0;         // The largest factor by which someone would like another's bundle more.
};
// Envy costs n^2 looks, and is left out of larger markets than `most_for_envy`.
Properties PropertiesOf(std::span<const Tenant> tenants, std::span<const Shares> allocation,
                        size_t most_for_envy = 200);

// A factor by which all utilities could rise at once, at most: at prices `cache_price` and
// 1 - cache_price the cheapest bundles that are so much better cost more than there is.
double ParetoBound(std::span<const Tenant> tenants, std::span<const Shares> allocation,
                   double cache_price);
// The same, found on a grid: exact to a cell, for small markets.
double ParetoSlack(std::span<const Tenant> tenants, std::span<const Shares> allocation,
                   int cells = 240);

struct ReferenceEquilibrium {
  bool exists = false;  // All clears to 1e-4 without splitting anyone.
  double cache_price = 0.5;
  Allocation allocation;
};
// Bisection on the price of cache with a dense scan of every budget line.
ReferenceEquilibrium FindReference(std::span<const Tenant> tenants, int nodes = 400);

}  // namespace spiritos
