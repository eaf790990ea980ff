// SPDX-License-Identifier: Apache-2.0
// Admission, the search, what is left over, and who is reverted.
#include "arbiter/auction.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "arbiter/price_search.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

constexpr double kEquilibrium = 1e-5;  // Regret of an equilibrium.
constexpr double kFair = 1e-7;         // Below the entitlement by less is not below it.

std::string_view NameOf(size_t resource) {
  constexpr std::string_view kNames[] = {"cache", "bandwidth"};
  return resource < std::size(kNames) ? kNames[resource] : "a further resource";
}

double UtilityOf(const Tenant& tenant, const Shares& shares) {
  return tenant.utility == nullptr ? 0 : tenant.utility->At(shares.first(2));
}

// The market of those who are still in it.
struct Round {
  std::vector<size_t> who;
  std::vector<Tenant> tenants;
  std::vector<Demand> demands;
  Shares supply{1, 1};
};

Round RoundWithout(std::span<const Tenant> tenants, const Allocation& entitled,
                   const std::vector<bool>& out) {
  Round round;
  for (size_t i = 0; i < tenants.size(); ++i) {
    if (out[i]) {
      for (const size_t r : {kCache, kBandwidth}) round.supply[r] -= entitled[i][r];
      continue;
    }
    round.who.push_back(i);
    round.tenants.push_back(tenants[i]);
    round.demands.emplace_back(tenants[i].utility, entitled[i], tenants[i].bounds);
  }
  for (const size_t r : {kCache, kBandwidth}) round.supply[r] = std::max(0.0, round.supply[r]);
  return round;
}

// How much better a tenant could do for the money that its entitlement is worth.
double Regret(Demand& demand, const Prices& prices, double has) {
  const double best = demand.At(prices, Look::kGlobal).utility;
  return best > has ? 1 - has / best : 0;
}

}  // namespace

absl::Status CheckTenants(std::span<const Tenant> tenants, size_t resources, double quantum) {
  if (tenants.empty()) return InvalidArgument("no tenants");
  if (static_cast<double>(tenants.size()) * quantum > 1) {
    return absl::ResourceExhaustedError(
        fmt::format("{} tenants are more than the {} that can be given {} each (quantum)",
                    tenants.size(), std::floor(1 / quantum), quantum));
  }
  for (size_t i = 0; i < tenants.size(); ++i) {
    const double weight = tenants[i].weight;
    if (!(weight > 0) || !std::isfinite(weight)) {
      return InvalidArgument("weight {} of tenant {} is not a positive number", weight, i);
    }
  }
  for (size_t r = 0; r < resources; ++r) {
    double minimums = 0;
    for (size_t i = 0; i < tenants.size(); ++i) {
      const double least = tenants[i].bounds.minimum[r];
      const double most = tenants[i].bounds.maximum[r];
      if (!(least >= 0 && least <= most && most <= 1)) {
        return InvalidArgument("bounds {} to {} of tenant {}, {}, are not within 0 to 1", least,
                               most, i, NameOf(r));
      }
      minimums += least;
    }
    if (minimums > 1 + 1e-9) {
      return absl::ResourceExhaustedError(
          fmt::format("the minimums of {} tenants add up to {:.6g} of all {}", tenants.size(),
                      minimums, NameOf(r)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Auctioned> Auction(std::span<const Tenant> tenants, const AuctionOptions& options) {
  SPIRITOS_RETURN_IF_ERROR(CheckTenants(tenants, 2, options.quantum));
  const Allocation entitled = Entitlements(tenants, 2);
  Auctioned result;
  result.allocation = entitled;
  std::vector<bool> out(tenants.size(), false);
  double start = options.last_prices.has_value() ? options.last_prices->log_ratio : 0;
  bool warm = options.last_prices.has_value() && std::isfinite(start);
  while (true) {
    Round round = RoundWithout(tenants, entitled, out);
    if (round.who.size() < 2 && !result.reverted.empty()) break;  // Nobody to trade with.
    PriceSearch search(round.demands, round.supply);
    const Settlement settlement = warm ? search.Near(start) : search.Everywhere();
    result.rounds += search.rounds();
    result.prices = settlement.market.prices;
    result.cache_excess = settlement.market.cache_excess;
    result.bandwidth_excess = settlement.market.bandwidth_excess;
    Allocation bundles(round.who.size());
    for (size_t j = 0; j < bundles.size(); ++j) {
      const Demanded& bundle = settlement.market.bundles[j];
      bundles[j] = Shares(bundle.cache, bundle.bandwidth);
    }
    Fill(round.tenants, round.supply, 2, bundles);
    std::vector<size_t> losers;
    for (size_t j = 0; j < bundles.size(); ++j) {
      const double has = UtilityOf(round.tenants[j], bundles[j]);
      const double due = round.demands[j].entitled_utility();
      if (has < due * (1 - kFair)) {
        const size_t loser = round.who[j];
        losers.push_back(loser);
        result.reverted.push_back(
            {loser, fmt::format("would have {:.6g} of what its equal share is worth", has / due)});
      }
    }
    if (losers.empty()) {
      for (size_t j = 0; j < bundles.size(); ++j) result.allocation[round.who[j]] = bundles[j];
      break;
    }
    for (const size_t loser : losers) {
      out[loser] = true;
      result.allocation[loser] = entitled[loser];
    }
    start = result.prices.log_ratio;
    warm = true;
  }
  for (size_t i = 0; i < tenants.size(); ++i) {
    Demand demand(tenants[i].utility, entitled[i], tenants[i].bounds);
    result.regret = std::max(
        result.regret, Regret(demand, result.prices, UtilityOf(tenants[i], result.allocation[i])));
  }
  result.equilibrium = result.regret <= kEquilibrium;
  return result;
}

}  // namespace spiritos
