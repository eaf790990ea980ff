// SPDX-License-Identifier: Apache-2.0
// Tries steps along the way.
#include "arbiter/mover.h"

#include <algorithm>
#include <cmath>
#include <optional>

namespace spiritos {
namespace {

constexpr int kTries = 16;

double CacheMoved(std::span<const Shares> from, std::span<const Shares> to) {
  double grown = 0;
  double shrunk = 0;
  for (size_t i = 0; i < from.size(); ++i) {
    const double change = to[i].cache() - from[i].cache();
    (change > 0 ? grown : shrunk) += std::abs(change);
  }
  return std::max(grown, shrunk);
}

// Cache that goes `share` of the way; bandwidth too, so that bundles stay balanced.
Allocation Between(std::span<const Shares> from, std::span<const Shares> to, double share) {
  Allocation between(from.begin(), from.end());
  for (size_t i = 0; i < from.size(); ++i) {
    for (const size_t r : {kCache, kBandwidth}) between[i][r] += (to[i][r] - from[i][r]) * share;
  }
  return between;
}

}  // namespace

Allocation Carry(std::span<const Tenant> tenants, std::span<const Shares> entitled,
                 std::span<const Shares> held) {
  Allocation carried(held.begin(), held.end());
  for (const size_t r : {kCache, kBandwidth}) {
    double theirs = 0;  // What those who were there hold,
    double fresh = 0;   // and what newcomers have to get.
    for (size_t i = 0; i < tenants.size(); ++i) {
      const bool is_new = held[i].cache() + held[i].bandwidth() <= 0;
      (is_new ? fresh : theirs) += is_new ? entitled[i][r] : held[i][r];
    }
    for (size_t i = 0; i < tenants.size(); ++i) {
      const bool is_new = held[i].cache() + held[i].bandwidth() <= 0;
      carried[i][r] = is_new       ? entitled[i][r]
                      : theirs > 0 ? held[i][r] * std::max(0.0, 1 - fresh) / theirs
                                   : 0;
    }
  }
  Fill(tenants, Shares(1, 1), 2, carried);
  return carried;
}

Moved Move(std::span<const Tenant> tenants, std::span<const Shares> entitled,
           std::span<const Shares> held, std::span<const Shares> target,
           const MoveOptions& options) {
  const Allocation base = Carry(tenants, entitled, held);
  const std::optional<double> at_base = MeanLogGain(tenants, entitled, base);
  const double at_target = MeanLogGain(tenants, entitled, target).value_or(0);
  const double distance = CacheMoved(base, target);
  const double already = CacheMoved(held, base);
  const double reach =
      distance > 0 ? std::clamp((options.most_moved - already) / distance, 0.0, 1.0) : 1;
  Moved result;
  const auto finish = [&](Allocation allocation, double share) {
    result.moved = CacheMoved(held, allocation);
    result.arrived = share >= 1;
    result.beyond_rate = share > reach;
    result.allocation = std::move(allocation);
    return result;
  };
  const double gain = (at_target - at_base.value_or(0)) * options.horizon_epochs;
  result.worthwhile = gain > distance * options.full_move_epochs;
  if (at_base.has_value() && !result.worthwhile) return finish(base, 0);
  // As far as the rate allows; else less far, if the base will do, or else further.
  Allocation step = Between(base, target, reach);
  if (MeanLogGain(tenants, entitled, step).has_value()) return finish(std::move(step), reach);
  for (int i = 1; i <= kTries; ++i) {
    const double part = static_cast<double>(i) / kTries;
    const double share = reach + (1 - reach) * part;
    step = Between(base, target, share);
    const std::optional<double> score = MeanLogGain(tenants, entitled, step);
    if (!score.has_value()) continue;
    // Beyond the rate only as far as it pays, if one may stay.
    const double pays = (*score - at_base.value_or(0)) * options.horizon_epochs;
    if (at_base.has_value() && pays <= distance * share * options.full_move_epochs) continue;
    return finish(std::move(step), share);
  }
  if (at_base.has_value()) return finish(base, 0);
  return finish(Allocation(target.begin(), target.end()), 1);
}

}  // namespace spiritos
