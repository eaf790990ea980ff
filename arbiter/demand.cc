// SPDX-License-Identifier: Apache-2.0
// Looks along a tenant's budget line.
#include "arbiter/demand.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace spiritos {
namespace {

constexpr size_t kSideNodes = 16;     // On either side of the entitlement.
constexpr double kPeakMargin = 0.85;  // A peak between nodes is at most so much higher.
constexpr double kOtherSide = 0.98;   // A side whose nodes are all lower has not the best.
constexpr double kBoundGap = 0.004;   // What is at most so much better need not be found.
constexpr int kMostHalvings = 160;
constexpr double kTie = 1e-12;       // Relative: what differs by less is as good.
constexpr double kPrecision = 1e-9;  // Of a peak's place, relative to the line.
constexpr double kCoarsePrecision = 1e-3;
constexpr double kFirstGap = 0.15;   // From the entitlement to the next node, relative.
constexpr double kEverywhere = 1e9;  // A log ratio beyond all prices.

// The i-th node of a side: how far it is from the pivot to the end of the side, 0 to 1. The
// further the end is, the denser the nodes are near the pivot.
double NodeFraction(size_t i, double exponent) {
  const double at = static_cast<double>(i) / kSideNodes;
  return exponent == 1 ? at : std::pow(at, exponent);
}
double NodeExponent(double end, double pivot) {
  if (!(pivot > 0)) return 1;
  const double gap = (end / pivot - 1) / kFirstGap;
  return gap <= kSideNodes ? 1 : std::log(gap) / std::log(double{kSideNodes});
}

}  // namespace

Prices Prices::FromRatio(double log_ratio) {
  const double bandwidth = 1 / (1 + std::exp(log_ratio));
  return {log_ratio, 1 / (1 + std::exp(-log_ratio)), bandwidth};
}

Demand::Demand(const Utility* utility, const Shares& entitlement, const Bounds& bounds)
    : utility_(utility),
      entitlement_(entitlement),
      bounds_(bounds),
      entitled_utility_(UtilityOf(entitlement.cache(), entitlement.bandwidth())) {}

void Demand::Restrict(double least, double most) {
  least_ = least;
  most_ = most;
  peak_count_ = 0;
}

void Demand::SetMoney(double money) {
  money_ = money;
  buys_until_ = -kEverywhere;  // The lines turn around another point.
  sells_from_ = kEverywhere;
}

double Demand::Line::BandwidthFor(double cache) const {
  return std::clamp((money - prices.cache * cache) / prices.bandwidth, least_bandwidth,
                    most_bandwidth);
}

Demand::Line Demand::LineAt(const Prices& prices) const {
  Line line;
  line.prices = prices;
  line.money = money_at(prices);
  line.least_bandwidth = bounds_.minimum.bandwidth();
  line.most_bandwidth = bounds_.maximum.bandwidth();
  // Left of where the bandwidth reaches its maximum, money is left over.
  const double full = (line.money - prices.bandwidth * line.most_bandwidth) / prices.cache;
  const double broke = (line.money - prices.bandwidth * line.least_bandwidth) / prices.cache;
  const double most = std::min(bounds_.maximum.cache(), most_);
  line.most = std::max(bounds_.minimum.cache(), std::min(most, broke));
  line.least = std::min(line.most, std::max({bounds_.minimum.cache(), least_, full}));
  line.pivot = std::clamp(money_ * entitlement_.cache(), line.least, line.most);
  return line;
}

Demand::Node Demand::Try(const Line& line, double cache) const {
  return {cache, UtilityOf(cache, line.BandwidthFor(cache))};
}

Demanded Demand::At(const Prices& prices, Look look) {
  const Line line = LineAt(prices);
  Node best{};
  if (line.most - line.least <= 1e-15) {
    best = Try(line, line.most);
  } else if (look == Look::kNear && peak_count_ > 0) {
    best = BestOfPeaks(line, std::abs(prices.log_ratio - peaks_at_));
  } else {
    best = BestOfAll(line, look);
  }
  return Cheapest(line, best);
}

void Demand::NoteSide(const Line& line, std::span<const Node> nodes, const Node& best) {
  if (restricted() || best.cache == line.pivot) return;
  const bool buys = best.cache > line.pivot;
  for (const Node& node : nodes) {
    if ((node.cache > line.pivot) == buys || node.cache == line.pivot) continue;
    if (node.utility >= best.utility * kOtherSide) return;
  }
  double& bound = buys ? buys_until_ : sells_from_;
  const double at = line.prices.log_ratio;
  bound = buys ? std::max(bound, at) : std::min(bound, at);
}

size_t Demand::Nodes(const Line& line, Look look, std::span<Node> nodes) const {
  size_t count = 0;
  const size_t stride = look == Look::kCoarse ? 2 : 1;
  const bool both = look == Look::kSure || restricted();
  const bool left = both || line.prices.log_ratio > buys_until_;
  const bool right = both || line.prices.log_ratio < sells_from_;
  if (left && line.pivot > line.least) {
    // Nodes by bandwidth: it is what grows to the left, and may grow a thousandfold.
    const double from = line.BandwidthFor(line.pivot);
    const double to = line.BandwidthFor(line.least);
    const double exponent = NodeExponent(to, from);
    for (size_t i = kSideNodes; i > 0; i -= stride) {
      const double away = NodeFraction(i, exponent);
      nodes[count++] = Try(line, line.pivot + (line.least - line.pivot) * away);
    }
  }
  nodes[count++] = Try(line, line.pivot);
  if (right && line.most > line.pivot) {
    const double exponent = NodeExponent(line.most, line.pivot);
    for (size_t i = stride; i <= kSideNodes; i += stride) {
      const double away = NodeFraction(i, exponent);
      nodes[count++] = Try(line, line.pivot + (line.most - line.pivot) * away);
    }
  }
  return count;
}

Demand::Node Demand::BestOfAll(const Line& line, Look look) {
  const bool refine = look != Look::kCoarse;
  std::array<Node, 2 * kSideNodes + 1> nodes;
  const size_t count = Nodes(line, look, nodes);
  double top = 0;
  for (size_t i = 0; i < count; ++i) top = std::max(top, nodes[i].utility);
  // The nodes that may stand for the highest peaks, the best first.
  std::array<size_t, kPeaks> chosen{};
  size_t peaks = 0;
  for (size_t i = 0; i < count; ++i) {
    const double here = nodes[i].utility;
    if (here < kPeakMargin * top) continue;
    if (i > 0 && nodes[i - 1].utility > here) continue;
    if (i + 1 < count && nodes[i + 1].utility >= here) continue;  // The last of a plateau.
    size_t at = std::min(peaks, kPeaks);
    if (at == kPeaks && here <= nodes[chosen[at - 1]].utility) continue;
    at = std::min(at, kPeaks - 1);
    for (; at > 0 && nodes[chosen[at - 1]].utility < here; --at) chosen[at] = chosen[at - 1];
    chosen[at] = i;
    peaks = std::min(peaks + 1, kPeaks);
  }
  if (peaks == 0) chosen[peaks++] = 0;  // All the same; the pivot is as good as any.
  const double tolerance = refine ? kPrecision : kCoarsePrecision;
  Node best{0, -1};
  peak_count_ = 0;
  for (size_t p = 0; p < peaks; ++p) {
    const size_t i = chosen[p];
    const Node& left = nodes[i > 0 ? i - 1 : i];
    const Node& right = nodes[i + 1 < count ? i + 1 : i];
    const Node peak = refine || p == 0 ? Refine(line, left, nodes[i], right, tolerance) : nodes[i];
    peaks_[peak_count_++] = peak.cache;
    if (peak.utility > best.utility) best = peak;
  }
  if (look == Look::kSure) best = Bound(line, std::span<const Node>(nodes).first(count), best);
  peaks_at_ = line.prices.log_ratio;
  NoteSide(line, std::span<const Node>(nodes).first(count), best);
  return best;
}

// Halves what may hide a better bundle than `best` until nothing does.
Demand::Node Demand::Bound(const Line& line, std::span<const Node> nodes, Node best) {
  struct Gap {
    Node left;
    Node right;
  };
  std::array<Gap, 2 * kSideNodes + 1 + kMostHalvings> gaps;
  size_t count = 0;
  for (size_t i = 0; i + 1 < nodes.size(); ++i) gaps[count++] = {nodes[i], nodes[i + 1]};
  int halvings = 0;
  while (count > 0 && halvings < kMostHalvings) {
    const Gap gap = gaps[--count];
    const double bound = UtilityOf(gap.right.cache, line.BandwidthFor(gap.left.cache));
    if (bound <= best.utility * (1 + kBoundGap)) continue;
    ++halvings;
    const Node middle = Try(line, (gap.left.cache + gap.right.cache) / 2);
    if (middle.utility > best.utility) {
      const Node peak = Refine(line, gap.left, middle, gap.right, kPrecision);
      if (peak.utility > best.utility * (1 + kTie)) {
        best = peak;
        peak_count_ = std::min(peak_count_ + 1, kPeaks);
        peaks_[peak_count_ - 1] = peak.cache;
      }
    }
    gaps[count++] = {gap.left, middle};
    gaps[count++] = {middle, gap.right};
  }
  return best;
}

Demand::Node Demand::BestOfPeaks(const Line& line, double turned) {
  Node best{0, -1};
  const double reach = std::max(line.most - line.least, line.most);
  const double step = reach * std::clamp(0.1 * turned, 1e-7, 0.02);
  const double precision = std::clamp(1e-3 * turned, kPrecision, 1e-6);
  for (size_t p = 0; p < peak_count_; ++p) {
    const double from = std::clamp(peaks_[p], line.least, line.most);
    const Node peak = Climb(line, Try(line, from), step, precision);
    peaks_[p] = peak.cache;
    if (peak.utility > best.utility) best = peak;
  }
  peaks_at_ = line.prices.log_ratio;
  return best;
}

// Uphill from `from` in growing steps until it goes down again, and back to the peak.
Demand::Node Demand::Climb(const Line& line, Node from, double step, double precision) const {
  const auto beside = [&](double cache) {
    return Try(line, std::clamp(cache, line.least, line.most));
  };
  Node left = beside(from.cache - step);
  Node right = beside(from.cache + step);
  if (left.utility > from.utility || right.utility > from.utility) {
    const double sign = right.utility > left.utility ? 1 : -1;
    Node behind = from;
    Node ahead = sign > 0 ? right : left;
    while (ahead.utility > from.utility) {
      behind = from;
      from = ahead;
      step *= 2.5;
      ahead = beside(from.cache + sign * step);
      if (ahead.cache == from.cache) break;  // The end of the line.
    }
    left = sign > 0 ? behind : ahead;
    right = sign > 0 ? ahead : behind;
  }
  return Refine(line, left, from, right, precision);
}

// Brent's method: parabolas, and golden sections where they do not help.
Demand::Node Demand::Refine(const Line& line, const Node& left, Node middle, const Node& right,
                            double tolerance) const {
  constexpr double kGolden = 0.3819660112501051;
  double low = left.cache;
  double high = right.cache;
  const double least_step = std::max(tolerance * (line.most - line.least), 1e-16);
  if (low == middle.cache || high == middle.cache) {
    // The end of the line. It is the peak if the least step away from it leads down.
    const double inwards = low == middle.cache ? 4 * least_step : -4 * least_step;
    const Node tried = Try(line, std::clamp(middle.cache + inwards, line.least, line.most));
    if (tried.utility < middle.utility) return middle;
    if (tried.utility > middle.utility) {
      (low == middle.cache ? low : high) = middle.cache;
      middle = tried;
    }
  }
  Node second = left.utility >= right.utility ? left : right;
  Node third = left.utility >= right.utility ? right : left;
  double step = 0;
  double step_before = high - low;
  for (int round = 0; round < 60; ++round) {
    const double center = (low + high) / 2;
    if (std::abs(middle.cache - center) + (high - low) / 2 <= 2 * least_step) break;
    bool parabola = false;
    if (std::abs(step_before) > least_step) {
      const double r = (middle.cache - second.cache) * (third.utility - middle.utility);
      double q = (middle.cache - third.cache) * (second.utility - middle.utility);
      double p = (middle.cache - third.cache) * q - (middle.cache - second.cache) * r;
      q = 2 * (q - r);
      if (q > 0) p = -p;
      q = std::abs(q);
      const double before = step_before;
      step_before = step;
      parabola = std::abs(p) < std::abs(q * before / 2) && p > q * (low - middle.cache) &&
                 p < q * (high - middle.cache);
      if (parabola) {
        step = p / q;
        const double at = middle.cache + step;
        if (at - low < 2 * least_step || high - at < 2 * least_step) {
          step = middle.cache < center ? least_step : -least_step;
        }
      }
    }
    if (!parabola) {
      step_before = middle.cache < center ? high - middle.cache : low - middle.cache;
      step = kGolden * step_before;
    }
    const double least = std::abs(step) >= least_step ? step : std::copysign(least_step, step);
    const Node tried = Try(line, std::clamp(middle.cache + least, line.least, line.most));
    if (tried.utility >= middle.utility) {
      (tried.cache >= middle.cache ? low : high) = middle.cache;
      third = second;
      second = middle;
      middle = tried;
    } else {
      (tried.cache < middle.cache ? low : high) = tried.cache;
      if (tried.utility >= second.utility || second.cache == middle.cache) {
        third = second;
        second = tried;
      } else if (tried.utility >= third.utility || third.cache == middle.cache ||
                 third.cache == second.cache) {
        third = tried;
      }
    }
  }
  return middle;
}

// Gives back what of the bundle is of no use, if it is worth as much without.
Demanded Demand::Cheapest(const Line& line, const Node& best) const {
  Demanded chosen{best.cache, line.BandwidthFor(best.cache), best.utility};
  if (restricted()) return chosen;  // It has to stay where it was put.
  const double enough = best.utility * (1 - kTie);
  const auto shrink = [&](double& share, double least) {
    if (share <= least) return;
    const double whole = share;
    share = whole - 1e-3 * (whole - least);
    if (UtilityOf(chosen.cache, chosen.bandwidth) < enough) {
      share = whole;
      return;
    }
    share = least;
    if (UtilityOf(chosen.cache, chosen.bandwidth) >= enough) return;
    double low = least;
    double high = whole;
    for (int round = 0; round < 40; ++round) {
      share = (low + high) / 2;
      (UtilityOf(chosen.cache, chosen.bandwidth) < enough ? low : high) = share;
    }
    share = high;
  };
  // The dearer part first.
  if (line.prices.cache >= line.prices.bandwidth) {
    shrink(chosen.cache, bounds_.minimum.cache());
    shrink(chosen.bandwidth, bounds_.minimum.bandwidth());
  } else {
    shrink(chosen.bandwidth, bounds_.minimum.bandwidth());
    shrink(chosen.cache, bounds_.minimum.cache());
  }
  return chosen;
}

}  // namespace spiritos
