// SPDX-License-Identifier: Apache-2.0
// Policies: rules by which an allocation follows from the last one, to compare the auction
// with. One epoch is one call of Next().
//
//   auction   this arbiter's: auction.h                                   policy_auction.cc
//   ideal     the auction, told the true utilities
//   equal     everybody's entitlement, for ever (dominant resource        policy_equal.cc
//             fairness where all demand all there is)
//   harvest   one unit an epoch from the best off to the worst off, by    policy_harvest.cc
//             measured performance alone (after PARTIES, ASPLOS'19)
//   trade     one unit for one unit between the two that gain most        policy_trade.cc
//   released  a market like that of Spirit's released code: prices by     policy_released.cc
//             bisection, demand in a window around the present
//
// harvest, trade and released are written from descriptions of the comparison in Spirit
// (SOSP'25, doi 10.1145/3731569.3764805) and of its programs; all know two resources.
//
// Threads: none; a policy belongs to one market, and keeps what it remembers of it.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "arbiter/fill.h"
#include "arbiter/resources.h"

namespace spiritos {

struct PolicyInput {
  std::span<const Tenant> tenants;   // With what their utilities are believed to be.
  std::span<const Shares> held;      // Since the last epoch.
  std::span<const double> measured;  // What they got done with it.
  std::span<const Tenant> oracle;    // With what their utilities are; for `ideal`.
};

class Policy {
 public:
  Policy() = default;
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;
  virtual ~Policy() = default;

  // The next allocation. As many tenants as at first, in the same order.
  virtual absl::StatusOr<Allocation> Next(const PolicyInput& input) = 0;
};

std::unique_ptr<Policy> MakeAuctionPolicy();
std::unique_ptr<Policy> MakeIdealPolicy();
std::unique_ptr<Policy> MakeEqualPolicy();
std::unique_ptr<Policy> MakeHarvestPolicy();
std::unique_ptr<Policy> MakeTradePolicy();
std::unique_ptr<Policy> MakeReleasedPolicy();

std::span<const std::string_view> PolicyNames();
// Null: no such policy.
std::unique_ptr<Policy> MakePolicy(std::string_view name);

// From the equal split on, `epochs` epochs in which utilities are measured as they are.
absl::StatusOr<Allocation> RunPolicy(Policy& policy, std::span<const Tenant> tenants, int epochs);

}  // namespace spiritos
