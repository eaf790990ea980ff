// SPDX-License-Identifier: Apache-2.0
// Utility: what a tenant gets done with a bundle, in units of its own.
//
// The auction compares a tenant's values with each other only, so units never mix. It needs
// values that are finite, at least 0, and that never fall when a share grows. Estimates are
// none of this at times; two things stand between them and the auction:
//
//   At()             NaN and what is negative count as 0, infinity as kMostUtility
//   MonotoneTable()  a table becomes the least monotone one above it
//
// A function that falls somewhere cannot be repaired point by point: MonotoneUtility() looks
// at it on a grid and tables it if it must.
//
// Threads: values do not change after construction; any thread reads.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "arbiter/resources.h"

namespace spiritos {

inline constexpr double kMostUtility = 1e150;  // Its square is finite.

class Utility {
 public:
  Utility() = default;
  Utility(const Utility&) = delete;
  Utility& operator=(const Utility&) = delete;
  virtual ~Utility() = default;

  double At(double cache, double bandwidth) const noexcept {
    const double shares[] = {cache, bandwidth};
    return At(shares);
  }
  double At(std::span<const double> shares) const noexcept {
    const double value = Value(shares);
    if (!(value > 0)) return 0;  // Also NaN.
    return value < kMostUtility ? value : kMostUtility;
  }

 protected:
  virtual double Value(std::span<const double> shares) const noexcept = 0;
};

// Any function of (cache, bandwidth), trusted to be monotone.
class FunctionUtility final : public Utility {
 public:
  using Function = std::function<double(double cache, double bandwidth)>;
  explicit FunctionUtility(Function function) : function_(std::move(function)) {}

 private:
  double Value(std::span<const double> shares) const noexcept override {
    return function_(shares[kCache], shares[kBandwidth]);
  }
  Function function_;
};

// Values on a grid, interpolated bilinearly; outside it, as on its edge.
class TableUtility final : public Utility {
 public:
  // `values[i * bandwidths.size() + j]` belongs to (caches[i], bandwidths[j]); both rise
  // strictly and have two entries or more. What falls in `values` is raised.
  TableUtility(std::vector<double> caches, std::vector<double> bandwidths,
               std::vector<double> values);
  // An even grid over [0, 1]^2, with `side` values each way.
  TableUtility(size_t side, std::vector<double> values);

 private:
  double Value(std::span<const double> shares) const noexcept override;

  std::vector<double> caches_;
  std::vector<double> bandwidths_;
  std::vector<double> values_;
};

// Raises `values`, rows of `columns`, to the least table that is finite, at least 0 and
// falls nowhere.
void MonotoneTable(std::vector<double>& values, size_t columns);

// `function`, or a table of it if it falls between points of a grid that is fine near 0.
std::unique_ptr<Utility> MonotoneUtility(FunctionUtility::Function function);

}  // namespace spiritos
