// SPDX-License-Identifier: Apache-2.0
// Histogram: log-linear buckets, as HdrHistogram's with 5 significant bits.
//
// Values below 32 have a bucket each; above, every power of two is cut into 32
// equal buckets, so a bucket is at most 3.2 % wide. 64-bit values in 1920
// buckets. Recording is one relaxed addition.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace spiritos {

struct HistogramShape {
  static constexpr unsigned kBits = 5;
  static constexpr size_t kBuckets = (size_t{64 - kBits} << kBits) + (size_t{1} << kBits);

  static constexpr size_t BucketOf(uint64_t value) {
    if (value < (uint64_t{1} << kBits)) return value;
    const unsigned exponent = 63u - static_cast<unsigned>(std::countl_zero(value));
    const uint64_t mantissa = value >> (exponent - kBits);  // In [32, 64).
    return (size_t{exponent - kBits} << kBits) + mantissa;
  }
  // The smallest value of a bucket.
  static constexpr uint64_t LowerBound(size_t bucket) {
    if (bucket < (size_t{2} << kBits)) return bucket;
    const size_t exponent = (bucket >> kBits) - 1;
    const uint64_t mantissa = (bucket & ((size_t{1} << kBits) - 1)) | (uint64_t{1} << kBits);
    return mantissa << exponent;
  }
};

// A merged, plain histogram: what Stats carries.
class Histogram {
 public:
  void Add(uint64_t value, uint64_t times = 1) {
    counts_[HistogramShape::BucketOf(value)] += times;
    count_ += times;
    sum_ += value * times;
  }
  void MergeBucket(size_t bucket, uint64_t times) {
    counts_[bucket] += times;
    count_ += times;
    sum_ += HistogramShape::LowerBound(bucket) * times;
  }
  void Merge(const Histogram& other) {
    for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
    count_ += other.count_;
    sum_ += other.sum_;
  }
  // What was added between `earlier` and this, a later snapshot of the same.
  Histogram Since(const Histogram& earlier) const {
    Histogram delta = *this;
    for (size_t i = 0; i < counts_.size(); ++i) delta.counts_[i] -= earlier.counts_[i];
    delta.count_ -= earlier.count_;
    delta.sum_ -= earlier.sum_;
    return delta;
  }

  uint64_t count() const { return count_; }
  double Mean() const {
    return count_ == 0 ? 0 : static_cast<double>(sum_) / static_cast<double>(count_);
  }
  // The middle of the bucket that holds the q-quantile, 0 <= q <= 1; 0 if empty.
  uint64_t Quantile(double q) const {
    if (count_ == 0) return 0;
    const auto rank = static_cast<uint64_t>(q * static_cast<double>(count_ - 1));
    uint64_t seen = 0;
    for (size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen > rank) {
        const uint64_t low = HistogramShape::LowerBound(i);
        const uint64_t high = i + 1 < counts_.size() ? HistogramShape::LowerBound(i + 1) : low + 1;
        return low + (high - low) / 2;
      }
    }
    return 0;
  }

 private:
  std::array<uint64_t, HistogramShape::kBuckets> counts_{};
  uint64_t count_ = 0;
  uint64_t sum_ = 0;
};

// The recording side: any thread, any context.
class AtomicHistogram {
 public:
  void Add(uint64_t value) noexcept {
    counts_[HistogramShape::BucketOf(value)].fetch_add(1, std::memory_order_relaxed);
  }
  void AddTo(Histogram& total) const {
    for (size_t i = 0; i < counts_.size(); ++i) {
      const uint64_t n = counts_[i].load(std::memory_order_relaxed);
      if (n != 0) total.MergeBucket(i, n);
    }
  }

 private:
  std::array<std::atomic<uint64_t>, HistogramShape::kBuckets> counts_{};
};

}  // namespace spiritos
