// SPDX-License-Identifier: Apache-2.0
// Parametric utilities: the kinds that case files of `spiritos arbiter solve` name.
//
//   quad          c^2/2 + c b
//   linear        wc c + wb b
//   cobb_douglas  c^a b^(1-a)
//   leontief      min(c / pc, b / pb)
//   max           max(c, b)
//   closed_loop   1 / (1 + mr(c) (gamma + kappa / b))    each access waits for the last
//   roofline      min(q / (1 + 100 mr(c)), b / (mr(c) kappa))    processor or link bound
//
// with the miss ratio mr(c) of one of four shapes: exp m0 e^(-c/s) + m1, power
// m0 (1 + c/s)^-a, linear m0 (1 - r c), knee m0 / (1 + e^((c-k)/w)) + m1.
//
// They are here and not with the tests because the program reads them, and tests and
// benchmarks draw random markets from them; the arbiter itself deals in tables.
#pragma once

#include "arbiter/utility.h"

namespace spiritos {

struct MissRatio {
  enum class Shape { kExp, kPower, kLinear, kKnee };
  double At(double cache) const noexcept;

  Shape shape = Shape::kExp;
  double m0 = 0;
  double m1 = 0;
  double s = 1;
  double a = 1;
  double r = 0;
  double k = 0;
  double w = 1;
};

struct UtilitySpec {
  enum class Kind { kQuad, kLinear, kCobbDouglas, kLeontief, kMax, kClosedLoop, kRoofline };
  Kind kind = Kind::kLinear;
  double cache = 1;      // linear wc, cobb_douglas a, leontief pc.
  double bandwidth = 1;  // linear wb, leontief pb.
  double gamma = 0;      // closed_loop.
  double kappa = 0;      // closed_loop, roofline.
  double q = 1;          // roofline.
  MissRatio misses;      // closed_loop, roofline.
};

class ParametricUtility final : public Utility {
 public:
  explicit ParametricUtility(const UtilitySpec& spec) : spec_(spec) {}
  const UtilitySpec& spec() const { return spec_; }

 private:
  double Value(std::span<const double> shares) const noexcept override;
  UtilitySpec spec_;
};

}  // namespace spiritos
