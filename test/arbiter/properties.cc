// SPDX-License-Identifier: Apache-2.0
// Measures, by brute force.
#include "test/arbiter/properties.h"

#include <algorithm>
#include <cmath>

namespace spiritos {
namespace {

double TotalWeight(std::span<const Tenant> tenants) {
  double total = 0;
  for (const Tenant& tenant : tenants) total += tenant.weight;
  return total;
}

// The least bandwidth with which `cache` is worth `goal`, or more than there is.
double BandwidthNeeded(const Tenant& tenant, double cache, double goal) {
  double low = tenant.bounds.minimum.bandwidth();
  double high = tenant.bounds.maximum.bandwidth();
  if (tenant.utility->At(cache, high) < goal) return 9;
  if (tenant.utility->At(cache, low) >= goal) return low;
  for (int round = 0; round < 40; ++round) {
    const double middle = (low + high) / 2;
    (tenant.utility->At(cache, middle) >= goal ? high : low) = middle;
  }
  return high;
}

struct Point {
  double cache;
  double bandwidth;
  double utility;
};

// The best bundle on the budget line of `weight` at the price.
Point BestOnLine(const Tenant& tenant, double weight, double price, int nodes) {
  const Bounds& bounds = tenant.bounds;
  const double from = bounds.minimum.cache();
  const double to =
      std::max(from, std::min(bounds.maximum.cache(),
                              (weight - (1 - price) * bounds.minimum.bandwidth()) / price));
  const auto at = [&](double cache) {
    const double bandwidth = std::clamp((weight - price * cache) / (1 - price),
                                        bounds.minimum.bandwidth(), bounds.maximum.bandwidth());
    return Point{cache, bandwidth, tenant.utility->At(cache, bandwidth)};
  };
  std::vector<Point> points;
  for (int i = 0; i <= nodes; ++i) points.push_back(at(from + (to - from) * i / nodes));
  points.push_back(at(std::clamp(weight, from, to)));
  std::sort(points.begin(), points.end(),
            [](const Point& a, const Point& b) { return a.cache < b.cache; });
  double top = 0;
  for (const Point& point : points) top = std::max(top, point.utility);
  Point best{0, 0, -1};
  for (size_t i = 0; i < points.size(); ++i) {
    if (points[i].utility < 0.9 * top) continue;
    if (i > 0 && points[i - 1].utility > points[i].utility) continue;
    if (i + 1 < points.size() && points[i + 1].utility > points[i].utility) continue;
    double low = points[i > 0 ? i - 1 : i].cache;
    double high = points[i + 1 < points.size() ? i + 1 : i].cache;
    Point here = points[i];
    for (int round = 0; round < 60; ++round) {
      const Point a = at(high - 0.6180339887498949 * (high - low));
      const Point b = at(low + 0.6180339887498949 * (high - low));
      if (a.utility >= b.utility) {
        high = b.cache;
      } else {
        low = a.cache;
      }
      if (a.utility > here.utility) here = a;
      if (b.utility > here.utility) here = b;
    }
    if (here.utility > best.utility) best = here;
  }
  return best;
}

}  // namespace

Properties PropertiesOf(std::span<const Tenant> tenants, std::span<const Shares> allocation,
                        size_t most_for_envy) {
  Properties properties;
  const double weights = TotalWeight(tenants);
  double log_gain = 0;
  for (size_t i = 0; i < tenants.size(); ++i) {
    const double due = tenants[i].weight / weights;
    const double has = tenants[i].utility->At(allocation[i].cache(), allocation[i].bandwidth());
    const double entitled = tenants[i].utility->At(due, due);
    const double ratio = entitled > 0 ? has / entitled : 1;
    properties.sharing = std::min(properties.sharing, ratio);
    log_gain += std::log(ratio);
    for (const size_t r : {kCache, kBandwidth}) {
      if (!(allocation[i][r] >= tenants[i].bounds.minimum[r] - 1e-12 &&
            allocation[i][r] <= tenants[i].bounds.maximum[r] + 1e-12)) {
        properties.feasible = false;
      }
    }
    if (tenants.size() > most_for_envy) continue;
    for (size_t j = 0; j < tenants.size(); ++j) {
      const double scale = tenants[i].weight / tenants[j].weight;
      if (allocation[j].cache() * scale < tenants[i].bounds.minimum.cache() ||
          allocation[j].bandwidth() * scale < tenants[i].bounds.minimum.bandwidth()) {
        continue;  // Nothing that i may hold.
      }
      const double other = tenants[i].utility->At(
          std::min(allocation[j].cache() * scale, tenants[i].bounds.maximum.cache()),
          std::min(allocation[j].bandwidth() * scale, tenants[i].bounds.maximum.bandwidth()));
      if (has > 0) properties.envy = std::max(properties.envy, other / has);
    }
  }
  properties.gain = std::exp(log_gain / static_cast<double>(tenants.size()));
  for (const size_t r : {kCache, kBandwidth}) {
    double total = 0;
    bool capped = true;
    for (size_t i = 0; i < tenants.size(); ++i) {
      total += allocation[i][r];
      capped = capped && allocation[i][r] >= tenants[i].bounds.maximum[r] - 1e-9;
    }
    if (!(total <= 1 + 1e-9)) properties.feasible = false;
    if (!capped) properties.full = std::min(properties.full, total);
  }
  return properties;
}

double ParetoBound(std::span<const Tenant> tenants, std::span<const Shares> allocation,
                   double cache_price) {
  const double price = std::clamp(cache_price, 1e-9, 1 - 1e-9);
  const auto cost_of = [&](double factor) {
    double cost = 0;
    for (size_t i = 0; i < tenants.size(); ++i) {
      const Tenant& tenant = tenants[i];
      const double goal =
          factor * tenant.utility->At(allocation[i].cache(), allocation[i].bandwidth());
      // Around what it has densely, and elsewhere: all that is too small a cost is a bound
      // that is too large.
      double least = 9;
      const double most = tenant.bounds.maximum.cache();
      for (int k = 0; k <= 600; ++k) {
        const double t = k / 600.0;
        const double cache = k <= 300 ? std::min(most, allocation[i].cache() * (t * 4))
                                      : most * std::pow(t * 2 - 1, 3);
        least = std::min(least, price * cache + (1 - price) * BandwidthNeeded(tenant, cache, goal));
      }
      cost += least;
    }
    return cost;
  };
  double low = 1;
  double high = 1 + 1e-3;
  while (high < 3 && cost_of(high) <= 1) high = 1 + (high - 1) * 1.5;
  for (int round = 0; round < 5; ++round) {
    const double middle = (low + high) / 2;
    (cost_of(middle) <= 1 ? low : high) = middle;
  }
  return high - 1;
}

double ParetoSlack(std::span<const Tenant> tenants, std::span<const Shares> allocation, int cells) {
  const auto side = static_cast<size_t>(cells) + 1;
  const auto possible = [&](double factor) {
    std::vector<double> used(side, 0);  // The least bandwidth, by cache spent so far.
    for (size_t i = 0; i < tenants.size(); ++i) {
      const double goal =
          factor * tenants[i].utility->At(allocation[i].cache(), allocation[i].bandwidth());
      std::vector<double> next(side, 9);
      double cheapest = 9;
      for (size_t k = 0; k < side; ++k) {
        const double cache = static_cast<double>(k) / cells;
        if (cache < tenants[i].bounds.minimum.cache() - 1e-9) continue;
        if (cache > tenants[i].bounds.maximum.cache() + 1e-9) break;
        const double needs = BandwidthNeeded(tenants[i], cache, goal);
        if (needs >= cheapest - 1e-12) continue;
        cheapest = needs;
        for (size_t j = k; j < side; ++j) next[j] = std::min(next[j], used[j - k] + needs);
      }
      if (next.back() > 1 + 1e-9) return false;
      used = std::move(next);
    }
    return true;
  };
  double low = 1;
  double high = 1.004;
  while (high < 60 && possible(high)) high = 1 + (high - 1) * 2;
  for (int round = 0; round < 6; ++round) {
    const double middle = (low + high) / 2;
    (possible(middle) ? low : high) = middle;
  }
  return low - 1;
}

ReferenceEquilibrium FindReference(std::span<const Tenant> tenants, int nodes) {
  const double weights = TotalWeight(tenants);
  ReferenceEquilibrium reference;
  double low = -14;
  double high = 14;
  double cache = 0;
  double bandwidth = 0;
  for (int round = 0; round < 50; ++round) {
    const double price = 1 / (1 + std::exp(-(low + high) / 2));
    reference.cache_price = price;
    reference.allocation.clear();
    cache = bandwidth = 0;
    for (const Tenant& tenant : tenants) {
      const Point best = BestOnLine(tenant, tenant.weight / weights, price, nodes);
      reference.allocation.emplace_back(best.cache, best.bandwidth);
      cache += best.cache;
      bandwidth += best.bandwidth;
    }
    (price * (cache - 1) > (1 - price) * (bandwidth - 1) ? low : high) = (low + high) / 2;
  }
  reference.exists = std::abs(cache - 1) < 1e-4 && std::abs(bandwidth - 1) < 1e-4;
  return reference;
}

}  // namespace spiritos
