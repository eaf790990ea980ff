// SPDX-License-Identifier: Apache-2.0
// Policies by name, and epochs without a world around them.
#include "arbiter/policy.h"

#include <array>
#include <utility>
#include <vector>

#include "arbiter/auction.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

using Maker = std::unique_ptr<Policy> (*)();
constexpr std::array<std::string_view, 6> kNames = {"auction", "ideal", "equal",
                                                    "harvest", "trade", "released"};
constexpr std::array<Maker, 6> kMakers = {MakeAuctionPolicy, MakeIdealPolicy, MakeEqualPolicy,
                                          MakeHarvestPolicy, MakeTradePolicy, MakeReleasedPolicy};

}  // namespace

std::span<const std::string_view> PolicyNames() { return kNames; }

std::unique_ptr<Policy> MakePolicy(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return kMakers[i]();
  }
  return nullptr;
}

absl::StatusOr<Allocation> RunPolicy(Policy& policy, std::span<const Tenant> tenants, int epochs) {
  SPIRITOS_RETURN_IF_ERROR(CheckTenants(tenants, 2, AuctionOptions().quantum));
  Allocation held = Entitlements(tenants, 2);
  std::vector<double> measured(tenants.size());
  for (int epoch = 0; epoch < epochs; ++epoch) {
    for (size_t i = 0; i < tenants.size(); ++i) {
      const Utility* const utility = tenants[i].utility;
      measured[i] = utility == nullptr ? 0 : utility->At(held[i].first(2));
    }
    SPIRITOS_ASSIGN_OR_RETURN(held, policy.Next({tenants, held, measured, tenants}));
  }
  return held;
}

}  // namespace spiritos
