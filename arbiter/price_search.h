// SPDX-License-Identifier: Apache-2.0
// PriceSearch: the prices of two resources at which what all tenants demand is what there is.
//
// All is a function of one number, the logarithm of the price ratio x. What is looked for is
// a zero of the excess g(x), the value of cache demanded beyond its supply less that of
// bandwidth:
//
//   g  +--.__                     g falls for substitutes, but not always: complements and
//      |     '-.                  maxima make it rise in places, so there may be several
//      |        |  <- jump        zeroes. A sweep over x finds where its sign changes.
//    0 +--------|-------.---> x   Where g jumps across zero, some tenants are indifferent
//      |        |__      '-.      between two bundles and have to be given one each, or a
//      |           '--._          part of both (Settle).
//
// Who is sated leaves money over, and then both resources are in excess supply. All money
// is then scaled up until it is spent: incomes stay equal, so nobody comes to envy anyone.
//
// Cost: a sweep of kSweep looks of up to 33 nodes per tenant; then some 8 rounds of some 15
// evaluations where g is smooth, at most 35 where it jumps. Linear in the number of tenants.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "arbiter/demand.h"

namespace spiritos {

// What all demand at some prices.
struct Market {
  Prices prices;
  std::vector<Demanded> bundles;
  double value_excess = 0;  // g.
  double cache_excess = 0;  // Shares of the total.
  double bandwidth_excess = 0;
  double spent_fraction = 1;  // Of the value of all there is.
};

// How a search ended.
struct Settlement {
  Market market;         // Its bundles need not add up; see Fill().
  double score = 0;      // Mean logarithm of the gain over the entitlement.
  bool fair = true;      // Nobody is below its entitlement.
  bool settled = false;  // False: there is nothing here.
};

class PriceSearch {
 public:
  // Borrows `demands`, whose restrictions and money it changes and takes back.
  PriceSearch(std::span<Demand> demands, const Shares& supply);

  // The best of what all zeroes lead to.
  Settlement Everywhere();
  // The one zero that a walk from `log_ratio` meets.
  Settlement Near(double log_ratio);

  // How often all tenants were asked, by any look.
  int rounds() const { return rounds_; }

 private:
  struct Bracket {
    double low = 0;  // Log ratios; the excess is positive at low or at high, not at both.
    double high = 0;
    double low_excess = 0;
    double high_excess = 0;
  };

  Market Ask(double log_ratio, Look look);
  void Add(Market& market) const;
  Bracket Walk(double from);
  // Narrows down to a zero or a jump; `low` and `high` are the markets on either side of it.
  bool Narrow(Bracket bracket, Market& low, Market& high, int attempts = 3);
  void TryJump(Bracket& bracket, Market& low, Market& high);
  Settlement Solve(Bracket bracket, int depth);
  Settlement SolveOnce(const Bracket& bracket, int depth);
  Settlement Settle(const Market& low, const Market& high, int depth);
  Settlement BestNearby(Settlement here);
  Settlement Judge(Market market) const;
  bool Splits(size_t tenant, const Demanded& a, const Demanded& b) const;
  void SetMoney(double money);

  std::span<Demand> demands_;
  Shares supply_;
  double money_ = 1;
  int rounds_ = 0;
};

}  // namespace spiritos
