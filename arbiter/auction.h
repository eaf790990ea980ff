// SPDX-License-Identifier: Apache-2.0
// The auction: a competitive equilibrium from (weighted) equal budgets over cache and
// bandwidth. Every tenant gets money in proportion to its weight, buys the bundle that it
// likes best, and prices are such that all is sold (Varian 1974; Budish 2011; for far memory
// Spirit, SOSP'25, doi 10.1145/3731569.3764805).
//
//   CheckTenants   refuses what cannot be served, with the reason
//   Entitlements   money, as a bundle that is affordable at any price       fill.h
//   PriceSearch    prices, and who gets what where demand jumps            price_search.h
//   Fill           feasible and full, to the last share                     fill.h
//   revert         whoever is below its entitlement gets exactly that, and the others'
//                  market is cleared anew, without it
//
// What holds for the result, and what does not, is proved in README.md; in short: it is
// feasible and full, nobody is below its entitlement, and where `equilibrium` is true nobody
// prefers another's bundle (scaled by weights) and no allocation is better for all.
//
// Pure: no clock, no I/O, no threads, no randomness; tenants in another order get the same.
// Cost: O(N), some 500 evaluations of each utility; see price_search.h.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "arbiter/demand.h"
#include "arbiter/fill.h"
#include "arbiter/resources.h"

namespace spiritos {

struct AuctionOptions {
  // The least share of a resource that is worth granting. More than 1/quantum tenants are
  // refused, as some would get nothing.
  double quantum = 1e-6;
  // The prices of the last auction: the search begins there. Without, it looks at all.
  std::optional<Prices> last_prices;
};

struct Reverted {
  size_t tenant;
  std::string reason;
};

struct Auctioned {
  Allocation allocation;
  Prices prices;
  // Everybody has what it likes best of what it can afford, to a hundred thousandth.
  bool equilibrium = false;
  // By how much, relative, the worst off would like another bundle of the same price better.
  // Envy is at most 1 / (1 - regret).
  double regret = 0;
  // Demand less supply at these prices, before what is left over was handed out.
  double cache_excess = 0;
  double bandwidth_excess = 0;
  int rounds = 0;  // How often all tenants were asked what they want.
  std::vector<Reverted> reverted;
};

// OK, or why these tenants cannot all be served.
absl::Status CheckTenants(std::span<const Tenant> tenants, size_t resources, double quantum);

absl::StatusOr<Auctioned> Auction(std::span<const Tenant> tenants,
                                  const AuctionOptions& options = {});

}  // namespace spiritos
