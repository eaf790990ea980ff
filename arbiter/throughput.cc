// SPDX-License-Identifier: Apache-2.0
// Differences of reports, and a queue.
#include "arbiter/throughput.h"

#include <algorithm>
#include <cmath>

namespace spiritos {
namespace {

constexpr double kNs = 1e-9;
// Of an epoch's weight, in the next one: half is forgotten after two epochs.
constexpr double kKept = 0.7;
// A curve that is further off than this was made of another phase of the program; its shape
// alone cannot be held to be right.
constexpr double kMostCorrection = 8;
// Below so many misses in all there is nothing to go by.
constexpr double kFewestMisses = 32;

// Every counter, each of which only grows.
bool Follows(const Report& before, const Report& now) {
  return now.time_ns > before.time_ns && now.running_ns >= before.running_ns &&
         now.stalled_ns >= before.stalled_ns && now.throttled_ns >= before.throttled_ns &&
         now.misses >= before.misses && now.read_bytes >= before.read_bytes &&
         now.written_bytes >= before.written_bytes;
}

double Difference(uint64_t before, uint64_t now) { return static_cast<double>(now - before); }

}  // namespace

void Throughput::Learn(const Report& report) {
  // Ever fewer misses with more memory, whatever the tenant says.
  step_bytes_ = static_cast<double>(report.rates.step_bytes);
  double least = HUGE_VAL;
  for (size_t i = 0; i < rates_.size(); ++i) {
    least = std::min(least, static_cast<double>(report.rates.misses_per_s[i]));
    rates_[i] = least;
  }
  if (last_.has_value() && Follows(*last_, report)) {
    const Report& before = *last_;
    const double running_s = kNs * Difference(before.running_ns, report.running_ns);
    const double stalled_s = kNs * Difference(before.stalled_ns, report.stalled_ns);
    const double throttled_s =
        std::min(stalled_s, kNs * Difference(before.throttled_ns, report.throttled_ns));
    for (double* const sum : {&sums_.wall_s, &sums_.running_s, &sums_.stalled_s, &sums_.busy_s,
                              &sums_.misses, &sums_.bytes, &sums_.predicted}) {
      *sum *= kKept;
    }
    sums_.wall_s += kNs * Difference(before.time_ns, report.time_ns);
    sums_.running_s += running_s;
    sums_.stalled_s += stalled_s - throttled_s;
    sums_.busy_s += running_s + stalled_s;
    sums_.misses += Difference(before.misses, report.misses);
    sums_.bytes += Difference(before.read_bytes, report.read_bytes) +
                   Difference(before.written_bytes, report.written_bytes);
    sums_.predicted += running_s * OfCurve(static_cast<double>(report.budget_bytes));
  }
  last_ = report;
}

bool Throughput::known() const {
  return step_bytes_ > 0 && rates_[0] > 0 && sums_.misses >= kFewestMisses && sums_.running_s > 0 &&
         sums_.wall_s > 0;
}

double Throughput::OfCurve(double memory_bytes) const {
  if (!(step_bytes_ > 0)) return 0;
  const double at = std::clamp(memory_bytes / step_bytes_ - 1, 0.0, double{MissRates::kPoints});
  const auto below = static_cast<size_t>(at);
  if (below + 1 >= rates_.size()) return rates_.back();
  const double part = at - static_cast<double>(below);
  return rates_[below] + part * (rates_[below + 1] - rates_[below]);
}

double Throughput::Correction() const {
  if (!(sums_.predicted > 0)) return 1;
  return std::clamp(sums_.misses / sums_.predicted, 1 / kMostCorrection, kMostCorrection);
}

double Throughput::misses_per_s(double memory_bytes) const {
  return OfCurve(memory_bytes) * Correction();
}
double Throughput::threads() const { return sums_.busy_s / sums_.wall_s; }
double Throughput::stall_s() const { return sums_.stalled_s / sums_.misses; }
double Throughput::bytes_per_miss() const { return sums_.bytes / sums_.misses; }

double Throughput::At(double memory_bytes, double bandwidth_bytes_per_s) const {
  const double misses = misses_per_s(memory_bytes);
  if (!(misses > 0)) return threads();
  if (!(bandwidth_bytes_per_s > 0)) return 0;
  const double turn_s = bytes_per_miss() / bandwidth_bytes_per_s;
  const double away_s = std::max(0.0, 1 / misses + stall_s() - turn_s);
  // R^2 - (nD - Z) R - (DZ - D^2 (n - 1) / 2) = 0, and nobody's turn is shorter than D.
  const double crowd_s = threads() * turn_s - away_s;
  const double rest = turn_s * away_s - turn_s * turn_s * (threads() - 1) / 2;
  const double root_s = std::sqrt(std::max(0.0, crowd_s * crowd_s + 4 * rest));
  // Written so that it does not cancel.
  const double solved_s =
      crowd_s > 0 ? (crowd_s + root_s) / 2 : 2 * rest / std::max(root_s - crowd_s, 1e-300);
  const double on_link_s = std::max(turn_s, solved_s);
  const double rate = std::min(threads() / (away_s + on_link_s), 1 / turn_s);
  return std::min(threads(), rate / misses);
}

}  // namespace spiritos
