// SPDX-License-Identifier: Apache-2.0
// Sweeps, narrows, and settles what jumps.
#include "arbiter/price_search.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace spiritos {
namespace {

constexpr double kMostRatio = 21;      // A price ratio of 1e9; nobody pays more.
constexpr double kExcess = 2e-9;       // Value of the total: noise of the demand.
constexpr double kStillClear = 5e-8;   // The same, where the search began nearby.
constexpr double kLeastWidth = 1e-9;   // A bracket this narrow that is no zero is a jump.
constexpr double kNearWidth = 0.06;    // Below, tenants look near their last peaks only.
constexpr double kJumpWidth = 0.02;    // Below, a jump is looked for where one tenant jumps.
constexpr size_t kFew = 64;            // More tenants, and one jump hardly matters.
constexpr double kMoved = 1e-5;        // Of a tenant's money: more between ends is a jump.
constexpr double kIndifferent = 1e-7;  // Relative: two utilities that are the same.
constexpr double kSlack = 1e-7;        // Of all money: less left over is nothing.
constexpr double kFair = 1e-9;
constexpr size_t kSubset = 12;    // So few jumping tenants are tried in all ways.
constexpr int kDepth = 3;         // So often a jump is followed by another search.
constexpr int kMostRounds = 400;  // After so many, what there is has to do.

// Log ratios: prices of cache from 1/16 to 15/16, where bisection would look, too, and two
// far out. Slightly off, as jumps like to be at round prices.
constexpr std::array<double, 17> kSweep = {-5.2,   -2.709, -1.947, -1.468, -1.1,  -0.789,
                                           -0.511, -0.252, 0.001,  0.252,  0.512, 0.788,
                                           1.098,  1.465,  1.945,  2.707,  5.2};

// Who buys cache at one price buys it at all lower ones: asked for in this order, most
// tenants have to look along one half of most lines only.
constexpr std::array<size_t, kSweep.size()> kSweepOrder = {8, 4, 12, 2, 6, 10, 14, 0, 16,
                                                           1, 3, 5,  7, 9, 11, 13, 15};

double MidCache(const Demanded& a, const Demanded& b) { return (a.cache + b.cache) / 2; }

Demanded Between(const Demand& demand, const Demanded& a, const Demanded& b, double share_of_b) {
  Demanded mixed;
  mixed.cache = a.cache + (b.cache - a.cache) * share_of_b;
  mixed.bandwidth = a.bandwidth + (b.bandwidth - a.bandwidth) * share_of_b;
  mixed.utility = demand.UtilityOf(mixed.cache, mixed.bandwidth);
  return mixed;
}

}  // namespace

PriceSearch::PriceSearch(std::span<Demand> demands, const Shares& supply)
    : demands_(demands), supply_(supply) {}

void PriceSearch::SetMoney(double money) {
  money_ = money;
  for (Demand& demand : demands_) demand.SetMoney(money);
}

Market PriceSearch::Ask(double log_ratio, Look look) {
  Market market;
  market.prices = Prices::FromRatio(log_ratio);
  market.bundles.resize(demands_.size());
  for (size_t i = 0; i < demands_.size(); ++i) {
    market.bundles[i] = demands_[i].At(market.prices, look);
  }
  ++rounds_;
  Add(market);
  return market;
}

void PriceSearch::Add(Market& market) const {
  double cache = 0;
  double bandwidth = 0;
  for (const Demanded& bundle : market.bundles) {
    cache += bundle.cache;
    bandwidth += bundle.bandwidth;
  }
  const Prices& prices = market.prices;
  market.cache_excess = cache - supply_.cache();
  market.bandwidth_excess = bandwidth - supply_.bandwidth();
  market.value_excess =
      prices.cache * market.cache_excess - prices.bandwidth * market.bandwidth_excess;
  const double value = prices.cache * supply_.cache() + prices.bandwidth * supply_.bandwidth();
  market.spent_fraction = (prices.cache * cache + prices.bandwidth * bandwidth) / value;
}

Settlement PriceSearch::Everywhere() {
  std::vector<Bracket> brackets;
  std::array<double, kSweep.size()> excess;
  for (const size_t i : kSweepOrder) excess[i] = Ask(kSweep[i], Look::kCoarse).value_excess;
  for (size_t i = 1; i < kSweep.size(); ++i) {
    if ((excess[i] > 0) != (excess[i - 1] > 0)) {
      brackets.push_back({kSweep[i - 1], kSweep[i], excess[i - 1], excess[i]});
    }
  }
  if (brackets.empty()) return Near(excess.back() > 0 ? kSweep.back() : kSweep.front());
  Settlement best;
  for (const Bracket& bracket : brackets) {
    Settlement found = Solve(bracket, 0);
    if (!found.settled) continue;
    if (!best.settled || std::pair(found.fair, found.score) > std::pair(best.fair, best.score)) {
      best = std::move(found);
    }
  }
  return best;
}

Settlement PriceSearch::Near(double log_ratio) { return Solve(Walk(log_ratio), 0); }

// Goes where the excess says, in growing steps, until its sign changes or prices end.
PriceSearch::Bracket PriceSearch::Walk(double from) {
  const double excess = Ask(from, Look::kGlobal).value_excess;
  if (std::abs(excess) <= kStillClear) return {from, from, excess, excess};
  const double sign = excess > 0 ? 1 : -1;
  double here = from;
  double excess_here = excess;
  // By how much the excess would fall if all kept to their parts of the money.
  const Prices at = Prices::FromRatio(from);
  const double slope = 2 * at.cache * at.bandwidth;
  const double guess = 1.2 * std::abs(excess) / slope;
  for (double step = std::clamp(guess, 1e-6, 0.1);; step *= 3) {
    const double next = std::clamp(here + sign * step, -kMostRatio, kMostRatio);
    if (next == here) return {here, here, excess_here, excess_here};
    const double excess_next = Ask(next, Look::kGlobal).value_excess;
    if ((excess_next > 0) != (excess > 0)) {
      return sign > 0 ? Bracket{here, next, excess_here, excess_next}
                      : Bracket{next, here, excess_next, excess_here};
    }
    here = next;
    excess_here = excess_next;
  }
}

// The ITP method (Oliveira and Takahashi 2020): no more rounds than bisection, and few where
// the excess is smooth.
bool PriceSearch::Narrow(Bracket bracket, Market& low, Market& high, int attempts) {
  const double first_width = bracket.high - bracket.low;
  const int most_rounds =
      static_cast<int>(std::ceil(std::log2(std::max(first_width / kLeastWidth, 2.0)))) + 1;
  const bool falling = bracket.low_excess > 0;
  const double clear = first_width > kNearWidth ? kExcess : kStillClear;
  bool have_low = false;
  bool have_high = false;
  int jump_tries = 3;
  for (int round = 0; round < 2 * most_rounds; ++round) {
    const double width = bracket.high - bracket.low;
    if (width <= kLeastWidth) break;
    const double middle = bracket.low + width / 2;
    const double chord = (bracket.low_excess * bracket.high - bracket.high_excess * bracket.low) /
                         (bracket.low_excess - bracket.high_excess);
    const double sign = middle > chord ? 1 : -1;
    const double truncated = 0.2 / first_width * width * width;
    const double toward = truncated <= std::abs(middle - chord) ? chord + sign * truncated : middle;
    const double radius =
        std::max(kLeastWidth / 2 * std::exp2(most_rounds - round) - width / 2, 0.0);
    double next = std::abs(toward - middle) <= radius ? toward : middle - sign * radius;
    next = std::clamp(next, bracket.low + width / 64, bracket.high - width / 64);
    Market market = Ask(next, width > kNearWidth ? Look::kGlobal : Look::kNear);
    const double excess = market.value_excess;
    const bool zero = std::abs(excess) <= clear;
    if ((excess > 0) == falling) {
      bracket.low = next;
      bracket.low_excess = excess;
      low = std::move(market);
      have_low = true;
      if (zero) high = low;
    } else {
      bracket.high = next;
      bracket.high_excess = excess;
      high = std::move(market);
      have_high = true;
      if (zero) low = high;
    }
    if (zero) return true;
    if (have_low && have_high && bracket.high - bracket.low < kJumpWidth && jump_tries-- > 0) {
      TryJump(bracket, low, high);
    }
  }
  // An end that was never looked at again may have had its sign from a coarse look, or be
  // the very place of the jump.
  if (!have_low) low = Ask(bracket.low - kLeastWidth, Look::kGlobal);
  if (!have_high) high = Ask(bracket.high + kLeastWidth, Look::kGlobal);
  if ((low.value_excess > 0) != (high.value_excess > 0)) return false;
  bracket = Walk(have_low ? bracket.high : bracket.low);
  if (attempts > 1 && bracket.low < bracket.high) return Narrow(bracket, low, high, attempts - 1);
  high = low;
  return true;
}

// If one tenant makes most of the difference between the ends it may jump: where it does is
// found without asking the others. The bracket shrinks around it or to one side of it.
void PriceSearch::TryJump(Bracket& bracket, Market& low, Market& high) {
  const auto value = [&](const Demanded& bundle) {
    return low.prices.cache * bundle.cache - low.prices.bandwidth * bundle.bandwidth;
  };
  size_t jumper = 0;
  double most = 0;
  for (size_t i = 0; i < demands_.size(); ++i) {
    const double change = std::abs(value(low.bundles[i]) - value(high.bundles[i]));
    if (change <= most) continue;
    most = change;
    jumper = i;
  }
  if (most < std::abs(bracket.low_excess - bracket.high_excess) / 3) return;
  const double from_low = low.bundles[jumper].cache;
  const double from_high = high.bundles[jumper].cache;
  double left = bracket.low;
  double right = bracket.high;
  while (right - left > kLeastWidth / 4) {
    const double middle = (left + right) / 2;
    const double cache = demands_[jumper].At(Prices::FromRatio(middle), Look::kNear).cache;
    (std::abs(cache - from_low) < std::abs(cache - from_high) ? left : right) = middle;
  }
  for (const double at : {left - kLeastWidth / 4, right + kLeastWidth / 4}) {
    if (at <= bracket.low || at >= bracket.high) continue;
    Market market = Ask(at, Look::kNear);
    const bool is_low = (market.value_excess > 0) == (bracket.low_excess > 0);
    (is_low ? bracket.low : bracket.high) = at;
    (is_low ? bracket.low_excess : bracket.high_excess) = market.value_excess;
    (is_low ? low : high) = std::move(market);
  }
}

Settlement PriceSearch::Solve(Bracket bracket, int depth) {
  Settlement settlement = SolveOnce(bracket, depth);
  // Money that the sated leave over goes to the others.
  const double first_money = money_;
  for (int round = 0; round < 12 && settlement.settled && rounds_ < kMostRounds; ++round) {
    const Market& market = settlement.market;
    const double slack = 1 - market.spent_fraction;
    if (std::abs(slack) <= kSlack) break;
    double eager = 0;
    double all = 0;
    for (size_t i = 0; i < demands_.size(); ++i) {
      const double money = demands_[i].money_at(market.prices);
      const double spent = market.prices.cache * market.bundles[i].cache +
                           market.prices.bandwidth * market.bundles[i].bandwidth;
      all += money / money_;
      if (spent >= money * (1 - 1e-6)) eager += money;
    }
    if (eager <= 1e-9 * all) break;
    // What the sated spend changes with the prices: a step may be too long, and is taken back.
    const double money = std::max(money_ * std::clamp(1 + slack * all / eager, 0.5, 4.0), 1.0);
    if (money == money_ || money > 1e4) break;
    SetMoney(money);
    Settlement richer = SolveOnce(Walk(market.prices.log_ratio), depth);
    if (!richer.settled) break;
    settlement = std::move(richer);
  }
  if (money_ != first_money) SetMoney(first_money);
  return settlement;
}

Settlement PriceSearch::SolveOnce(const Bracket& bracket, int depth) {
  if (bracket.low == bracket.high) return BestNearby(Judge(Ask(bracket.low, Look::kNear)));
  Market low;
  Market high;
  bool zero = Narrow(bracket, low, high);
  // Peaks that looks nearby could not know of: look everywhere once, and go on if it matters.
  const bool wide = bracket.high - bracket.low > kNearWidth;
  for (int round = 0; round < 3 && wide; ++round) {
    Market checked = Ask(low.prices.log_ratio, Look::kSure);
    if (std::abs(checked.value_excess - low.value_excess) <= 4 * kStillClear) break;
    zero = Narrow(Walk(low.prices.log_ratio), low, high);
  }
  if (zero) return BestNearby(Judge(std::move(low)));
  if (low.value_excess < high.value_excess) std::swap(low, high);
  return Settle(low, high, depth);
}

// Whether the tenant is as happy with any mixture of the two bundles.
bool PriceSearch::Splits(size_t tenant, const Demanded& a, const Demanded& b) const {
  const double enough = std::max(a.utility, b.utility) * (1 - kIndifferent);
  for (const double share : {0.25, 0.5, 0.75}) {
    if (Between(demands_[tenant], a, b, share).utility < enough) return false;
  }
  return true;
}

// Between `low`, where cache is in demand, and `high`, where bandwidth is, there is but a
// jump. Those who jump are given the bundle of one side or the other, and those to whom it is
// all the same a part of both, so that the market clears. If it does not, it has no
// equilibrium here: each of them is bound to its side and the search goes on without
// the jump, or the last one gets a mixture that is worth less to it. The best is taken.
Settlement PriceSearch::Settle(const Market& low, const Market& high, int depth) {
  struct Jumper {
    size_t tenant;
    double value;  // By which the excess falls if it changes sides.
    bool changed;
  };
  std::vector<Jumper> jumpers;
  std::vector<Jumper> splitters;
  double splittable = 0;
  Market market = low;
  const Prices& prices = market.prices;
  for (size_t i = 0; i < demands_.size(); ++i) {
    const Demanded& a = low.bundles[i];
    const Demanded& b = high.bundles[i];
    const double value =
        prices.cache * (a.cache - b.cache) + prices.bandwidth * (b.bandwidth - a.bandwidth);
    const bool moved = std::abs(value) > kMoved * demands_[i].money_at(prices);
    if (!moved || value < 0) {
      // Continuous, or the wrong way round, which a jump of demand never is.
      continue;
    }
    if (Splits(i, a, b)) {
      splitters.push_back({i, value, false});
      splittable += value;
    } else {
      jumpers.push_back({i, value, false});
    }
  }
  double rest = market.value_excess;
  const auto misses = [&](double left) {
    return left < 0 ? -left : std::max(0.0, left - splittable);
  };
  if (jumpers.size() <= kSubset) {
    uint32_t best = 0;
    double best_miss = 1e300;
    for (uint32_t chosen = 0; chosen < (1u << jumpers.size()); ++chosen) {
      double left = rest;
      for (size_t j = 0; j < jumpers.size(); ++j) {
        if ((chosen >> j & 1) != 0) left -= jumpers[j].value;
      }
      if (misses(left) < best_miss - 1e-12) {
        best_miss = misses(left);
        best = chosen;
      }
    }
    for (size_t j = 0; j < jumpers.size(); ++j) {
      jumpers[j].changed = (best >> j & 1) != 0;
      if (jumpers[j].changed) rest -= jumpers[j].value;
    }
  } else {
    std::sort(jumpers.begin(), jumpers.end(),
              [](const Jumper& a, const Jumper& b) { return a.value > b.value; });
    for (Jumper& jumper : jumpers) {
      if (rest <= splittable || jumper.value > rest) continue;
      jumper.changed = true;
      rest -= jumper.value;
    }
  }
  const auto build = [&](size_t mixed, double share) {
    Market built = low;
    for (size_t j = 0; j < jumpers.size(); ++j) {
      const size_t i = jumpers[j].tenant;
      if (j == mixed) {
        built.bundles[i] = Between(demands_[i], low.bundles[i], high.bundles[i], share);
      } else if (jumpers[j].changed) {
        built.bundles[i] = high.bundles[i];
      }
    }
    double left = market.value_excess;
    for (size_t j = 0; j < jumpers.size(); ++j) {
      left -= jumpers[j].value * (j == mixed ? share : jumpers[j].changed ? 1 : 0);
    }
    const double part = splittable > 0 ? std::clamp(left / splittable, 0.0, 1.0) : 0;
    for (const Jumper& splitter : splitters) {
      const size_t i = splitter.tenant;
      built.bundles[i] = Between(demands_[i], low.bundles[i], high.bundles[i], part);
    }
    Add(built);
    return built;
  };
  const double missing = misses(rest);
  if (jumpers.empty() || missing <= 1e-7) return Judge(build(jumpers.size(), 0));

  // Which one to mix: the one whose change would overshoot least.
  Settlement best;
  const auto take = [&best](Settlement found) {
    if (!found.settled) return;
    if (!best.settled || std::pair(found.fair, found.score) > std::pair(best.fair, best.score)) {
      best = std::move(found);
    }
  };
  const bool under = rest > 0;  // Cache is still in demand: one more should change.
  size_t marginal = jumpers.size();
  for (size_t j = 0; j < jumpers.size(); ++j) {
    if (jumpers[j].changed == under || jumpers[j].value < missing) continue;
    if (marginal == jumpers.size() || jumpers[j].value < jumpers[marginal].value) marginal = j;
  }
  if (marginal < jumpers.size()) {
    const double part = missing / jumpers[marginal].value;
    take(Judge(build(marginal, under ? part : 1 - part)));
  }
  if (depth >= kDepth || rounds_ >= kMostRounds ||
      (demands_.size() > kFew && best.fair && best.settled)) {
    if (!best.settled) take(Judge(build(jumpers.size(), 0)));
    return best;
  }
  const auto bind = [&] {
    std::vector<size_t> bound;
    for (const Jumper& jumper : jumpers) {
      Demand& demand = demands_[jumper.tenant];
      if (demand.restricted()) continue;
      const double middle = MidCache(low.bundles[jumper.tenant], high.bundles[jumper.tenant]);
      if (jumper.changed) {
        demand.Restrict(0, middle);
      } else {
        demand.Restrict(middle, 1);
      }
      bound.push_back(jumper.tenant);
    }
    if (!bound.empty()) take(Solve(Walk(prices.log_ratio), depth + 1));
    for (const size_t tenant : bound) demands_[tenant].Restrict(0, 1);
  };
  bind();
  if (depth == 0 && marginal < jumpers.size()) {
    jumpers[marginal].changed = !jumpers[marginal].changed;
    bind();
  }
  return best;
}

// Where tenants are at their maximum the market may clear at a range of prices. They differ
// in who gains, so the one with the highest score is looked for.
Settlement PriceSearch::BestNearby(Settlement here) {
  const std::vector<Demanded>& bundles = here.market.bundles;
  bool capped = false;
  for (size_t i = 0; i < bundles.size() && !capped; ++i) {
    const Shares& most = demands_[i].bounds().maximum;
    capped =
        bundles[i].cache >= most.cache() - 1e-9 || bundles[i].bandwidth >= most.bandwidth() - 1e-9;
  }
  if (!capped) return here;
  const auto clears = [](const Market& market) {
    return std::abs(market.cache_excess) <= 1e-8 && std::abs(market.bandwidth_excess) <= 1e-8;
  };
  const auto try_at = [&](double log_ratio) {
    Market market = Ask(log_ratio, Look::kNear);
    if (!clears(market)) return false;
    Settlement there = Judge(std::move(market));
    if (there.fair >= here.fair && there.score > here.score) here = std::move(there);
    return true;
  };
  for (const double direction : {-1.0, 1.0}) {
    double step = direction * 0.01;
    double at = here.market.prices.log_ratio;
    while (std::abs(step) >= 1e-4 && std::abs(at + step) < kMostRatio) {
      const double before = here.score;
      const bool cleared = try_at(at + step);
      if (cleared && here.score > before) {
        at += step;
        step *= 2;
      } else {
        step /= 4;
      }
    }
  }
  return here;
}

Settlement PriceSearch::Judge(Market market) const {
  Settlement settlement;
  settlement.settled = true;
  double gained = 0;
  size_t counted = 0;
  for (size_t i = 0; i < demands_.size(); ++i) {
    const double entitled = demands_[i].entitled_utility();
    const double has = market.bundles[i].utility;
    if (has < entitled * (1 - kFair)) settlement.fair = false;
    if (entitled <= 0 || has <= 0) continue;
    gained += std::log(has / entitled);
    ++counted;
  }
  settlement.score = counted == 0 ? 0 : gained / static_cast<double>(counted);
  settlement.market = std::move(market);
  return settlement;
}

}  // namespace spiritos
