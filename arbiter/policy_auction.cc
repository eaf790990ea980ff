// SPDX-License-Identifier: Apache-2.0
// The auction as a policy, with believed and with true utilities.
#include <optional>

#include "arbiter/auction.h"
#include "arbiter/policy.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

class AuctionPolicy final : public Policy {
 public:
  explicit AuctionPolicy(bool is_oracle) : is_oracle_(is_oracle) {}

  absl::StatusOr<Allocation> Next(const PolicyInput& input) override {
    SPIRITOS_ASSIGN_OR_RETURN(Auctioned result, Auction(is_oracle_ ? input.oracle : input.tenants,
                                                        {.last_prices = prices_}));
    // A market without equilibrium is looked at as a whole again.
    prices_ = result.equilibrium ? std::optional(result.prices) : std::nullopt;
    return std::move(result.allocation);
  }

 private:
  const bool is_oracle_;
  std::optional<Prices> prices_;
};

}  // namespace

std::unique_ptr<Policy> MakeAuctionPolicy() { return std::make_unique<AuctionPolicy>(false); }
std::unique_ptr<Policy> MakeIdealPolicy() { return std::make_unique<AuctionPolicy>(true); }

}  // namespace spiritos
