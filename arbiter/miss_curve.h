// SPDX-License-Identifier: Apache-2.0
// MissCurve: how often a tenant would miss with less or more memory, found while it runs.
//
//   pages --> one of kSizes samples, or none --> a MiniaturePager for each --> a curve
//
//   Begin, Expect each page, Start --> Touch ... --> Restart --> Touch ... --> Points
//                                      warming up                measuring
//
// Each size has a sample of its own, so that its pages are made to fault only when they leave
// in its miniature: whoever feeds the curve evicts them for real (`left`), and tells of each
// fault on a sampled page (`Touch`). A page that left for real and not in its miniature faults
// too, and that is no miss here.
//
// Pages are sampled in strata: of each 2^n neighbours one, drawn at random, and the next 2^n
// have theirs in another size's sample. So a stretch of memory is in each sample by its
// length, give or take one page: drawn from all pages alike it would be more or less, and near
// a cliff a few in a hundred count.
//
// Pure; one thread, no clock: `progress` is time in which the tenant was not waiting for
// memory, in any unit, and misses are counted by it.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "arbiter/miniature_pager.h"
#include "libos/base/units.h"

namespace spiritos {

class MissCurve {
 public:
  // Parts of the far size. Close together where the budgets are that tenants live on, since a
  // cliff between two is not seen; closer yet where curves fall fastest.
  static constexpr std::array kParts{0.0125, 0.025, 0.0375, 0.05, 0.075, 0.1,  0.125, 0.15,
                                     0.2,    0.25,  0.3,    0.35, 0.4,   0.45, 0.5,   0.55,
                                     0.6,    0.65,  0.7,    0.75, 0.8,   0.85, 0.9,   0.95};
  static constexpr uint32_t kSizes = kParts.size();

  // `sample_pages`: about so many for each size; what a tenant with more pages pays for does
  // not grow with them.
  MissCurve(uint32_t sample_pages, uint64_t seed);

  // Begins anew, with samples of so many pages that have contents. Then each of these is to be
  // named: a miniature has its part of the budget by the pages that it has.
  void Begin(int64_t far_pages);
  void Expect(Vpn page);
  void Start();
  // Whether its faults are to be told of. Threads: any, but not beside Begin().
  bool Samples(Vpn page) const { return SizeOf(page) < kSizes; }
  // A sampled page faults, for real, after `progress`. Appends to `left` which pages are to be
  // evicted.
  void Touch(Vpn page, double progress, std::vector<Vpn>* left);
  void Forget(Vpn page);

  struct Point {
    double pages = 0;   // Of budget.
    double misses = 0;  // For each unit of progress.
  };
  // What was counted since `Restart`, made to fall all the way (isotonic regression). The first
  // point is of no pages at all and as high as the second, the last of all pages, without
  // misses.
  std::vector<Point> Points(double progress) const;
  // Counts from now on: after warm-up, or for a new period.
  void Restart(double progress);
  // Misses counted in all samples: what the curve rests on.
  uint64_t counted() const;

  // Misses at a budget, between the points.
  static double At(const std::vector<Point>& points, double pages);

 private:
  static constexpr uint32_t kNothing = 64;

  uint32_t SizeOf(Vpn page) const;

  struct Sample {
    MiniaturePager pager;
    uint64_t pages = 0;
    uint64_t misses = 0;
  };

  uint32_t sample_pages_;
  uint64_t seed_;
  int64_t far_pages_ = 0;
  uint32_t stratum_shift_ = kNothing;  // Log2 of the pages to a stratum.
  double since_ = 0;
  std::array<Sample, kSizes> samples_;
};

}  // namespace spiritos
