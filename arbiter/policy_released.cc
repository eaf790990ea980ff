// SPDX-License-Identifier: Apache-2.0
// A market as Spirit's released code has it: the price by bisection, at most 24 rounds; the
// demand on a grid of 1/200, within five cells of the cache held now, with 97 % of the money,
// and only for a gain of half a percent. It clears when nothing is oversubscribed. If it
// never does, everybody keeps what it has; nothing that is left over is handed out.
#include <algorithm>
#include <cmath>

#include "arbiter/policy.h"

namespace spiritos {
namespace {

constexpr double kCell = 1.0 / 200;
constexpr int kWindow = 5;          // Cells, to either side.
constexpr double kSpent = 0.97;     // Of the money.
constexpr double kWorthIt = 1.005;  // A relative gain that is worth a move.
constexpr int kRounds = 24;
constexpr double kCleared = 1 + 1e-5;

double Floor(double share) { return std::floor(share / kCell + 1e-9) * kCell; }

class ReleasedPolicy final : public Policy {
 public:
  absl::StatusOr<Allocation> Next(const PolicyInput& input) override {
    double weights = 0;
    for (const Tenant& tenant : input.tenants) weights += tenant.weight;
    double low = 0;
    double high = 1;
    for (int round = 0; round < kRounds; ++round) {
      const double price = (low + high) / 2;
      Allocation asked;
      Shares total;
      for (size_t i = 0; i < input.tenants.size(); ++i) {
        const Tenant& tenant = input.tenants[i];
        asked.push_back(Ask(tenant, tenant.weight / weights, input.held[i], price));
        for (const size_t r : {kCache, kBandwidth}) total[r] += asked.back()[r];
      }
      if (total.cache() <= kCleared && total.bandwidth() <= kCleared) return asked;
      (total.cache() > kCleared ? low : high) = price;
    }
    return Allocation(input.held.begin(), input.held.end());
  }

 private:
  static Shares Ask(const Tenant& tenant, double money, const Shares& held, double price) {
    const Bounds& bounds = tenant.bounds;
    const double least = std::max(kCell, bounds.minimum.bandwidth());
    const auto with_cache = [&](double cache, double spend) {
      const double rest = (spend - price * cache) / (1 - price);
      return Shares(cache, std::min(Floor(rest), bounds.maximum.bandwidth()));
    };
    const double from = std::max(bounds.minimum.cache(), held.cache() - kWindow * kCell);
    const double to = std::min(bounds.maximum.cache(), held.cache() + kWindow * kCell);
    // The equal share as far as the window reaches, at full money.
    Shares best = with_cache(std::clamp(money, from, to), money);
    if (best.bandwidth() < least) best = Shares(money, money);
    double best_value = tenant.UtilityOf(best) / kWorthIt;
    Shares nearest = best;
    double nearest_distance = 1e300;
    const auto consider = [&](const Shares& shares, double value) {
      if (shares.bandwidth() < least) return;
      const double distance =
          std::hypot(shares.cache() - held.cache(), shares.bandwidth() - held.bandwidth());
      if (distance < nearest_distance) {
        nearest_distance = distance;
        nearest = shares;
      }
      if (value <= best_value) return;
      best_value = value;
      best = shares;
    };
    const double spend = kSpent * money;
    if (price * held.cache() <= spend) {
      const Shares kept = with_cache(held.cache(), spend);
      consider(kept, tenant.UtilityOf(kept));
    }
    for (double cache = std::ceil(from / kCell - 1e-9) * kCell; cache <= to + 1e-9;
         cache += kCell) {
      if (price * cache > spend) break;
      const Shares shares = with_cache(cache, spend);
      const double value = tenant.UtilityOf(shares);
      consider(shares, cache < held.cache() ? value / kWorthIt : value);
    }
    return best_value / kWorthIt < tenant.UtilityOf(nearest) ? nearest : best;
  }
};

}  // namespace

std::unique_ptr<Policy> MakeReleasedPolicy() { return std::make_unique<ReleasedPolicy>(); }

}  // namespace spiritos
