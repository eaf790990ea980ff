// SPDX-License-Identifier: Apache-2.0
// Markets of linear tenants, checked by a linear programme solver that knows nothing of
// auctions (GLPK). By duality prices p are those of an equilibrium if and only if
//
//   each tenant has what a linear programme says is best at p for its money, and
//   the allocation is a best one for the weights money_i / utility_i: a linear programme
//   whose dual prices are p (the Eisenberg-Gale conditions).
#include <glpk.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "arbiter/auction.h"
#include "test/arbiter/random_market.h"

namespace spiritos {
namespace {

class LinearProgram {
 public:
  LinearProgram() : problem_(glp_create_prob()) { glp_set_obj_dir(problem_, GLP_MAX); }
  LinearProgram(const LinearProgram&) = delete;
  LinearProgram& operator=(const LinearProgram&) = delete;
  ~LinearProgram() { glp_delete_prob(problem_); }

  int AddAtMost(double most) {
    const int row = glp_add_rows(problem_, 1);
    glp_set_row_bnds(problem_, row, GLP_UP, 0, most);
    return row;
  }
  // A variable from 0 to 1 with its worth, and its cost in rows.
  int AddVariable(double worth, const std::vector<std::pair<int, double>>& costs) {
    const int column = glp_add_cols(problem_, 1);
    glp_set_col_bnds(problem_, column, GLP_LO, 0, 0);
    glp_set_obj_coef(problem_, column, worth);
    std::vector<int> rows = {0};  // Its arrays begin at 1.
    std::vector<double> values = {0};
    for (const auto& [row, value] : costs) {
      rows.push_back(row);
      values.push_back(value);
    }
    glp_set_mat_col(problem_, column, static_cast<int>(costs.size()), rows.data(), values.data());
    return column;
  }
  double Solve() {
    glp_smcp parameters;
    glp_init_smcp(&parameters);
    parameters.msg_lev = GLP_MSG_OFF;
    REQUIRE(glp_simplex(problem_, &parameters) == 0);
    REQUIRE(glp_get_status(problem_) == GLP_OPT);
    return glp_get_obj_val(problem_);
  }
  double DualOf(int row) const { return glp_get_row_dual(problem_, row); }

 private:
  glp_prob* const problem_;
};

double BestForMoney(const UtilitySpec& spec, double money, const Prices& prices) {
  LinearProgram program;
  const int budget = program.AddAtMost(money);
  const int cache = program.AddAtMost(1);
  const int bandwidth = program.AddAtMost(1);
  program.AddVariable(spec.cache, {{budget, prices.cache}, {cache, 1}});
  program.AddVariable(spec.bandwidth, {{budget, prices.bandwidth}, {bandwidth, 1}});
  return program.Solve();
}

TEST_CASE("linear markets are in equilibrium by linear programming", "[arbiter]") {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    std::mt19937_64 random(seed);
    const MarketShape shape{.tenants = 3 + seed % 20, .weighted = seed % 2 == 0};
    const RandomMarket market = MakeRandomMarket(Family::kLinear, shape, random);
    const Auctioned result = Auction(market.tenants).value();
    INFO("seed " << seed << ", " << shape.tenants << " tenants");
    CHECK(result.equilibrium);
    double weights = 0;
    for (const Tenant& tenant : market.tenants) weights += tenant.weight;

    LinearProgram planner;
    const int cache = planner.AddAtMost(1);
    const int bandwidth = planner.AddAtMost(1);
    double planned = 0;
    for (size_t i = 0; i < shape.tenants; ++i) {
      const double money = market.tenants[i].weight / weights;
      const double has = market.tenants[i].utility->At(result.allocation[i].first(2));
      const double best = BestForMoney(market.specs[i], money, result.prices);
      CHECK(has == Approx(best).epsilon(1e-5));
      planner.AddVariable(market.specs[i].cache * money / has, {{cache, 1}});
      planner.AddVariable(market.specs[i].bandwidth * money / has, {{bandwidth, 1}});
      planned += money;  // (money / has) * has.
    }
    CHECK(planner.Solve() == Approx(planned).epsilon(1e-5));
    CHECK(planner.DualOf(cache) == Approx(result.prices.cache).epsilon(1e-4));
    CHECK(planner.DualOf(bandwidth) == Approx(result.prices.bandwidth).epsilon(1e-4));
  }
}

}  // namespace
}  // namespace spiritos
