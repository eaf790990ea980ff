// SPDX-License-Identifier: Apache-2.0
// Which pages are sampled, and what their misses say of all.
#include "arbiter/miss_curve.h"

#include <algorithm>
#include <bit>

namespace spiritos {
namespace {

// SplitMix64's finalizer (Steele, Lea, Flood, "Fast splittable pseudorandom number
// generators", OOPSLA 2014).
uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

// The nearest falling sequence: neighbours that rise become their mean, until none does (pool
// adjacent violators; Barlow et al., "Statistical Inference under Order Restrictions", 1972).
void MakeFalling(std::vector<MissCurve::Point>* points) {
  struct Block {
    double mean;
    size_t size;
  };
  std::vector<Block> blocks;
  for (const MissCurve::Point& point : *points) {
    blocks.push_back({point.misses, 1});
    while (blocks.size() > 1 && blocks.back().mean > blocks[blocks.size() - 2].mean) {
      const Block last = blocks.back();
      blocks.pop_back();
      Block& before = blocks.back();
      const size_t size = before.size + last.size;
      before.mean = (before.mean * static_cast<double>(before.size) +
                     last.mean * static_cast<double>(last.size)) /
                    static_cast<double>(size);
      before.size = size;
    }
  }
  auto point = points->begin();
  for (const Block& block : blocks) {
    for (size_t i = 0; i < block.size; ++i) (point++)->misses = block.mean;
  }
}

double PagesOf(uint32_t size, int64_t far_pages) {
  return static_cast<double>(far_pages) * MissCurve::kParts[size];
}

}  // namespace

MissCurve::MissCurve(uint32_t sample_pages, uint64_t seed)
    : sample_pages_(sample_pages), seed_(Mix(seed)) {}

void MissCurve::Begin(int64_t far_pages) {
  far_pages_ = std::max<int64_t>(far_pages, 1);
  const auto strata = uint64_t{kSizes} * sample_pages_;
  stratum_shift_ = static_cast<uint32_t>(
      std::bit_width(std::max<uint64_t>(1, static_cast<uint64_t>(far_pages_) / strata)) - 1);
  samples_ = {};
}

void MissCurve::Expect(Vpn page) {
  const uint32_t size = SizeOf(page);
  if (size != kSizes) ++samples_[size].pages;
}

void MissCurve::Start() {
  for (uint32_t size = 0; size < kSizes; ++size) {
    Sample& sample = samples_[size];
    const double taken = static_cast<double>(sample.pages) / static_cast<double>(far_pages_);
    sample.pager.SetBudget(static_cast<int64_t>(PagesOf(size, far_pages_)), taken);
  }
}

uint32_t MissCurve::SizeOf(Vpn page) const {
  if (stratum_shift_ == kNothing) return kSizes;
  const uint64_t stratum = page.raw() >> stratum_shift_;
  const uint64_t hash = Mix(stratum ^ seed_);
  if ((hash ^ page.raw()) & ((uint64_t{1} << stratum_shift_) - 1)) return kSizes;
  // Each size in turn, but not at the same place of each turn.
  const uint64_t turn = Mix(stratum / kSizes + seed_);
  return static_cast<uint32_t>((stratum + turn) % kSizes);
}

void MissCurve::Touch(Vpn page, double progress, std::vector<Vpn>* left) {
  const uint32_t size = SizeOf(page);
  if (size == kSizes) return;
  Sample& sample = samples_[size];
  sample.misses += sample.pager.Touch(page, progress, left);
}

void MissCurve::Forget(Vpn page) {
  const uint32_t size = SizeOf(page);
  if (size != kSizes) samples_[size].pager.Forget(page);
}

std::vector<MissCurve::Point> MissCurve::Points(double progress) const {
  std::vector<Point> points;
  const double elapsed = progress - since_;
  if (elapsed <= 0) return points;
  for (uint32_t size = 0; size < kSizes; ++size) {
    const Sample& sample = samples_[size];
    if (sample.pages == 0) continue;
    // For each sampled page, times all that there are.
    const double misses = static_cast<double>(sample.misses) / elapsed *
                          static_cast<double>(far_pages_) / static_cast<double>(sample.pages);
    points.push_back({PagesOf(size, far_pages_), misses});
  }
  if (points.empty()) return points;
  MakeFalling(&points);
  points.insert(points.begin(), {0, points.front().misses});
  points.push_back({static_cast<double>(far_pages_), 0});
  return points;
}

void MissCurve::Restart(double progress) {
  since_ = progress;
  for (Sample& sample : samples_) sample.misses = 0;
}

uint64_t MissCurve::counted() const {
  uint64_t sum = 0;
  for (const Sample& sample : samples_) sum += sample.misses;
  return sum;
}

double MissCurve::At(const std::vector<Point>& points, double pages) {
  if (points.empty()) return 0;
  const auto above = std::find_if(points.begin(), points.end(),
                                  [=](const Point& point) { return point.pages >= pages; });
  if (above == points.end()) return points.back().misses;
  if (above == points.begin()) return above->misses;
  const Point& below = *std::prev(above);
  const double part = (pages - below.pages) / (above->pages - below.pages);
  return below.misses + part * (above->misses - below.misses);
}

}  // namespace spiritos
