// SPDX-License-Identifier: Apache-2.0
// Histogram: bucket bounds, the promised error of quantiles, sums of histograms.
#include "libos/base/histogram.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "test/support/together.h"

namespace spiritos {
namespace {

using Shape = HistogramShape;

TEST_CASE("buckets follow each other without a gap over all 64-bit values", "[base]") {
  uint32_t wrong = 0;
  for (size_t b = 0; b < Shape::kBuckets; ++b) {
    const uint64_t low = Shape::LowerBound(b);
    const bool last = b + 1 == Shape::kBuckets;
    const uint64_t high = last ? ~uint64_t{0} : Shape::LowerBound(b + 1) - 1;
    wrong += !last && Shape::LowerBound(b + 1) <= low;
    wrong += Shape::BucketOf(low) != b;
    wrong += Shape::BucketOf(high) != b;
    wrong += Shape::BucketOf(low + (high - low) / 2) != b;
    // At most 3.2 % wide.
    wrong += low >= 32 && static_cast<double>(high - low + 1) > 0.032 * static_cast<double>(low);
  }
  CHECK(wrong == 0);
  CHECK(Shape::LowerBound(0) == 0);
  CHECK(Shape::BucketOf(~uint64_t{0}) == Shape::kBuckets - 1);
}

TEST_CASE("the values around every power of two lie in rising buckets", "[base]") {
  uint32_t wrong = 0;
  for (unsigned bit = 0; bit < 64; ++bit) {
    const uint64_t power = uint64_t{1} << bit;
    for (uint64_t value = power - std::min<uint64_t>(power, 40); value < power + 40; ++value) {
      const size_t bucket = Shape::BucketOf(value);
      wrong += bucket >= Shape::kBuckets;
      wrong += Shape::LowerBound(bucket) > value;
      wrong += bucket + 1 < Shape::kBuckets && Shape::LowerBound(bucket + 1) <= value;
      wrong += value < 64 && Shape::LowerBound(bucket) != value;  // Exact below 64.
    }
    wrong += bit > 0 && Shape::BucketOf(power - 1) >= Shape::BucketOf(power);
    wrong += Shape::LowerBound(Shape::BucketOf(power)) != power;
  }
  CHECK(wrong == 0);
}

TEST_CASE("quantiles are at most 3.2 % off", "[base]") {
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  for (const double spread : {2.0, 8.0, 20.0, 40.0}) {
    std::vector<uint64_t> values;
    Histogram histogram;
    for (int i = 0; i < 20'000; ++i) {
      const double exponent = static_cast<double>(random() >> 11) * 0x1p-53 * spread;
      values.push_back(static_cast<uint64_t>(std::exp2(exponent + 3)));
      histogram.Add(values.back());
    }
    std::sort(values.begin(), values.end());
    for (const double q : {0.0, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0}) {
      const auto rank = static_cast<size_t>(q * static_cast<double>(values.size() - 1));
      const auto exact = static_cast<double>(values[rank]);
      const auto got = static_cast<double>(histogram.Quantile(q));
      CAPTURE(spread, q, exact, got);
      CHECK(std::abs(got - exact) <= 0.032 * exact);
    }
  }
}

TEST_CASE("an empty histogram has zero for everything", "[base]") {
  const Histogram histogram;
  CHECK(histogram.count() == 0);
  CHECK(histogram.Mean() == 0);
  CHECK(histogram.Quantile(0) == 0);
  CHECK(histogram.Quantile(1) == 0);
}

TEST_CASE("small values and one huge value come back as they are", "[base]") {
  for (const uint64_t value : {uint64_t{0}, uint64_t{1}, uint64_t{31}, uint64_t{63}}) {
    Histogram histogram;
    histogram.Add(value, 3);
    CHECK(histogram.Quantile(0.5) == value);
    CHECK(histogram.Mean() == static_cast<double>(value));
    CHECK(histogram.count() == 3);
  }
  Histogram histogram;
  histogram.Add(~uint64_t{0});
  CHECK(static_cast<double>(histogram.Quantile(1)) > 0.968 * 0x1p64);
}

TEST_CASE("a merge holds both, and Since takes the earlier away again", "[base]") {
  Histogram a;
  Histogram b;
  for (uint64_t i = 0; i < 1000; ++i) a.Add(i);
  for (uint64_t i = 0; i < 500; ++i) b.Add(100'000 + i);
  Histogram merged = a;
  merged.Merge(b);
  CHECK(merged.count() == 1500);
  CHECK(merged.Mean() == Approx((a.Mean() * 1000 + b.Mean() * 500) / 1500));
  CHECK(merged.Quantile(0.5) == Approx(750).epsilon(0.032));
  CHECK(merged.Quantile(0.9) == Approx(100'000).epsilon(0.04));
  const Histogram delta = merged.Since(a);
  CHECK(delta.count() == b.count());
  CHECK(delta.Mean() == b.Mean());
  for (const double q : {0.0, 0.5, 1.0}) CHECK(delta.Quantile(q) == b.Quantile(q));
  CHECK(merged.Since(merged).count() == 0);
}

TEST_CASE("concurrent recordings are all counted", "[base]") {
  constexpr uint32_t kThreads = 4;
  const uint32_t each = Rounds(50'000);
  const auto histogram = std::make_unique<AtomicHistogram>();
  RunTogether(kThreads, [&](uint32_t thread) {
    for (uint32_t i = 0; i < each; ++i) histogram->Add(uint64_t{thread + 1} * 1000);
  });
  Histogram total;
  total.Add(5);
  histogram->AddTo(total);
  CHECK(total.count() == kThreads * each + 1);
  CHECK(total.Quantile(0) == 5);
  CHECK(total.Quantile(1) == Approx(4000).epsilon(0.032));
  // Each thread's values are a quarter, whatever their sum lost to buckets.
  CHECK(total.Quantile(0.3) == Approx(2000).epsilon(0.032));
  CHECK(total.Mean() == Approx(2500).epsilon(0.032));
}

}  // namespace
}  // namespace spiritos
