// SPDX-License-Identifier: Apache-2.0
// Parametric utilities: the formulas.
#include "arbiter/utility_kinds.h"

#include <algorithm>
#include <cmath>

namespace spiritos {
namespace {

constexpr double kLeast = 1e-9;  // Instead of dividing by a share of 0.

}  // namespace

double MissRatio::At(double cache) const noexcept {
  switch (shape) {
    case Shape::kExp:
      return m0 * std::exp(-cache / s) + m1;
    case Shape::kPower:
      return m0 * std::pow(1 + cache / s, -a);
    case Shape::kLinear:
      return m0 * (1 - r * cache);
    case Shape::kKnee:
      return m0 / (1 + std::exp((cache - k) / w)) + m1;
  }
  return 0;
}

double ParametricUtility::Value(std::span<const double> shares) const noexcept {
  const double c = shares[kCache];
  const double b = shares[kBandwidth];
  switch (spec_.kind) {
    case UtilitySpec::Kind::kQuad:
      return c * c / 2 + c * b;
    case UtilitySpec::Kind::kLinear:
      return spec_.cache * c + spec_.bandwidth * b;
    case UtilitySpec::Kind::kCobbDouglas:
      return std::pow(std::max(c, 0.0), spec_.cache) * std::pow(std::max(b, 0.0), 1 - spec_.cache);
    case UtilitySpec::Kind::kLeontief:
      return std::min(c / spec_.cache, b / spec_.bandwidth);
    case UtilitySpec::Kind::kMax:
      return std::max(c, b);
    case UtilitySpec::Kind::kClosedLoop:
      return 1 / (1 + spec_.misses.At(c) * (spec_.gamma + spec_.kappa / std::max(b, kLeast)));
    case UtilitySpec::Kind::kRoofline: {
      const double misses = std::max(spec_.misses.At(c), 1e-12);
      return std::min(spec_.q / (1 + 100 * misses), b / (misses * spec_.kappa));
    }
  }
  return 0;
}

}  // namespace spiritos
