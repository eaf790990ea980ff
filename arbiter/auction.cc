// SPDX-License-Identifier: Apache-2.0
// Admission, the search, what is left over, and who is reverted.
#include "arbiter/auction.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "arbiter/exchange.h"
#include "arbiter/price_search.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

constexpr double kEquilibrium = 1e-5;  // Regret of an equilibrium.
constexpr size_t kMostBargains = 4;
constexpr size_t kFew = 64;  // Among more, one tenant's bargain moves no prices.

std::string_view NameOf(size_t resource) {
  constexpr std::string_view kNames[] = {"cache", "bandwidth"};
  return resource < std::size(kNames) ? kNames[resource] : "a further resource";
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

// How much better tenants could do for the money that the others spend, in proportion: that
// is what their entitlements are worth, or more where some are sated. Whatever another has
// is affordable then, so regret bounds envy.
std::vector<double> Regrets(std::span<const Tenant> tenants, const Allocation& entitled,
                            const Auctioned& result) {
  const auto worth = [&](const Shares& shares) {
    return result.prices.cache * shares.cache() + result.prices.bandwidth * shares.bandwidth();
  };
  double money = 1;
  for (size_t i = 0; i < tenants.size(); ++i) {
    const double due = worth(entitled[i]);
    if (due > 0) money = std::max(money, worth(result.allocation[i]) / due);
  }
  std::vector<double> regrets(tenants.size());
  for (size_t i = 0; i < tenants.size(); ++i) {
    Demand demand(tenants[i].utility, entitled[i], tenants[i].bounds);
    demand.SetMoney(money);
    const double best = demand.At(result.prices, Look::kSure).utility;
    const double has = tenants[i].UtilityOf(result.allocation[i]);
    if (best > has) regrets[i] = 1 - has / best;
  }
  return regrets;
}

// The worst off first, as many as there is time for.
std::vector<size_t> Dissatisfied(const std::vector<double>& regrets) {
  std::vector<size_t> who;
  for (size_t i = 0; i < regrets.size(); ++i) {
    if (regrets[i] > kEquilibrium) who.push_back(i);
  }
  std::sort(who.begin(), who.end(), [&](size_t a, size_t b) {
    return regrets[a] != regrets[b] ? regrets[a] > regrets[b] : a < b;
  });
  if (who.size() > kMostBargains) who.resize(kMostBargains);
  return who;
}

// A market in which everybody's money is what it has now. Nobody has to lose by it, and
// what bargains between two left undone between all is done.
void TradeOn(std::span<const Tenant> tenants, const Allocation& entitled, Auctioned& result) {
  std::vector<Demand> demands;
  for (size_t i = 0; i < tenants.size(); ++i) {
    demands.emplace_back(tenants[i].utility, result.allocation[i], tenants[i].bounds);
  }
  PriceSearch search(demands, Shares(1, 1));
  const Settlement settlement = search.Near(result.prices.log_ratio);
  result.rounds += search.rounds();
  Allocation traded(tenants.size());
  for (size_t i = 0; i < tenants.size(); ++i) {
    const Demanded& bundle = settlement.market.bundles[i];
    traded[i] = Shares(bundle.cache, bundle.bandwidth);
  }
  Fill(tenants, Shares(1, 1), 2, traded);
  const std::optional<double> after = MeanLogGain(tenants, entitled, traded);
  const std::optional<double> before = MeanLogGain(tenants, entitled, result.allocation);
  if (after.has_value() && (!before.has_value() || *after > *before)) {
    result.allocation = std::move(traded);
  }
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
      const double has = round.tenants[j].UtilityOf(bundles[j]);
      const double due = round.demands[j].entitled_utility();
      if (has < due * (1 - kFairMargin)) {
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
  const auto worst = [&] {
    const std::vector<double> regrets = Regrets(tenants, entitled, result);
    result.regret = *std::max_element(regrets.begin(), regrets.end());
    return Dissatisfied(regrets);
  };
  const std::vector<size_t> dissatisfied = worst();
  if (!dissatisfied.empty() && Exchange(tenants, entitled, dissatisfied, result.allocation)) {
    if (tenants.size() <= kFew) TradeOn(tenants, entitled, result);
    worst();
  }
  result.equilibrium = result.regret <= kEquilibrium;
  return result;
}

}  // namespace spiritos
