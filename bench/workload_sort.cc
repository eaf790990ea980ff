// SPDX-License-Identifier: Apache-2.0
// Quicksort of 64-bit keys in place.
//
// Partitions in blocks without branches on keys (BlockQuicksort, Edelkamp and
// Weiss 2016), because a sort that mispredicts its way through the keys spends
// its time there and says nothing about memory:
//
//   first   l ->  [block of 128]   ...   [block of 128]  <- r     last
//   pivot         places >= pivot        places <= pivot
//                        '------ swapped pairwise -----'
//
// Latency is taken from page to page within one partition of several blocks.
// Sorting parts smaller than that is computation on pages just touched: it
// counts in the rate, not in the latencies.
#include <fmt/core.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "bench/mixed_data.h"
#include "bench/workload.h"

namespace spiritos::bench {
namespace {

constexpr ptrdiff_t kBlock = 128;     // Keys; places in it fit a byte.
constexpr ptrdiff_t kSmallSort = 24;  // Keys sorted by insertion.

uint64_t PageOf(const uint64_t* key) { return Vpn::Of(key).raw(); }

class Quicksort final : public Workload {
 public:
  explicit Quicksort(const WorkloadConfig& config)
      : config_(config), count_(config.size.raw() / sizeof(uint64_t)) {
    stack_.reserve(128);  // The larger part is pushed: depth <= log2(count).
  }

  absl::Status Fill(std::byte* block) override {
    keys_ = reinterpret_cast<uint64_t*>(block);
    for (uint64_t i = 0; i < count_; ++i) expected_ += Mix(keys_[i] = WordAt(config_.seed, i));
    return absl::OkStatus();
  }

  void Run(WorkloadResult& result) override {
    const uint64_t start_ns = NowNs();
    stack_.push_back({keys_, keys_ + count_});
    while (!stack_.empty()) {
      auto [first, last] = stack_.back();
      stack_.pop_back();
      while (last - first > kSmallSort) {
        uint64_t* const middle = Partition(first, last, result.latency);
        // Sorts the smaller part first, whose pages are near by now.
        if (middle - first < last - middle) {
          stack_.push_back({middle + 1, last});
          last = middle;
        } else {
          stack_.push_back({first, middle});
          first = middle + 1;
        }
      }
      InsertionSort(first, last);
    }
    result.operations = count_;
    result.wall_ns = NowNs() - start_ns;
    result.checksum = expected_;
  }

  absl::Status Verify() override {
    uint64_t sum = 0, disorder = 0;
    for (uint64_t i = 0; i < count_; ++i) {
      if (i > 0 && keys_[i - 1] > keys_[i]) ++disorder;
      sum += Mix(keys_[i]);
    }
    if (disorder != 0)
      return absl::DataLossError(fmt::format("{} neighbours out of order", disorder));
    if (sum != expected_) return absl::DataLossError("keys were lost or changed by the sort");
    return absl::OkStatus();
  }

 private:
  static void InsertionSort(uint64_t* first, uint64_t* last) {
    for (uint64_t* at = first + 1; at < last; ++at) {
      const uint64_t key = *at;
      uint64_t* hole = at;
      for (; hole > first && hole[-1] > key; --hole) *hole = hole[-1];
      *hole = key;
    }
  }

  // Puts the median of three at the front.
  static void ChoosePivot(uint64_t* first, uint64_t* last) {
    uint64_t* const middle = first + (last - first) / 2;
    uint64_t* const end = last - 1;
    if (*first < *middle) std::swap(*first, *middle);  // middle <= first
    if (*end < *middle) {
      // end < middle <= first: the median is `middle`.
      std::swap(*first, *middle);
    } else if (*end < *first) {
      std::swap(*first, *end);
    }
  }

  // Returns the pivot's final place: nothing before it is greater, nothing
  // behind it smaller. Keys equal to the pivot go to either side.
  static uint64_t* Partition(uint64_t* first, uint64_t* last, LatencyRecorder& latency) {
    ChoosePivot(first, last);
    const uint64_t pivot = *first;
    uint64_t *l = first + 1, *r = last;
    uint8_t left[kBlock], right[kBlock];
    ptrdiff_t left_count = 0, left_at = 0, right_count = 0, right_at = 0;
    uint64_t left_page = PageOf(l), right_page = PageOf(r - 1);
    PageClock clock(latency);

    while (r - l >= 2 * kBlock) {
      if (left_count == 0) {
        left_at = 0;
        for (ptrdiff_t i = 0; i < kBlock; ++i) {
          left[left_count] = static_cast<uint8_t>(i);
          left_count += !(l[i] < pivot);
        }
      }
      if (right_count == 0) {
        right_at = 0;
        for (ptrdiff_t i = 0; i < kBlock; ++i) {
          right[right_count] = static_cast<uint8_t>(i);
          right_count += !(pivot < r[-1 - i]);
        }
      }
      const ptrdiff_t n = std::min(left_count, right_count);
      for (ptrdiff_t i = 0; i < n; ++i)
        std::swap(l[left[left_at + i]], r[-1 - right[right_at + i]]);
      left_count -= n;
      left_at += n;
      right_count -= n;
      right_at += n;
      if (left_count == 0) l += kBlock;
      if (right_count == 0) r -= kBlock;
      if (PageOf(l) != left_page) {
        left_page = PageOf(l);
        clock.Tick();
      }
      if (PageOf(r - 1) != right_page) {
        right_page = PageOf(r - 1);
        clock.Tick();
      }
    }

    for (;;) {
      while (l < r && *l < pivot) ++l;
      while (l < r && pivot < r[-1]) --r;
      if (r - l < 2) break;
      std::swap(*l++, *--r);
    }
    std::swap(*first, *(l - 1));
    return l - 1;
  }

  const WorkloadConfig config_;
  const uint64_t count_;
  uint64_t* keys_ = nullptr;
  uint64_t expected_ = 0;
  std::vector<std::pair<uint64_t*, uint64_t*>> stack_;
};

}  // namespace

std::unique_ptr<Workload> MakeQuicksort(const WorkloadConfig& config) {
  return std::make_unique<Quicksort>(config);
}

}  // namespace spiritos::bench
