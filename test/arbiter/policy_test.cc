// SPDX-License-Identifier: Apache-2.0
// What tells the policies apart.
#include "arbiter/policy.h"

#include <catch2/catch.hpp>
#include <random>
#include <string>

#include "test/arbiter/properties.h"
#include "test/arbiter/random_market.h"

namespace spiritos {
namespace {

TEST_CASE("every policy keeps to what there is, and the auction leaves nobody worse off",
          "[arbiter]") {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    for (const Family family : {Family::kCobbDouglas, Family::kServers, Family::kCliffs}) {
      std::mt19937_64 random(seed);
      const RandomMarket market = MakeRandomMarket(family, {.tenants = 6}, random);
      double auction = 0;
      for (const std::string_view name : PolicyNames()) {
        INFO("seed " << seed << ", " << NameOf(family) << ", " << name);
        const auto policy = MakePolicy(name);
        REQUIRE(policy != nullptr);
        const auto allocation = RunPolicy(*policy, market.tenants, 60);
        REQUIRE(allocation.ok());
        const Properties properties = PropertiesOf(market.tenants, *allocation);
        CHECK(properties.feasible);
        if (name == "auction") auction = properties.gain;
        if (name == "harvest") CHECK(properties.gain <= auction + 1e-6);
        if (name == "auction" || name == "ideal") CHECK(properties.sharing >= 1 - 1e-6);
        if (name == "equal") CHECK(properties.gain == Approx(1));
        if (name == "trade") CHECK(properties.gain >= 1);
      }
    }
  }
}

TEST_CASE("harvest loses no share when it takes one back", "[arbiter]") {
  std::mt19937_64 random(5);
  const RandomMarket market = MakeRandomMarket(Family::kServers, {.tenants = 4}, random);
  for (const int epochs : {1, 2, 10, 100, 400}) {
    const auto policy = MakeHarvestPolicy();
    const Allocation allocation = RunPolicy(*policy, market.tenants, epochs).value();
    CHECK(PropertiesOf(market.tenants, allocation).full >= 1 - 2.0 / 200 - 1e-9);
  }
}

TEST_CASE("there is no policy by another name", "[arbiter]") {
  CHECK(MakePolicy("best") == nullptr);
}

}  // namespace
}  // namespace spiritos
