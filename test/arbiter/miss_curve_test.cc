// SPDX-License-Identifier: Apache-2.0
// A curve from samples, beside the pager's policy played over the whole trace.
#include "arbiter/miss_curve.h"

#include <fmt/core.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <deque>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "arbiter/miniature_pager.h"

namespace spiritos {
namespace {

constexpr int64_t kPages = 32'768;
constexpr size_t kAccesses = 3'000'000;
constexpr size_t kWarm = kAccesses / 3;

using Trace = std::vector<uint32_t>;

class Zipf {
 public:
  Zipf(size_t n, double exponent) : below_(n) {
    double sum = 0;
    for (size_t i = 0; i < n; ++i)
      below_[i] = sum += std::pow(static_cast<double>(i + 1), -exponent);
  }
  uint32_t Draw(std::mt19937_64& random) const {
    const double at = std::uniform_real_distribution<double>(0, below_.back())(random);
    const auto found = std::upper_bound(below_.begin(), below_.end(), at);
    return static_cast<uint32_t>(std::min<size_t>(found - below_.begin(), below_.size() - 1));
  }

 private:
  std::vector<double> below_;
};

Trace MakeTrace(const std::string& kind, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint32_t> place(kPages);
  std::iota(place.begin(), place.end(), 0);
  std::shuffle(place.begin(), place.end(), random);
  const Zipf all(kPages, 0.99);
  const Zipf half(kPages / 2, 0.9);
  Trace trace(kAccesses);
  uint32_t next = 0;
  for (size_t i = 0; i < kAccesses; ++i) {
    uint32_t& page = trace[i];
    if (kind == "zipf") {
      page = place[all.Draw(random)];
    } else if (kind == "scan") {
      page = static_cast<uint32_t>(i % kPages);
    } else if (kind == "loop") {
      page = static_cast<uint32_t>(i % (kPages * 2 / 5));
    } else if (kind == "phase change") {
      page = place[half.Draw(random)] % (kPages / 2) + (i / (kAccesses / 5) % 2) * (kPages / 2);
    } else {
      const uint64_t which = random() % 10;
      page = which < 5   ? place[all.Draw(random)]
             : which < 8 ? next++ % (kPages * 3 / 10)
                         : static_cast<uint32_t>(random() % kPages);
    }
  }
  return trace;
}

// The policy over all pages, written without regard to the miniature: arrays, whole frames.
class WholePager {
 public:
  explicit WholePager(int64_t budget)
      : free_(budget), tick_(int64_t{1} << TickShift(budget)), marks_(Watermarks::For(budget)) {}

  bool Touch(uint32_t number) {
    Page& page = pages_[number];
    if (page.here) return false;
    --free_;
    const int64_t now = ++taken_ / tick_;
    if (page.known)
      page.hot = now - page.since < 32 ? std::min(page.hot + 1, 4) : std::max(page.hot - 1, 0);
    page = {true, true, page.hot, (1 << page.hot) - 1, now};
    const uint32_t zone = number / kZonePages;
    ++here_[zone];
    if (!listed_[zone]) queue_.push_back(zone);
    listed_[zone] = true;
    if (free_ < marks_.low) {
      while (free_ < marks_.high) SweepNext();
    }
    return true;
  }

 private:
  struct Page {
    bool here = false;
    bool known = false;
    int hot = 0;
    int credit = 0;
    int64_t since = 0;
  };

  void SweepNext() {
    const size_t zones = queue_.size();
    const uint32_t zone = queue_.front();
    queue_.pop_front();
    const int64_t now = taken_ / tick_;
    const int64_t before = free_;
    for (uint32_t number = zone * kZonePages; number < (zone + 1) * kZonePages; ++number) {
      Page& page = pages_[number];
      if (!page.here || (now - page.since < 8 && vain_ <= zones)) continue;
      page.since = now;
      if (page.credit > 0 && vain_ <= 2 * zones) {
        --page.credit;
        continue;
      }
      page.here = false;
      --here_[zone];
      ++free_;
    }
    vain_ = free_ > before ? 0 : vain_ + 1;
    listed_[zone] = here_[zone] != 0;
    if (listed_[zone]) queue_.push_back(zone);
  }

  int64_t free_;
  int64_t tick_;
  Watermarks marks_;
  int64_t taken_ = 0;
  size_t vain_ = 0;
  std::vector<Page> pages_ = std::vector<Page>(kPages);
  std::vector<int64_t> here_ = std::vector<int64_t>(kPages / kZonePages);
  std::vector<bool> listed_ = std::vector<bool>(kPages / kZonePages);
  std::deque<uint32_t> queue_;
};

double WholeMissRatio(const Trace& trace, double part) {
  WholePager pager(static_cast<int64_t>(part * kPages));
  size_t misses = 0;
  for (size_t i = 0; i < trace.size(); ++i) misses += pager.Touch(trace[i]) && i >= kWarm;
  return static_cast<double>(misses) / static_cast<double>(trace.size() - kWarm);
}

// What a runtime would do: sampled pages fault when they were made to leave, or had.
std::vector<MissCurve::Point> SampledCurve(const Trace& trace, uint32_t sample_pages,
                                           uint64_t seed) {
  MissCurve curve(sample_pages, seed);
  std::vector<bool> used(kPages);
  for (const uint32_t page : trace) used[page] = true;
  curve.Begin(std::count(used.begin(), used.end(), true));
  for (uint64_t page = 0; page < kPages; ++page) {
    if (used[page]) curve.Expect(Vpn(page));
  }
  curve.Start();
  std::vector<bool> here(kPages);
  std::vector<Vpn> left;
  for (size_t i = 0; i < trace.size(); ++i) {
    if (i == kWarm) curve.Restart(static_cast<double>(i));
    const uint32_t page = trace[i];
    if (here[page] || !curve.Samples(Vpn(page))) continue;
    here[page] = true;
    curve.Touch(Vpn(page), static_cast<double>(i), &left);
    for (const Vpn gone : left) here[gone.raw()] = false;
    left.clear();
  }
  return curve.Points(static_cast<double>(trace.size()));
}

// A cliff may come out beside its place. Around one, the policy itself has two states that it
// stays in: pages that came back soon are kept, so others that come back come sooner.
TEST_CASE("a sampled curve is within 0.03 of the policy over the whole trace", "[arbiter]") {
  constexpr double kBeside = 0.01;  // Of the far size.
  const auto* const kind = GENERATE("zipf", "scan", "loop", "phase change", "mixture");
  const uint64_t seed = std::random_device{}();
  CAPTURE(kind, seed);
  const Trace trace = MakeTrace(kind, seed);
  const std::vector<MissCurve::Point> points = SampledCurve(trace, 128, seed);
  double error = 0;
  int sizes = 0;
  std::string table;
  for (double part = 0.04; part < 0.98; part += 0.04, ++sizes) {
    const double most = WholeMissRatio(trace, part - kBeside);
    const double least = WholeMissRatio(trace, part + kBeside);
    const double predicted = MissCurve::At(points, part * kPages);
    error += std::max({0.0, predicted - most, least - predicted});
    table +=
        fmt::format("{:.2f}: {:.3f} to {:.3f}, predicted {:.3f}\n", part, most, least, predicted);
  }
  INFO(table);
  CHECK(error / sizes <= 0.03);
}

TEST_CASE("a miniature of all pages is the policy itself", "[arbiter]") {
  const uint64_t seed = std::random_device{}();
  CAPTURE(seed);
  const Trace trace = MakeTrace("mixture", seed);
  for (const double part : {0.1, 0.4, 0.8}) {
    MiniaturePager pager;
    pager.SetBudget(static_cast<int64_t>(part * kPages), 1.0);
    std::vector<Vpn> left;
    size_t misses = 0;
    size_t most = 0;
    for (size_t i = 0; i < trace.size(); ++i) {
      misses += pager.Touch(Vpn(trace[i]), static_cast<double>(i), &left) && i >= kWarm;
      left.clear();
      most = std::max(most, pager.resident());
    }
    CHECK(static_cast<double>(most) <= part * kPages);
    const double ratio = static_cast<double>(misses) / static_cast<double>(trace.size() - kWarm);
    CHECK(std::abs(ratio - WholeMissRatio(trace, part)) < 0.02);
  }
}

TEST_CASE("pages that lose their contents count no more", "[arbiter]") {
  MiniaturePager pager;
  pager.SetBudget(1024, 1.0);
  std::vector<Vpn> left;
  for (uint64_t page = 0; page < 500; ++page) CHECK(pager.Touch(Vpn(page), 0, &left));
  CHECK(pager.resident() == 500);
  for (uint64_t page = 0; page < 600; page += 2) pager.Forget(Vpn(page));
  CHECK(pager.pages() == 250);
  CHECK(pager.resident() == 250);
  CHECK(pager.Touch(Vpn(0), 0, &left));
  CHECK_FALSE(pager.Touch(Vpn(1), 0, &left));
  CHECK(left.empty());
}

TEST_CASE("samples are as large as was asked, of many pages and of few", "[arbiter]") {
  const int64_t far_pages = GENERATE(100, 5'000, 100'000, 10'000'000);
  CAPTURE(far_pages);
  MissCurve curve(64, 1);
  CHECK_FALSE(curve.Samples(Vpn(1)));
  CHECK(curve.Points(1).empty());
  curve.Begin(far_pages);
  int64_t sampled = 0;
  for (int64_t page = 0; page < far_pages; ++page) {
    sampled += curve.Samples(Vpn(static_cast<uint64_t>(page)));
  }
  const int64_t expected = std::min<int64_t>(far_pages, 64 * MissCurve::kSizes);
  CHECK(sampled >= expected * 8 / 10);
  CHECK(sampled <= expected * 22 / 10);
}

TEST_CASE("between its points a curve is a line, and beyond them its ends", "[arbiter]") {
  const std::vector<MissCurve::Point> points{{0, 10}, {100, 10}, {200, 4}, {400, 0}};
  CHECK(MissCurve::At(points, 50) == 10);
  CHECK(MissCurve::At(points, 150) == 7);
  CHECK(MissCurve::At(points, 300) == 2);
  CHECK(MissCurve::At(points, 1000) == 0);
  CHECK(MissCurve::At({}, 5) == 0);
}

}  // namespace
}  // namespace spiritos
