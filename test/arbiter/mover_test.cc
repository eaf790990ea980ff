// SPDX-License-Identifier: Apache-2.0
// Steps, and tenants that come and go while steps are taken.
#include "arbiter/mover.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "arbiter/auction.h"
#include "test/arbiter/properties.h"
#include "test/arbiter/random_market.h"

namespace spiritos {
namespace {

constexpr size_t kTenants = 8;
constexpr int kEpochs = 120;

struct Outcome {
  double gain = 0;       // Mean over epochs of the geometric mean's gain, net of moving,
  double ideal = 0;      // and what the auction's allocations would gain at once, for free.
  double sharing = 1e9;  // The least of all epochs.
  double moved = 0;      // Share of all cache in a mean epoch.
};

// Every `period` epochs one tenant, in turn, is replaced by another.
Outcome Churn(Family family, int period, uint64_t seed, const MoveOptions& options) {
  std::mt19937_64 random(seed);
  RandomMarket market = MakeRandomMarket(family, {.tenants = kTenants}, random);
  Allocation held = Entitlements(market.tenants, 2);
  Outcome outcome;
  Allocation target;
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    if (epoch % period == 0) {
      const size_t leaver = static_cast<size_t>(epoch / period) % kTenants;
      market.utilities[leaver] =
          std::make_unique<ParametricUtility>(RandomSpec(family, kTenants, random));
      market.tenants[leaver].utility = market.utilities[leaver].get();
      held[leaver] = Shares();
      target = Auction(market.tenants).value().allocation;
    }
    const Allocation entitled = Entitlements(market.tenants, 2);
    Moved step = Move(market.tenants, entitled, held, target, options);
    held = std::move(step.allocation);
    const Properties properties = PropertiesOf(market.tenants, held, 0);
    REQUIRE(properties.feasible);
    REQUIRE(properties.full >= 0.999);
    outcome.sharing = std::min(outcome.sharing, properties.sharing);
    const double waits = step.moved * options.full_move_epochs;
    outcome.gain += (properties.gain * (1 - waits) - 1) / kEpochs;
    outcome.ideal += (PropertiesOf(market.tenants, target, 0).gain - 1) / kEpochs;
    outcome.moved += step.moved / kEpochs;
  }
  return outcome;
}

Outcome ChurnMany(int period, const MoveOptions& options) {
  Outcome total;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    for (const Family family : kFamilies) {
      const Outcome one = Churn(family, period, seed, options);
      INFO("seed " << seed << ", " << NameOf(family));
      CHECK(one.sharing >= 0.99);
      total.sharing = std::min(total.sharing, one.sharing);
      total.gain += one.gain;
      total.ideal += one.ideal;
      total.moved += one.moved / (4 * kFamilies.size());
    }
  }
  return total;
}

TEST_CASE("tenants that change every ten epochs keep nine tenths of the gain", "[arbiter]") {
  MoveOptions free_moves;
  free_moves.full_move_epochs = 0;
  const Outcome total = ChurnMany(10, free_moves);
  INFO("seeds 1 to 4; share of the gain " << total.gain / total.ideal << ", least sharing "
                                          << total.sharing << ", moved " << total.moved);
  CHECK(total.gain >= 0.9 * total.ideal);
  const Outcome paid = ChurnMany(10, {});
  INFO("with moving paid for: " << paid.gain / paid.ideal << ", moved " << paid.moved);
  CHECK(paid.gain >= 0.85 * paid.ideal);
}

TEST_CASE("tenants that change every two epochs keep three quarters of the gain", "[arbiter]") {
  MoveOptions free_moves;
  free_moves.full_move_epochs = 0;
  free_moves.horizon_epochs = 2;
  const Outcome total = ChurnMany(2, free_moves);
  INFO("seeds 1 to 4; share of the gain " << total.gain / total.ideal << ", least sharing "
                                          << total.sharing << ", moved " << total.moved);
  CHECK(total.gain >= 0.75 * total.ideal);
}

class Pair {
 public:
  Pair() : market_(MakeMarket()) {}
  std::vector<Tenant>& tenants() { return market_.tenants; }
  Allocation entitled() { return Entitlements(tenants(), 2); }

 private:
  static RandomMarket MakeMarket() {
    RandomMarket market;
    for (const double taste : {0.2, 0.8}) {
      const UtilitySpec spec{.kind = UtilitySpec::Kind::kCobbDouglas, .cache = taste};
      market.utilities.push_back(std::make_unique<ParametricUtility>(spec));
      market.tenants.push_back(Tenant{market.utilities.back().get(), 1, {}});
    }
    return market;
  }
  RandomMarket market_;
};

TEST_CASE("a step moves no more cache than the rate allows, and arrives", "[arbiter]") {
  Pair pair;
  const Allocation target = Auction(pair.tenants()).value().allocation;
  Allocation held = pair.entitled();
  const MoveOptions options{.most_moved = 0.1};
  int steps = 0;
  for (bool arrived = false; !arrived; ++steps) {
    REQUIRE(steps < 10);
    const Moved step = Move(pair.tenants(), pair.entitled(), held, target, options);
    CHECK(step.moved <= 0.1 + 1e-12);
    CHECK_FALSE(step.beyond_rate);
    held = step.allocation;
    arrived = step.arrived;
  }
  CHECK(steps == 3);  // 0.3 of the cache.
  CHECK(held[0].cache() == Approx(target[0].cache()).margin(1e-9));
}

TEST_CASE("what costs more than it gains is not moved", "[arbiter]") {
  Pair pair;
  const Allocation target = Auction(pair.tenants()).value().allocation;
  const Allocation held = pair.entitled();
  const MoveOptions dear{.full_move_epochs = 100, .horizon_epochs = 1};
  const Moved step = Move(pair.tenants(), pair.entitled(), held, target, dear);
  CHECK_FALSE(step.worthwhile);
  CHECK(step.allocation == held);
  CHECK(Move(pair.tenants(), pair.entitled(), held, target).worthwhile);
}

TEST_CASE("a newcomer has its equal share in its first epoch, whatever the rate", "[arbiter]") {
  Pair pair;
  const Allocation target = Auction(pair.tenants()).value().allocation;
  const Allocation held = {Shares(1, 1), Shares()};
  const Moved step = Move(pair.tenants(), pair.entitled(), held, target, {.most_moved = 0.01});
  const Utility& newcomer = *pair.tenants()[1].utility;
  CHECK(newcomer.At(step.allocation[1].first(2)) >= newcomer.At(0.5, 0.5) * (1 - 1e-6));
}

}  // namespace
}  // namespace spiritos
