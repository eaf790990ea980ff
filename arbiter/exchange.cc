// SPDX-License-Identifier: Apache-2.0
// Searches what a pair can divide: a grid, and ever finer ones around its best point.
#include "arbiter/exchange.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace spiritos {
namespace {

constexpr int kGrid = 12;
constexpr int kZoomGrid = 4;
constexpr int kZooms = 5;
constexpr size_t kMostPartners = 32;
constexpr int kSweeps = 2;
constexpr double kWorthIt = 1e-6;  // Relative.

// What a pair has of its bargain: first that nobody is below its entitlement, then the
// product of utilities.
struct Worth {
  double missing = 0;  // Parts of the entitlements' worth.
  double product = 0;
  bool BetterThan(const Worth& other) const {
    if (std::abs(missing - other.missing) > 1e-9) return missing < other.missing;
    return product > other.product * (1 + kWorthIt);
  }
};

class Pair {
 public:
  Pair(const Tenant& a, const Tenant& b, double due_a, double due_b, Shares& has_a, Shares& has_b)
      : a_(a), b_(b), due_a_(due_a), due_b_(due_b), has_a_(has_a), has_b_(has_b) {
    for (const size_t r : {kCache, kBandwidth}) {
      together_[r] = has_a[r] + has_b[r];
      least_[r] = std::max(a.bounds.minimum[r], together_[r] - b.bounds.maximum[r]);
      most_[r] = std::min(a.bounds.maximum[r], together_[r] - b.bounds.minimum[r]);
    }
  }

  bool Bargain() {
    const Worth before = WorthOf(has_a_);
    best_ = has_a_;
    best_worth_ = before;
    Search(least_, most_, kGrid);
    Shares reach;
    for (const size_t r : {kCache, kBandwidth}) reach[r] = (most_[r] - least_[r]) / kGrid;
    for (int zoom = 0; zoom < kZooms; ++zoom) {
      Shares low;
      Shares high;
      for (const size_t r : {kCache, kBandwidth}) {
        low[r] = std::max(least_[r], best_[r] - reach[r]);
        high[r] = std::min(most_[r], best_[r] + reach[r]);
        reach[r] /= kZoomGrid / 2;
      }
      Search(low, high, kZoomGrid);
      if (zoom == 1 && !(best_worth_.BetterThan(before))) return false;
    }
    if (!best_worth_.BetterThan(before)) return false;
    has_a_ = best_;
    for (const size_t r : {kCache, kBandwidth}) has_b_[r] = together_[r] - best_[r];
    return true;
  }

 private:
  Worth WorthOf(const Shares& of_a) const {
    const double u = a_.utility->At(of_a.cache(), of_a.bandwidth());
    const double v =
        b_.utility->At(together_.cache() - of_a.cache(), together_.bandwidth() - of_a.bandwidth());
    return {Missing(u, due_a_) + Missing(v, due_b_), u * v};
  }
  static double Missing(double has, double due) { return has < due ? 1 - has / due : 0; }
  void Search(const Shares& low, const Shares& high, int grid) {
    for (int i = 0; i <= grid; ++i) {
      for (int j = 0; j <= grid; ++j) {
        const Shares at(low.cache() + (high.cache() - low.cache()) * i / grid,
                        low.bandwidth() + (high.bandwidth() - low.bandwidth()) * j / grid);
        const Worth worth = WorthOf(at);
        const bool fairer = worth.missing < best_worth_.missing - 1e-12;
        const bool as_fair = worth.missing <= best_worth_.missing;
        if (!fairer && !(as_fair && worth.product > best_worth_.product)) continue;
        best_ = at;
        best_worth_ = worth;
      }
    }
  }

  const Tenant& a_;
  const Tenant& b_;
  const double due_a_;
  const double due_b_;
  Shares& has_a_;
  Shares& has_b_;
  Shares together_;
  Shares least_;
  Shares most_;
  Shares best_;
  Worth best_worth_;
};

}  // namespace

bool Exchange(std::span<const Tenant> tenants, std::span<const Shares> entitled,
              std::span<const size_t> dissatisfied, std::span<Shares> allocation) {
  const auto due = [&](size_t i) {
    return tenants[i].utility->At(entitled[i].first(2)) * (1 - 1e-12);
  };
  const size_t stride = std::max<size_t>(1, tenants.size() / kMostPartners);
  bool changed = false;
  for (int sweep = 0; sweep < kSweeps; ++sweep) {
    bool changed_now = false;
    for (const size_t i : dissatisfied) {
      if (tenants[i].utility == nullptr) continue;
      for (size_t j = i % stride; j < tenants.size(); j += stride) {
        if (j == i || tenants[j].utility == nullptr) continue;
        Pair pair(tenants[i], tenants[j], due(i), due(j), allocation[i], allocation[j]);
        if (pair.Bargain()) changed_now = true;
      }
    }
    changed = changed || changed_now;
    if (!changed_now) break;
  }
  return changed;
}

}  // namespace spiritos
