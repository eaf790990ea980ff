// SPDX-License-Identifier: Apache-2.0
// Shrinks, hands out, and computes entitlements and what is gained over them.
#include "arbiter/fill.h"

#include <algorithm>
#include <cmath>
#include <queue>
#include <vector>

namespace spiritos {
namespace {

constexpr double kTrifle = 1e-6;  // Of the supply.
constexpr int kPortions = 64;     // Of what is left over.
constexpr double kNoise = 1e-12;  // A relative gain below is none.

double Total(std::span<const Shares> allocation, size_t resource) {
  double total = 0;
  for (const Shares& shares : allocation) total += shares[resource];
  return total;
}

void Shrink(std::span<const Tenant> tenants, double supply, size_t resource,
            std::span<Shares> allocation) {
  double least = 0;
  for (const Tenant& tenant : tenants) least += tenant.bounds.minimum[resource];
  const double total = Total(allocation, resource);
  if (total <= supply) return;
  const double keep = total > least ? std::max(0.0, supply - least) / (total - least) : 1;
  for (size_t i = 0; i < tenants.size(); ++i) {
    const double minimum = tenants[i].bounds.minimum[resource];
    double& share = allocation[i][resource];
    share = std::max(minimum, minimum + (share - minimum) * keep);
  }
}

// Adds what is left in proportion to `weight_of`, around those that reach their maximum.
template <typename WeightOf>
void AddInProportion(std::span<const Tenant> tenants, double supply, size_t resource,
                     std::span<Shares> allocation, const WeightOf& weight_of) {
  for (size_t round = 0; round < tenants.size() + 1; ++round) {
    const double left = supply - Total(allocation, resource);
    if (left <= 1e-15) return;
    double weights = 0;
    for (size_t i = 0; i < tenants.size(); ++i) {
      if (allocation[i][resource] < tenants[i].bounds.maximum[resource]) weights += weight_of(i);
    }
    if (!(weights > 0)) return;
    bool capped = false;
    for (size_t i = 0; i < tenants.size(); ++i) {
      double& share = allocation[i][resource];
      const double maximum = tenants[i].bounds.maximum[resource];
      if (share >= maximum) continue;
      share += left * weight_of(i) / weights;
      if (share >= maximum) {
        share = maximum;
        capped = true;
      }
    }
    if (!capped) return;
  }
}

void AddWhereItGains(std::span<const Tenant> tenants, double supply, size_t resource,
                     size_t resources, std::span<Shares> allocation) {
  double left = supply - Total(allocation, resource);
  const double portion = left / kPortions;
  const auto gain = [&](size_t i, double more) {
    const Tenant& tenant = tenants[i];
    if (tenant.utility == nullptr || !(more > 0)) return 0.0;
    Shares with = allocation[i];
    const double has = tenant.utility->At(with.first(resources));
    with[resource] += more;
    const double gets = tenant.utility->At(with.first(resources));
    return gets > has * (1 + kNoise) ? (gets - has) / std::max(has, 1e-12 * gets) / more : 0;
  };
  const auto room = [&](size_t i) {
    return std::min({portion, left, tenants[i].bounds.maximum[resource] - allocation[i][resource]});
  };
  using Entry = std::pair<double, size_t>;
  std::priority_queue<Entry> queue;
  for (size_t i = 0; i < tenants.size(); ++i) {
    if (const double per_share = gain(i, room(i)); per_share > 0) queue.emplace(per_share, i);
  }
  while (!queue.empty() && left > 0) {
    const size_t i = queue.top().second;
    queue.pop();
    const double more = room(i);
    const double now = gain(i, more);
    if (!(now > 0)) continue;
    if (!queue.empty() && now < queue.top().first) {
      queue.emplace(now, i);
      continue;
    }
    allocation[i][resource] += more;
    left -= more;
    if (const double next = gain(i, room(i)); next > 0) queue.emplace(next, i);
  }
}

}  // namespace

void Fill(std::span<const Tenant> tenants, const Shares& supply, size_t resources,
          std::span<Shares> allocation) {
  for (size_t r = 0; r < resources; ++r) {
    for (size_t i = 0; i < tenants.size(); ++i) {
      const Bounds& bounds = tenants[i].bounds;
      double& share = allocation[i][r];
      share = share > bounds.minimum[r] ? std::min(share, bounds.maximum[r]) : bounds.minimum[r];
    }
    Shrink(tenants, supply[r], r, allocation);
    if (supply[r] - Total(allocation, r) <= kTrifle * supply[r]) {
      AddInProportion(tenants, supply[r], r, allocation,
                      [&](size_t i) { return allocation[i][r]; });
    } else {
      AddWhereItGains(tenants, supply[r], r, resources, allocation);
    }
    AddInProportion(tenants, supply[r], r, allocation, [&](size_t i) { return tenants[i].weight; });
  }
}

Allocation Entitlements(std::span<const Tenant> tenants, size_t resources) {
  double weights = 0;
  for (const Tenant& tenant : tenants) weights += tenant.weight;
  Allocation entitled(tenants.size());
  for (size_t r = 0; r < resources; ++r) {
    const auto total_at = [&](double level) {
      double total = 0;
      for (size_t i = 0; i < tenants.size(); ++i) {
        const Bounds& bounds = tenants[i].bounds;
        entitled[i][r] =
            std::clamp(level * tenants[i].weight / weights, bounds.minimum[r], bounds.maximum[r]);
        total += entitled[i][r];
      }
      return total;
    };
    const double as_it_is = total_at(1);
    if (std::abs(as_it_is - 1) <= 1e-9) continue;
    double low = 0;
    double high = 1;
    if (as_it_is < 1) {
      while (total_at(high) < 1 && high < 1e12) high *= 4;
    }
    for (int round = 0; round < 100; ++round) {
      const double level = (low + high) / 2;
      (total_at(level) > 1 ? high : low) = level;
    }
    total_at(low);
  }
  return entitled;
}

std::optional<double> MeanLogGain(std::span<const Tenant> tenants, std::span<const Shares> entitled,
                                  std::span<const Shares> allocation) {
  double sum = 0;
  for (size_t i = 0; i < tenants.size(); ++i) {
    const double due = tenants[i].UtilityOf(entitled[i]);
    const double has = tenants[i].UtilityOf(allocation[i]);
    if (has < due * (1 - kFairMargin)) return std::nullopt;
    if (has > 0 && due > 0) sum += std::log(has / due);
  }
  return sum / static_cast<double>(std::max<size_t>(tenants.size(), 1));
}

}  // namespace spiritos
