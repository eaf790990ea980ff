// SPDX-License-Identifier: Apache-2.0
// Interpolates tables, and makes them monotone.
#include "arbiter/utility.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "libos/base/check.h"

namespace spiritos {
namespace {

// Where `at` lies among `knots`: the knot before it and how far it is to the next.
struct Place {
  size_t index;
  double fraction;
};
Place Find(const std::vector<double>& knots, double at) {
  if (!(at > knots.front())) return {0, 0};  // Also NaN.
  if (at >= knots.back()) return {knots.size() - 2, 1};
  const auto next = std::upper_bound(knots.begin(), knots.end(), at);
  const auto index = static_cast<size_t>(next - knots.begin()) - 1;
  return {index, (at - knots[index]) / (knots[index + 1] - knots[index])};
}

std::vector<double> EvenKnots(size_t side) {
  SPIRITOS_CHECK(side >= 2, "a table of {} values a side", side);
  std::vector<double> knots(side);
  for (size_t i = 0; i < side; ++i) {
    knots[i] = static_cast<double>(i) / static_cast<double>(side - 1);
  }
  return knots;
}

bool RisesStrictly(const std::vector<double>& knots) {
  return std::adjacent_find(knots.begin(), knots.end(),
                            [](double a, double b) { return !(a < b); }) == knots.end();
}

}  // namespace

void MonotoneTable(std::vector<double>& values, size_t columns) {
  for (size_t at = 0; at < values.size(); ++at) {
    double& value = values[at];
    value = value > 0 ? std::min(value, kMostUtility) : 0;
    if (at % columns != 0) value = std::max(value, values[at - 1]);
    if (at >= columns) value = std::max(value, values[at - columns]);
  }
}

TableUtility::TableUtility(std::vector<double> caches, std::vector<double> bandwidths,
                           std::vector<double> values)
    : caches_(std::move(caches)), bandwidths_(std::move(bandwidths)), values_(std::move(values)) {
  SPIRITOS_CHECK(caches_.size() >= 2 && bandwidths_.size() >= 2 &&
                     values_.size() == caches_.size() * bandwidths_.size(),
                 "{} values for {} by {} knots", values_.size(), caches_.size(),
                 bandwidths_.size());
  SPIRITOS_CHECK(RisesStrictly(caches_) && RisesStrictly(bandwidths_), "knots out of order");
  MonotoneTable(values_, bandwidths_.size());
}

TableUtility::TableUtility(size_t side, std::vector<double> values)
    : TableUtility(EvenKnots(side), EvenKnots(side), std::move(values)) {}

double TableUtility::Value(std::span<const double> shares) const noexcept {
  const Place row = Find(caches_, shares[kCache]);
  const Place column = Find(bandwidths_, shares[kBandwidth]);
  const double* const low = &values_[row.index * bandwidths_.size() + column.index];
  const double* const high = low + bandwidths_.size();
  const double below = low[0] + (low[1] - low[0]) * column.fraction;
  const double above = high[0] + (high[1] - high[0]) * column.fraction;
  return below + (above - below) * row.fraction;
}

std::unique_ptr<Utility> MonotoneUtility(FunctionUtility::Function function) {
  constexpr size_t kSide = 65;
  std::vector<double> knots = EvenKnots(kSide);
  for (double& knot : knots) knot *= knot * knot;  // A share of 1000 tenants has knots, too.
  std::vector<double> values;
  values.reserve(kSide * kSide);
  for (const double cache : knots) {
    for (const double bandwidth : knots) values.push_back(function(cache, bandwidth));
  }
  std::vector<double> repaired = values;
  MonotoneTable(repaired, kSide);
  const auto is_same = [](double a, double b) { return std::abs(a - b) <= 1e-9 * b; };
  if (std::equal(values.begin(), values.end(), repaired.begin(), is_same)) {
    return std::make_unique<FunctionUtility>(std::move(function));
  }
  return std::make_unique<TableUtility>(knots, knots, std::move(repaired));
}

}  // namespace spiritos
