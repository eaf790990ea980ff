// SPDX-License-Identifier: Apache-2.0
// Programs that stream: sequential read and triad. The time from one page to
// the next is an operation's latency.
#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "bench/mixed_data.h"
#include "bench/workload.h"

namespace spiritos::bench {
namespace {

// Small blocks are passed over more often, so that a run is long enough.
uint32_t DefaultPasses(const WorkloadConfig& config) {
  if (config.passes != 0) return config.passes;
  return static_cast<uint32_t>(std::max<uint64_t>((uint64_t{1} << 30) / config.size.raw(), 1));
}

// Four independent sums: bound by memory, not by the latency of an addition.
uint64_t SumOfPage(const uint64_t* page) {
  uint64_t a = 0, b = 0, c = 0, d = 0;
  for (size_t i = 0; i < kPageWords; i += 4) {
    a += page[i];
    b += page[i + 1];
    c += page[i + 2];
    d += page[i + 3];
  }
  return a + b + c + d;
}

// Depends on the order of pages: two pages that changed places are noticed.
uint64_t Chain(uint64_t checksum, uint64_t sum) { return Mix(checksum ^ sum); }

class SequentialRead final : public Workload {
 public:
  explicit SequentialRead(const WorkloadConfig& config)
      : config_(config), pages_(config.size.raw() / kPageSize) {}

  absl::Status Fill(std::byte* block) override {
    words_ = reinterpret_cast<uint64_t*>(block);
    for (uint64_t page = 0; page < pages_; ++page) {
      uint64_t sum = 0;
      for (uint64_t i = page * kPageWords; i < (page + 1) * kPageWords; ++i)
        sum += words_[i] = WordAt(config_.seed, i);
      expected_ = Chain(expected_, sum);
    }
    return absl::OkStatus();
  }

  // After it every page has its copy in the pool, as in the long run.
  void WarmUp() override {
    LatencyRecorder unused;
    Pass(unused);
  }

  void Run(WorkloadResult& result) override {
    const uint64_t start_ns = NowNs();
    for (uint32_t pass = 0; pass < DefaultPasses(config_); ++pass) {
      const uint64_t checksum = Pass(result.latency);
      if (checksum != expected_) ++wrong_passes_;
      result.checksum = Chain(result.checksum, checksum);
      result.operations += pages_;
    }
    result.wall_ns = NowNs() - start_ns;
  }

  absl::Status Verify() override {
    if (wrong_passes_ == 0) return absl::OkStatus();
    return absl::DataLossError(fmt::format("{} passes read wrong bytes", wrong_passes_));
  }

 private:
  uint64_t Pass(LatencyRecorder& latency) const {
    PageClock clock(latency);
    uint64_t checksum = 0;
    for (uint64_t page = 0; page < pages_; ++page) {
      checksum = Chain(checksum, SumOfPage(words_ + page * kPageWords));
      clock.Tick();
    }
    return checksum;
  }

  const WorkloadConfig config_;
  const uint64_t pages_;
  uint64_t* words_ = nullptr;
  uint64_t expected_ = 0;
  uint32_t wrong_passes_ = 0;
};

class Triad final : public Workload {
 public:
  explicit Triad(const WorkloadConfig& config)
      : config_(config), pages_(config.size.raw() / kPageSize / 3) {}

  absl::Status Fill(std::byte* block) override {
    a_ = reinterpret_cast<double*>(block);
    b_ = a_ + pages_ * kPageWords;
    c_ = b_ + pages_ * kPageWords;
    for (uint64_t i = 0; i < pages_ * kPageWords; ++i) a_[i] = 0;
    for (uint64_t i = 0; i < pages_ * kPageWords; ++i) b_[i] = B(i);
    for (uint64_t i = 0; i < pages_ * kPageWords; ++i) c_[i] = C(i);
    return absl::OkStatus();
  }

  void Run(WorkloadResult& result) override {
    const uint64_t start_ns = NowNs();
    PageClock clock(result.latency);
    for (uint32_t pass = 0; pass < DefaultPasses(config_); ++pass) {
      scale_ = ScaleOf(pass);
      for (uint64_t page = 0; page < pages_; ++page) {
        const uint64_t first = page * kPageWords;
        for (uint64_t i = first; i < first + kPageWords; ++i) a_[i] = b_[i] + scale_ * c_[i];
        clock.Tick();
      }
      result.operations += pages_;
    }
    result.wall_ns = NowNs() - start_ns;
    result.checksum = Mix(config_.seed ^ result.operations);
  }

  absl::Status Verify() override {
    for (uint64_t i = 0; i < pages_ * kPageWords; ++i) {
      if (a_[i] != B(i) + scale_ * C(i))
        return absl::DataLossError(fmt::format("element {} of the triad is {}", i, a_[i]));
    }
    return absl::OkStatus();
  }

 private:
  // Powers of two: the product is exact, so a fused multiply-add that the
  // compiler picks in one place only cannot change a result.
  static double ScaleOf(uint32_t pass) { return pass % 2 == 0 ? 2 : 0.5; }
  // In [1, 2): a random mantissa under a fixed exponent.
  static double InUnit(uint64_t word) {
    return std::bit_cast<double>(word >> 12 | uint64_t{0x3FF} << 52);
  }
  double B(uint64_t i) const { return InUnit(WordAt(config_.seed, i)); }
  double C(uint64_t i) const { return InUnit(WordAt(~config_.seed, i)); }

  const WorkloadConfig config_;
  const uint64_t pages_;
  double* a_ = nullptr;
  double* b_ = nullptr;
  double* c_ = nullptr;
  double scale_ = 0;
};

}  // namespace

std::unique_ptr<Workload> MakeStreamWorkload(Program program, const WorkloadConfig& config) {
  if (program == Program::kTriad) return std::make_unique<Triad>(config);
  return std::make_unique<SequentialRead>(config);
}

}  // namespace spiritos::bench
