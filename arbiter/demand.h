// SPDX-License-Identifier: Apache-2.0
// Demand: the best bundle that a tenant can afford at given prices of two resources.
//
//   bandwidth
//    ^\                     All lines of a tenant pass through its entitlement E, which it
//    | \  sells cache       can afford at any price. As cache becomes dearer the line
//    |  \                   turns clockwise: what lies left of E grows, what lies right
//    |   E.                 shrinks. So who sells cache goes on selling it (revealed
//    |    ' .  buys cache   preference), and one half of the line need not be looked at.
//    +--------'--> cache
//
// Utilities need not be concave. A full look (Look::kGlobal) tries nodes along the line,
// denser near E, and refines the best few peaks; they are remembered, and a later look at
// prices nearby (Look::kNear) refines only those. Spikes between nodes are not missed by
// Look::kSure, with which a search ends: as utilities are monotone, no bundle between two
// nodes is worth more than the cache of the right one with the bandwidth of the left one.
//
// A bundle never costs more than another one that is as good: ties go to the cheaper.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "arbiter/resources.h"
#include "arbiter/utility.h"

namespace spiritos {

// Prices of the two resources; they add up to 1. Made from the logarithm of their ratio, as
// a resource may be a million times dearer than the other.
struct Prices {
  static Prices FromRatio(double log_ratio);
  double log_ratio = 0;
  double cache = 0.5;
  double bandwidth = 0.5;
};

struct Demanded {
  double cache = 0;
  double bandwidth = 0;
  double utility = 0;
};

enum class Look { kCoarse, kNear, kGlobal, kSure };

class Demand {
 public:
  // Borrows the utility; null: worthless. `entitlement` lies within `bounds`.
  Demand(const Utility* utility, const Shares& entitlement, const Bounds& bounds);

  Demanded At(const Prices& prices, Look look);

  // Only bundles with `least` <= cache <= `most` from now on; forgets the peaks.
  void Restrict(double least, double most);
  // Scales the tenant's money; 1 at first.
  void SetMoney(double money);

  double money_at(const Prices& prices) const {
    return money_ *
           (prices.cache * entitlement_.cache() + prices.bandwidth * entitlement_.bandwidth());
  }
  double UtilityOf(double cache, double bandwidth) const {
    return utility_ == nullptr ? 0 : utility_->At(cache, bandwidth);
  }
  const Shares& entitlement() const { return entitlement_; }
  double entitled_utility() const { return entitled_utility_; }
  const Bounds& bounds() const { return bounds_; }
  bool restricted() const { return least_ > 0 || most_ < 1; }

 private:
  static constexpr size_t kPeaks = 3;

  // The line at some prices, by what of it is within bounds.
  struct Line {
    double BandwidthFor(double cache) const;
    double least = 0;  // Of cache.
    double most = 0;
    double pivot = 0;  // Where the nodes are dense.
    double money = 0;
    Prices prices;
    double least_bandwidth = 0;
    double most_bandwidth = 1;
  };
  struct Node {
    double cache;
    double utility;
  };
  Line LineAt(const Prices& prices) const;
  Node Try(const Line& line, double cache) const;
  size_t Nodes(const Line& line, Look look, std::span<Node> nodes) const;
  Node BestOfAll(const Line& line, Look look);
  Node Bound(const Line& line, std::span<const Node> nodes, Node best);
  Node BestOfPeaks(const Line& line, double turned);
  Node Climb(const Line& line, Node from, double step, double precision) const;
  // The best between two nodes around a third that is no worse.
  Node Refine(const Line& line, const Node& left, Node middle, const Node& right,
              double tolerance) const;
  Demanded Cheapest(const Line& line, const Node& best) const;
  // Remembers on which side of the entitlement the best bundle lies.
  void NoteSide(const Line& line, std::span<const Node> nodes, const Node& best);

  const Utility* utility_;
  Shares entitlement_;
  Bounds bounds_;
  double entitled_utility_;
  double money_ = 1;
  double least_ = 0;
  double most_ = 1;
  double buys_until_ = -1e9;  // Buys cache at all log ratios below,
  double sells_from_ = 1e9;   // and sells it at all above.
  std::array<double, kPeaks> peaks_{};
  size_t peak_count_ = 0;
  double peaks_at_ = 0;  // The log ratio.
};

}  // namespace spiritos
