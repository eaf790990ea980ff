// SPDX-License-Identifier: Apache-2.0
// PageRank by pulling: each vertex adds up the shares of its neighbours.
//
//   offsets | targets               | ranks | shares
//   read    | read in order, most   | both  | read at random: 1/16 of the block
//   in order| of the block          |       | that every page of targets needs
//
// An operation is an edge; its latency is taken per page of targets.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <vector>

#include "bench/kronecker.h"
#include "bench/mixed_data.h"
#include "bench/workload.h"
#include "libos/base/status.h"

namespace spiritos::bench {
namespace {

constexpr double kDamping = 0.85;
constexpr uint64_t kPageTargets = kPageSize / sizeof(uint32_t);

class PageRank final : public Workload {
 public:
  explicit PageRank(const WorkloadConfig& config)
      : config_(config), shape_(ShapeForSize(config.size)), near_(kCopyBytes) {}

  absl::Status Fill(std::byte* block) override {
    offsets_ = reinterpret_cast<uint64_t*>(block);
    targets_ = reinterpret_cast<uint32_t*>(block + shape_.offsets_size.raw());
    ranks_ = reinterpret_cast<double*>(block + shape_.graph_size().raw());
    shares_ = reinterpret_cast<double*>(block + (shape_.graph_size() + shape_.ranks_size).raw());
    if (config_.graph_fd < 0) {
      MakeGraph(shape_, config_.seed, offsets_, targets_);
    } else {
      SPIRITOS_RETURN_IF_ERROR(CopyGraph(block));
    }
    std::fill_n(ranks_, shape_.vertices, 1.0 / static_cast<double>(shape_.vertices));
    std::fill_n(shares_, shape_.vertices, 0.0);
    return absl::OkStatus();
  }

  void Run(WorkloadResult& result) override {
    const uint64_t start_ns = NowNs();
    PageClock clock(result.latency);
    const uint32_t iterations = config_.passes == 0 ? 2 : config_.passes;
    for (uint32_t i = 0; i < iterations; ++i) {
      const double lost = Share();
      const auto n = static_cast<double>(shape_.vertices);
      Pull((1 - kDamping) / n + kDamping * lost / n, clock);
      result.operations += shape_.edges;
    }
    result.wall_ns = NowNs() - start_ns;
    result.checksum = checksum_;
  }

  absl::Status Verify() override {
    if (std::fabs(sum_ - 1) < 1e-6) return absl::OkStatus();
    return absl::DataLossError(fmt::format("ranks sum to {} instead of 1", sum_));
  }

 private:
  static constexpr size_t kCopyBytes = size_t{1} << 20;

  // Through a near buffer: a system call must not meet an absent page.
  absl::Status CopyGraph(std::byte* block) {
    const uint64_t size = shape_.graph_size().raw();
    for (uint64_t at = 0; at < size;) {
      const ssize_t n = pread(config_.graph_fd, near_.data(), std::min(kCopyBytes, size - at),
                              static_cast<off_t>(at));
      if (n <= 0) return ErrnoStatus(n < 0 ? errno : EIO, "reading the graph");
      std::memcpy(block + at, near_.data(), static_cast<size_t>(n));
      at += static_cast<uint64_t>(n);
    }
    return absl::OkStatus();
  }

  // Divides every rank among its neighbours; returns what has nowhere to go.
  double Share() {
    double lost = 0;
    for (uint64_t v = 0; v < shape_.vertices; ++v) {
      const uint64_t degree = offsets_[v + 1] - offsets_[v];
      shares_[v] = degree == 0 ? 0 : ranks_[v] / static_cast<double>(degree);
      if (degree == 0) lost += ranks_[v];
    }
    return lost;
  }

  void Pull(double base, PageClock& clock) {
    sum_ = 0;
    checksum_ = 0;
    uint64_t next_page = kPageTargets;
    uint64_t edge = 0;
    for (uint64_t v = 0; v < shape_.vertices; ++v) {
      const uint64_t end = offsets_[v + 1];
      double pulled = 0;
      while (edge < end) {
        for (const uint64_t stop = std::min(end, next_page); edge < stop; ++edge)
          pulled += shares_[targets_[edge]];
        if (edge == next_page) {
          clock.Tick();
          next_page += kPageTargets;
        }
      }
      const double rank = base + kDamping * pulled;
      ranks_[v] = rank;
      sum_ += rank;
      checksum_ = Mix(checksum_ ^ std::bit_cast<uint64_t>(rank));
    }
  }

  const WorkloadConfig config_;
  const GraphShape shape_;
  std::vector<std::byte> near_;
  uint64_t* offsets_ = nullptr;
  uint32_t* targets_ = nullptr;
  double* ranks_ = nullptr;
  double* shares_ = nullptr;
  double sum_ = 0;
  uint64_t checksum_ = 0;
};

}  // namespace

std::unique_ptr<Workload> MakePageRank(const WorkloadConfig& config) {
  return std::make_unique<PageRank>(config);
}

}  // namespace spiritos::bench
