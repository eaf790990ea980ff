// SPDX-License-Identifier: Apache-2.0
// Random markets of known families, for tests and benchmarks of the auction.
//
// Parameters scale with the number of tenants, so that equal shares are where utilities are
// interesting: a working set is a few equal shares of cache.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <random>
#include <string_view>
#include <vector>

#include "arbiter/fill.h"
#include "arbiter/utility_kinds.h"

namespace spiritos {

enum class Family {
  kCobbDouglas,
  kLeontief,
  kLinear,
  kMax,
  kQuadAndLinear,
  kServers,  // Closed loops: streams, key-value stores, inference, feeds.
  kCliffs,   // Closed loops with working sets.
  kRoofline,
  kEverything,
};
inline constexpr std::array kFamilies = {
    Family::kCobbDouglas, Family::kLeontief,      Family::kLinear,
    Family::kMax,         Family::kQuadAndLinear, Family::kServers,
    Family::kCliffs,      Family::kRoofline,      Family::kEverything};
std::string_view NameOf(Family family);

struct RandomMarket {
  std::vector<std::unique_ptr<Utility>> utilities;
  std::vector<UtilitySpec> specs;
  std::vector<Tenant> tenants;
};

struct MarketShape {
  size_t tenants = 6;
  bool weighted = false;
  double cap = 1;      // Maximum of both resources, times the equal share if above 1.
  double minimum = 0;  // Of the equal share.
};

UtilitySpec RandomSpec(Family family, size_t tenants, std::mt19937_64& random);
RandomMarket MakeRandomMarket(Family family, const MarketShape& shape, std::mt19937_64& random);

}  // namespace spiritos
