// SPDX-License-Identifier: Apache-2.0
// Random markets: draws the parameters of each family.
#include "test/arbiter/random_market.h"

#include <algorithm>
#include <cmath>

namespace spiritos {
namespace {

using Random = std::mt19937_64;

double Even(Random& random, double from, double to) {
  return from + (to - from) * (static_cast<double>(random() >> 11) * 0x1p-53);
}
double Log(Random& random, double from, double to) {
  return std::exp(Even(random, std::log(from), std::log(to)));
}

MissRatio RandomMisses(Random& random, double share, MissRatio::Shape shape) {
  MissRatio misses{.shape = shape};
  misses.m0 = Log(random, 1e-3, 0.1);
  misses.m1 = misses.m0 * Even(random, 0, 0.1);
  misses.s = share * Log(random, 0.1, 2);
  misses.a = Even(random, 0.5, 2);
  misses.r = Even(random, 0.2, 0.9);
  misses.k = share * Even(random, 0.3, 3);
  misses.w = misses.k * Log(random, 0.01, 0.1);
  if (shape == MissRatio::Shape::kKnee) misses.m0 = Log(random, 0.01, 0.1);
  return misses;
}

}  // namespace

std::string_view NameOf(Family family) {
  constexpr std::string_view kNames[] = {"cobb_douglas", "leontief", "linear",
                                         "max",          "quad",     "servers",
                                         "cliffs",       "roofline", "everything"};
  return kNames[static_cast<size_t>(family)];
}

UtilitySpec RandomSpec(Family family, size_t tenants, Random& random) {
  using Kind = UtilitySpec::Kind;
  using Shape = MissRatio::Shape;
  constexpr Shape kShapes[] = {Shape::kExp, Shape::kPower, Shape::kLinear, Shape::kKnee};
  const double share = 1 / static_cast<double>(tenants);
  UtilitySpec spec;
  switch (family) {
    case Family::kCobbDouglas:
      spec.kind = Kind::kCobbDouglas;
      spec.cache = Even(random, 0.05, 0.95);
      break;
    case Family::kLeontief:
      spec.kind = Kind::kLeontief;
      spec.cache = Even(random, 0.05, 0.95);
      spec.bandwidth = 1 - spec.cache;
      break;
    case Family::kLinear:
      spec.kind = Kind::kLinear;
      spec.cache = Even(random, 0, 1);
      spec.bandwidth = Even(random, 0, 1);
      break;
    case Family::kMax:
      spec.kind = Kind::kMax;
      break;
    case Family::kQuadAndLinear:
      spec.kind = random() % 2 == 0 ? Kind::kQuad : Kind::kLinear;
      spec.cache = Even(random, 0, 1);
      spec.bandwidth = Even(random, 0, 1);
      break;
    case Family::kServers:
      spec.kind = Kind::kClosedLoop;
      spec.gamma = 100;
      spec.kappa = share * Log(random, 10, 500);
      spec.misses = RandomMisses(random, share, kShapes[random() % 3]);
      break;
    case Family::kCliffs:
      spec.kind = Kind::kClosedLoop;
      spec.gamma = 100;
      spec.kappa = share * Log(random, 10, 500);
      spec.misses = RandomMisses(random, share, Shape::kKnee);
      break;
    case Family::kRoofline:
      spec.kind = Kind::kRoofline;
      spec.q = 1;
      spec.kappa = Log(random, 10, 100) / share;
      spec.misses = RandomMisses(random, share, kShapes[random() % 4]);
      break;
    case Family::kEverything: {
      const auto other = static_cast<Family>(random() % static_cast<size_t>(Family::kEverything));
      return RandomSpec(other, tenants, random);
    }
  }
  return spec;
}

RandomMarket MakeRandomMarket(Family family, const MarketShape& shape, Random& random) {
  RandomMarket market;
  const double share = 1 / static_cast<double>(shape.tenants);
  double least_weight = 1;
  double weights = 0;
  for (size_t i = 0; i < shape.tenants; ++i) {
    const UtilitySpec spec = RandomSpec(family, shape.tenants, random);
    market.specs.push_back(spec);
    market.utilities.push_back(std::make_unique<ParametricUtility>(spec));
    Tenant tenant{market.utilities.back().get(), 1, {}};
    if (shape.weighted) tenant.weight = static_cast<double>(1 + random() % 4) / 4;
    least_weight = std::min(least_weight, tenant.weight);
    weights += tenant.weight;
    market.tenants.push_back(tenant);
  }
  for (Tenant& tenant : market.tenants) {
    if (shape.cap > 1) tenant.bounds.maximum = Shares::Same(std::min(1.0, shape.cap * share));
    tenant.bounds.minimum = Shares::Same(shape.minimum * least_weight / weights);
  }
  return market;
}

}  // namespace spiritos
