// SPDX-License-Identifier: Apache-2.0
// What the auction promises, on random markets of all families: rapidcheck draws the market
// and shrinks what fails (RC_PARAMS="seed=..." repeats a run); larger markets and those
// compared with a brute-force equilibrium have fixed seeds.
#include <rapidcheck.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "arbiter/auction.h"
#include "test/arbiter/properties.h"
#include "test/arbiter/random_market.h"

namespace spiritos {
namespace {

// Holds a market to what holds for every market; says what does not.
std::string Broken(const RandomMarket& market, const Auctioned& result) {
  const Properties properties = PropertiesOf(market.tenants, result.allocation);
  if (!properties.feasible) return "not feasible";
  if (properties.full < 0.999) return "full " + std::to_string(properties.full);
  // With bounds an entitlement may be less than the weight's part.
  const Allocation entitled = Entitlements(market.tenants, 2);
  for (size_t i = 0; i < market.tenants.size(); ++i) {
    const Utility& utility = *market.tenants[i].utility;
    const double has = utility.At(result.allocation[i].first(2));
    const double due = utility.At(entitled[i].first(2));
    if (!(has >= due * (1 - 1e-6))) {
      return "tenant " + std::to_string(i) + " has " + std::to_string(has / due) +
             " of its equal share";
    }
  }
  // Where bounds cut entitlements, money is not in proportion to weights.
  double weights = 0;
  for (const Tenant& tenant : market.tenants) weights += tenant.weight;
  bool proportional = true;
  for (size_t i = 0; i < market.tenants.size(); ++i) {
    const double part = market.tenants[i].weight / weights;
    for (const size_t r : {kCache, kBandwidth}) {
      proportional = proportional && std::abs(entitled[i][r] - part) <= 1e-9;
    }
  }
  if (proportional && result.equilibrium && properties.envy > 1.001) {
    return "envy " + std::to_string(properties.envy);
  }
  if (!(result.prices.cache > 0 && result.prices.cache < 1)) return "price";
  return "";
}

TEST_CASE("random markets are feasible, full, fair, and free of envy in equilibrium", "[arbiter]") {
  const bool held = rc::check([] {
    MarketShape shape;
    shape.tenants = *rc::gen::weightedOneOf<size_t>(
        {{12, rc::gen::inRange<size_t>(1, 13)}, {3, rc::gen::inRange<size_t>(13, 100)}});
    shape.weighted = *rc::gen::arbitrary<bool>();
    shape.cap = *rc::gen::element(1.0, 1.0, 1.2, 2.0, 4.0);
    shape.minimum = *rc::gen::element(0.0, 0.0, 0.2, 0.9);
    const Family family =
        *rc::gen::elementOf(std::vector<Family>(kFamilies.begin(), kFamilies.end()));
    std::mt19937_64 random(*rc::gen::arbitrary<uint64_t>());
    const RandomMarket market = MakeRandomMarket(family, shape, random);
    const auto result = Auction(market.tenants);
    RC_ASSERT(result.ok());
    const std::string broken = Broken(market, *result);
    if (!broken.empty()) RC_FAIL(std::string(NameOf(family)) + ": " + broken);
  });
  CHECK(held);
}

TEST_CASE("a thousand tenants are as sound as a few", "[arbiter]") {
  for (const Family family : kFamilies) {
    std::mt19937_64 random(7);
    const RandomMarket market = MakeRandomMarket(family, {.tenants = 1000}, random);
    const Auctioned result = Auction(market.tenants).value();
    INFO("seed 7, " << NameOf(family));
    CHECK(Broken(market, result) == "");
  }
}

TEST_CASE("no equilibrium found by brute force gains much more", "[arbiter]") {
  int compared = 0;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    for (const Family family : kFamilies) {
      std::mt19937_64 random(seed);
      const MarketShape shape{.tenants = 2 + seed % 5, .weighted = seed % 3 == 0};
      const RandomMarket market = MakeRandomMarket(family, shape, random);
      const ReferenceEquilibrium reference = FindReference(market.tenants);
      if (!reference.exists) continue;
      ++compared;
      const double exact = PropertiesOf(market.tenants, reference.allocation, 0).gain;
      const Auctioned result = Auction(market.tenants).value();
      INFO("seed " << seed << ", " << NameOf(family) << ", " << shape.tenants << " tenants");
      CHECK(PropertiesOf(market.tenants, result.allocation, 0).gain - 1 >=
            0.99 * (exact - 1) - 1e-6);
    }
  }
  CHECK(compared >= 50);
}

TEST_CASE("in equilibrium nothing is better for all by half a percent", "[arbiter]") {
  int in_equilibrium = 0;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    for (const Family family : kFamilies) {
      std::mt19937_64 random(seed);
      const RandomMarket market = MakeRandomMarket(family, {.tenants = 6}, random);
      const Auctioned result = Auction(market.tenants).value();
      if (!result.equilibrium) continue;
      ++in_equilibrium;
      INFO("seed " << seed << ", " << NameOf(family));
      CHECK(ParetoBound(market.tenants, result.allocation, result.prices.cache) <= 0.005);
    }
  }
  CHECK(in_equilibrium >= 12);
}

TEST_CASE("a tenant's bundle does not depend on its place among them", "[arbiter]") {
  std::mt19937_64 random(3);
  const RandomMarket market = MakeRandomMarket(Family::kServers, {.tenants = 9}, random);
  const Auctioned one = Auction(market.tenants).value();
  const std::vector<Tenant> reversed(market.tenants.rbegin(), market.tenants.rend());
  const Auctioned other = Auction(reversed).value();
  for (size_t i = 0; i < reversed.size(); ++i) {
    CHECK(one.allocation[i].cache() == Approx(other.allocation[8 - i].cache()).margin(1e-6));
  }
}

}  // namespace
}  // namespace spiritos
