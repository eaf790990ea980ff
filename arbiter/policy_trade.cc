// SPDX-License-Identifier: Apache-2.0
// Trade: of those who would gain by a unit of cache for a unit of bandwidth, and of those
// who would gain by the reverse, the two who gain most trade, one pair an epoch.
#include <vector>

#include "arbiter/policy.h"

namespace spiritos {
namespace {

constexpr double kUnit = 1.0 / 200;

class TradePolicy final : public Policy {
 public:
  absl::StatusOr<Allocation> Next(const PolicyInput& input) override {
    const size_t n = input.tenants.size();
    Allocation held(input.held.begin(), input.held.end());
    if (rests_.size() != n) rests_.assign(n, false);
    size_t buyer[] = {n, n};  // Of cache, and of bandwidth.
    double most[] = {0, 0};
    for (size_t i = 0; i < n; ++i) {
      if (rests_[i]) continue;
      const double gain[] = {Gain(input, held[i], i, kCache), Gain(input, held[i], i, kBandwidth)};
      for (const size_t r : {kCache, kBandwidth}) {
        if (gain[r] <= gain[1 - r] || gain[r] <= most[r]) continue;
        most[r] = gain[r];
        buyer[r] = i;
      }
    }
    rests_.assign(n, false);
    if (buyer[kCache] == n || buyer[kBandwidth] == n) return held;
    for (const size_t r : {kCache, kBandwidth}) {
      held[buyer[r]][r] += kUnit;
      held[buyer[r]][1 - r] -= kUnit;
      rests_[buyer[r]] = true;
    }
    return held;
  }

 private:
  // Relative, by one unit more of `wanted` and one less of the other; 0 if it may not.
  static double Gain(const PolicyInput& input, Shares held, size_t i, size_t wanted) {
    const Tenant& tenant = input.tenants[i];
    if (tenant.utility == nullptr) return 0;
    const double has = tenant.utility->At(held.first(2));
    held[wanted] += kUnit;
    held[1 - wanted] -= kUnit;
    if (held[wanted] > tenant.bounds.maximum[wanted]) return 0;
    if (held[1 - wanted] < tenant.bounds.minimum[1 - wanted] || held[1 - wanted] <= 0) return 0;
    const double gets = tenant.utility->At(held.first(2));
    return has > 0 ? gets / has - 1 : 0;
  }

  std::vector<bool> rests_;  // Traded in the last epoch.
};

}  // namespace

std::unique_ptr<Policy> MakeTradePolicy() { return std::make_unique<TradePolicy>(); }

}  // namespace spiritos
