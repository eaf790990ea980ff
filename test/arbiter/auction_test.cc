// SPDX-License-Identifier: Apache-2.0
// Markets whose outcome is known, admission, and tenants that report nonsense. Properties of
// random markets are in auction_properties_test.cc.
#include "arbiter/auction.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "arbiter/utility_kinds.h"
#include "test/arbiter/properties.h"

namespace spiritos {
namespace {

using Kind = UtilitySpec::Kind;

class Rig {
 public:
  explicit Rig(const std::vector<UtilitySpec>& specs) {
    for (const UtilitySpec& spec : specs) Add(std::make_unique<ParametricUtility>(spec));
  }
  Rig() = default;
  void Add(std::unique_ptr<Utility> utility) {
    tenants.push_back(Tenant{utility.get(), 1, {}});
    utilities_.push_back(std::move(utility));
  }
  void AddFunction(FunctionUtility::Function function) {
    Add(std::make_unique<FunctionUtility>(std::move(function)));
  }
  Auctioned Run(const AuctionOptions& options = {}) const {
    return Auction(tenants, options).value();
  }

  std::vector<Tenant> tenants;

 private:
  std::vector<std::unique_ptr<Utility>> utilities_;
};

UtilitySpec Linear(double wc, double wb) {
  return {.kind = Kind::kLinear, .cache = wc, .bandwidth = wb};
}
UtilitySpec CobbDouglas(double a) { return {.kind = Kind::kCobbDouglas, .cache = a}; }
UtilitySpec Leontief(double c, double b) {
  return {.kind = Kind::kLeontief, .cache = c, .bandwidth = b};
}

void CheckSound(const Rig& rig, const Auctioned& result) {
  const Properties properties = PropertiesOf(rig.tenants, result.allocation);
  CHECK(properties.feasible);
  CHECK(properties.full >= 0.999);
  CHECK(properties.sharing >= 1 - 1e-6);
  if (result.equilibrium) CHECK(properties.envy <= 1.001);
}

TEST_CASE("the toy of Spirit's figure 3 has its exact price and bundles", "[arbiter]") {
  const Rig rig({{.kind = Kind::kQuad}, Linear(0, 1), Linear(1, 0)});
  const Auctioned result = rig.Run();
  CheckSound(rig, result);
  CHECK(result.equilibrium);
  CHECK(result.prices.cache == Approx((7 + std::sqrt(13)) / 18).margin(1e-6));
  CHECK(result.allocation[0].cache() == Approx(0.434259).margin(1e-5));
  CHECK(result.allocation[0].bandwidth() == Approx(0.188580).margin(1e-5));
  CHECK(result.allocation[1].bandwidth() == Approx(0.811420).margin(1e-5));
  CHECK(result.allocation[2].cache() == Approx(0.565741).margin(1e-5));
}

TEST_CASE("Cobb-Douglas tenants get the closed form to a millionth", "[arbiter]") {
  const std::vector<double> tastes = {0.2, 0.5, 0.9, 0.7};
  Rig rig;
  double total = 0;
  for (const double a : tastes) {
    rig.Add(std::make_unique<ParametricUtility>(CobbDouglas(a)));
    total += a;
  }
  const Auctioned result = rig.Run();
  CheckSound(rig, result);
  CHECK(result.equilibrium);
  CHECK(result.prices.cache == Approx(total / 4).margin(1e-6));
  for (size_t i = 0; i < tastes.size(); ++i) {
    CHECK(result.allocation[i].cache() == Approx(tastes[i] / total).margin(1e-6));
    CHECK(result.allocation[i].bandwidth() == Approx((1 - tastes[i]) / (4 - total)).margin(1e-6));
  }
}

TEST_CASE("complements clear", "[arbiter]") {
  const Rig rig({Leontief(0.2, 0.8), Leontief(0.35, 0.65), Leontief(0.6, 0.4), Leontief(0.8, 0.2)});
  const Auctioned result = rig.Run();
  CheckSound(rig, result);
  CHECK(result.equilibrium);
  CHECK(std::abs(result.cache_excess) <= 1e-6);
  CHECK(std::abs(result.bandwidth_excess) <= 1e-6);
  CHECK(result.prices.cache == Approx(0.441279539).margin(1e-6));
}

TEST_CASE("an indifferent tenant is given a part of both its best bundles", "[arbiter]") {
  const Rig rig({Linear(1, 0.4), Linear(0.5, 1), Linear(0.9, 1)});
  const Auctioned result = rig.Run();
  CheckSound(rig, result);
  CHECK(result.equilibrium);
  CHECK(result.prices.cache == Approx(9.0 / 19).margin(1e-6));
  CHECK(result.allocation[2].cache() == Approx(8.0 / 27).margin(1e-5));
  CHECK(result.allocation[2].bandwidth() == Approx(11.0 / 30).margin(1e-5));
}

TEST_CASE("three tenants that want either resource have no equilibrium, and are told so",
          "[arbiter]") {
  const UtilitySpec either{.kind = Kind::kMax};
  const Rig three({either, either, either});
  const Auctioned result = three.Run();
  CheckSound(three, result);
  CHECK_FALSE(result.equilibrium);
  CHECK(result.regret > 0.1);
  CHECK(PropertiesOf(three.tenants, result.allocation).sharing >= 1.4);
  CHECK(ParetoSlack(three.tenants, result.allocation) <= 0.005);

  const Rig four({either, either, either, either});  // Two and two is one.
  CHECK(four.Run().equilibrium);
}

TEST_CASE("tenants with one taste keep the equal split", "[arbiter]") {
  const UtilitySpec spec{
      .kind = Kind::kClosedLoop,
      .gamma = 100,
      .kappa = 30,
      .misses = {.shape = MissRatio::Shape::kPower, .m0 = 0.05, .s = 0.1, .a = 1.6}};
  const Rig rig({spec, spec});
  const Auctioned result = rig.Run();
  CheckSound(rig, result);
  CHECK(result.equilibrium);
  CHECK(result.prices.cache == Approx(0.780487795).margin(1e-5));
  for (const Shares& bundle : result.allocation) {
    CHECK(bundle.cache() == Approx(0.5).margin(1e-6));
    CHECK(bundle.bandwidth() == Approx(0.5).margin(1e-6));
  }
}

TEST_CASE("weights are money", "[arbiter]") {
  Rig rig({CobbDouglas(0.5), CobbDouglas(0.5)});
  rig.tenants[0].weight = 3;
  const Auctioned result = rig.Run();
  CHECK(result.equilibrium);
  CHECK(result.allocation[0].cache() == Approx(0.75).margin(1e-6));
  CHECK(result.allocation[0].bandwidth() == Approx(0.75).margin(1e-6));
}

TEST_CASE("bounds hold, and what a maximum leaves goes to the others", "[arbiter]") {
  Rig rig({CobbDouglas(0.9), CobbDouglas(0.9), CobbDouglas(0.1)});
  rig.tenants[0].bounds.maximum = Shares(0.2, 0.4);
  rig.tenants[2].bounds.minimum = Shares(0.25, 0.1);
  const Auctioned result = rig.Run();
  const Properties properties = PropertiesOf(rig.tenants, result.allocation);
  CHECK(properties.feasible);
  CHECK(properties.full >= 0.999);
  CHECK(result.allocation[0].cache() <= 0.2 + 1e-12);
  CHECK(result.allocation[2].cache() >= 0.25 - 1e-12);
  CHECK(result.allocation[1].cache() >= 0.5);
}

TEST_CASE("a sated tenant's money is spent by the others", "[arbiter]") {
  Rig rig({CobbDouglas(0.4), CobbDouglas(0.6)});
  rig.AddFunction([](double c, double b) { return std::min({c, b, 0.01}); });
  const Auctioned result = rig.Run();
  CheckSound(rig, result);
  CHECK(result.equilibrium);
  CHECK(result.allocation[0].bandwidth() + result.allocation[1].bandwidth() >= 0.98);
  CHECK(PropertiesOf(rig.tenants, result.allocation).envy <= 1.001);
}

TEST_CASE("what cannot be served is refused with the reason", "[arbiter]") {
  const auto message = [](const Rig& rig, const AuctionOptions& options = {}) {
    const auto result = Auction(rig.tenants, options);
    REQUIRE_FALSE(result.ok());
    return std::string(result.status().message());
  };
  using Catch::Contains;
  CHECK_THAT(message(Rig()), Contains("no tenants"));
  Rig rig({CobbDouglas(0.5), CobbDouglas(0.5)});
  CHECK_THAT(message(rig, {.quantum = 0.6}), Contains("2 tenants") && Contains("quantum"));
  rig.tenants[0].bounds.minimum = Shares(0.7, 0);
  rig.tenants[1].bounds.minimum = Shares(0.7, 0);
  CHECK_THAT(message(rig), Contains("minimums") && Contains("1.4") && Contains("cache"));
  rig.tenants[1].bounds = {Shares(0.5, 0), Shares(0.4, 1)};
  CHECK_THAT(message(rig), Contains("0.5 to 0.4 of tenant 1"));
  rig.tenants[1].bounds = {};
  for (const double weight : {0.0, -1.0, std::nan(""), HUGE_VAL}) {
    rig.tenants[1].weight = weight;
    CHECK_THAT(message(rig), Contains("weight") && Contains("tenant 1"));
  }
}

TEST_CASE("nonsense is worth nothing, and hurts nobody else", "[arbiter]") {
  const double kNan = std::numeric_limits<double>::quiet_NaN();
  Rig rig({CobbDouglas(0.3), CobbDouglas(0.7)});
  rig.AddFunction([&](double, double) { return kNan; });
  rig.AddFunction([](double, double) { return -1.0; });
  rig.AddFunction([](double, double) { return 0.0; });
  rig.AddFunction([](double, double) { return 1e308; });
  rig.AddFunction([](double, double) { return HUGE_VAL; });
  rig.AddFunction([](double c, double b) { return 1e-300 * c * b; });
  rig.AddFunction([](double c, double b) { return c > 0.2 ? std::nan("") : b; });
  rig.AddFunction([](double c, double b) { return std::sin(40 * c) * std::cos(30 * b); });
  rig.Add(MonotoneUtility([](double c, double b) { return std::sin(40 * c) + b; }));
  rig.tenants.push_back(Tenant{});  // No utility at all.
  const Auctioned result = rig.Run();
  double cache = 0;
  double bandwidth = 0;
  for (const Shares& bundle : result.allocation) {
    CHECK(bundle.cache() >= 0);
    CHECK(bundle.bandwidth() >= 0);
    cache += bundle.cache();
    bandwidth += bundle.bandwidth();
  }
  CHECK(cache == Approx(1).margin(1e-9));
  CHECK(bandwidth == Approx(1).margin(1e-9));
  for (const size_t i : {0u, 1u}) {
    const double due = 1.0 / 12;
    CHECK(rig.tenants[i].utility->At(result.allocation[i].first(2)) >=
          rig.tenants[i].utility->At(due, due) * (1 - 1e-6));
  }
}

TEST_CASE("last prices save most of the rounds", "[arbiter]") {
  const Rig rig({CobbDouglas(0.2), CobbDouglas(0.55), CobbDouglas(0.9), Leontief(0.4, 0.6)});
  const Auctioned cold = rig.Run();
  const Auctioned warm = rig.Run({.last_prices = cold.prices});
  CHECK(warm.equilibrium);
  CHECK(warm.rounds <= 5);
  CHECK(warm.rounds < cold.rounds);
  CHECK(warm.prices.cache == Approx(cold.prices.cache).margin(1e-6));

  // And where tastes have changed a little.
  const Rig later({CobbDouglas(0.21), CobbDouglas(0.54), CobbDouglas(0.91), Leontief(0.4, 0.6)});
  const Auctioned next = later.Run({.last_prices = cold.prices});
  CHECK(next.equilibrium);
  CHECK(next.rounds <= 8);
  CHECK(next.prices.cache == Approx(later.Run().prices.cache).margin(1e-6));
}

}  // namespace
}  // namespace spiritos
