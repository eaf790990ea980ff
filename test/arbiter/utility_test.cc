// SPDX-License-Identifier: Apache-2.0
// Tables, and what is done to values that no utility has.
#include "arbiter/utility.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "arbiter/auction.h"
#include "arbiter/utility_kinds.h"

namespace spiritos {
namespace {

const double kNan = std::numeric_limits<double>::quiet_NaN();

TEST_CASE("a table is interpolated between its knots and flat beyond them", "[arbiter]") {
  const TableUtility table({0, 0.5, 2}, {0, 1}, {0, 1, 2, 3, 4, 5});
  CHECK(table.At(0, 0) == 0);
  CHECK(table.At(0.5, 1) == 3);
  CHECK(table.At(0.25, 0.5) == Approx(1.5));
  CHECK(table.At(1.25, 0.5) == Approx(3.5));
  CHECK(table.At(9, 9) == 5);
  CHECK(table.At(-1, kNan) == 0);
}

TEST_CASE("a table that falls, is negative or no number is made monotone", "[arbiter]") {
  std::vector<double> values = {kNan, -1, 0.5, 3, 2, HUGE_VAL, 1, 0, 4};
  MonotoneTable(values, 3);
  CHECK(values == std::vector<double>{0, 0, 0.5, 3, 3, kMostUtility, 3, 3, kMostUtility});
}

TEST_CASE("a function that falls becomes a table, and others are kept as they are", "[arbiter]") {
  const auto humped =
      MonotoneUtility([](double c, double b) { return c < 0.1 ? 10 * c : 0.1 * b; });
  double last = 0;
  for (int i = 0; i <= 100; ++i) {
    const double value = humped->At(i / 100.0, 0.5);
    CHECK(value >= last);
    last = value;
  }
  CHECK(last >= 0.8);
  const auto straight = MonotoneUtility([](double c, double b) { return 2 * c + b; });
  CHECK(straight->At(0.123456789, 0) == 2 * 0.123456789);
}

TEST_CASE("a market of tables comes close to the market of what they were made from", "[arbiter]") {
  constexpr size_t kSide = 41;
  std::vector<std::unique_ptr<Utility>> exact;
  std::vector<std::unique_ptr<Utility>> tabled;
  std::vector<Tenant> exact_tenants;
  std::vector<Tenant> tabled_tenants;
  for (const double taste : {0.3, 0.5, 0.6}) {
    const UtilitySpec spec{.kind = UtilitySpec::Kind::kCobbDouglas, .cache = taste};
    exact.push_back(std::make_unique<ParametricUtility>(spec));
    std::vector<double> values;
    for (size_t i = 0; i < kSide * kSide; ++i) {
      values.push_back(exact.back()->At(static_cast<double>(i / kSide) / (kSide - 1),
                                        static_cast<double>(i % kSide) / (kSide - 1)));
    }
    tabled.push_back(std::make_unique<TableUtility>(kSide, std::move(values)));
    exact_tenants.push_back(Tenant{exact.back().get(), 1, {}});
    tabled_tenants.push_back(Tenant{tabled.back().get(), 1, {}});
  }
  const Allocation wanted = Auction(exact_tenants).value().allocation;
  const Allocation got = Auction(tabled_tenants).value().allocation;
  for (size_t i = 0; i < 3; ++i) {
    const double worth = exact[i]->At(got[i].first(2));
    CHECK(worth >= 0.98 * exact[i]->At(wanted[i].first(2)));
    CHECK(worth >= 0.999 * exact[i]->At(1.0 / 3, 1.0 / 3));
  }
}

}  // namespace
}  // namespace spiritos
