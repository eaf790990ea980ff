// SPDX-License-Identifier: Apache-2.0
// What is traded: shares of a server's resources, each in [0, 1] of its total.
//
// Two resources have a name, as two are what a server auctions: local memory (cache) and the
// bandwidth to the pool. Bundles have room for more, up to kMaxResources.
#pragma once

#include <array>
#include <cstddef>
#include <initializer_list>
#include <span>
#include <vector>

namespace spiritos {

inline constexpr size_t kMaxResources = 4;
inline constexpr size_t kCache = 0;
inline constexpr size_t kBandwidth = 1;

// A bundle, or prices: one number for each resource; those that a market lacks are 0.
class Shares {
 public:
  constexpr Shares() = default;
  constexpr Shares(double cache, double bandwidth) : of_{cache, bandwidth} {}
  static constexpr Shares Same(double each) {
    Shares shares;
    shares.of_.fill(each);
    return shares;
  }

  constexpr double& operator[](size_t resource) { return of_[resource]; }
  constexpr double operator[](size_t resource) const { return of_[resource]; }
  constexpr double cache() const { return of_[kCache]; }
  constexpr double bandwidth() const { return of_[kBandwidth]; }
  constexpr std::span<const double> first(size_t resources) const {
    return std::span<const double>(of_).first(resources);
  }
  friend constexpr bool operator==(const Shares&, const Shares&) = default;

 private:
  std::array<double, kMaxResources> of_{};
};

// What a tenant may hold. A minimum is promised at admission, a maximum never exceeded.
struct Bounds {
  Shares minimum;
  Shares maximum = Shares::Same(1);
};

using Allocation = std::vector<Shares>;  // One bundle for each tenant.

}  // namespace spiritos
