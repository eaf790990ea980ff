// SPDX-License-Identifier: Apache-2.0
// Touches and sweeps in miniature, by the pager's own numbers.
#include "arbiter/miniature_pager.h"

#include <algorithm>

namespace spiritos {
namespace {

constexpr unsigned kZoneOfPage = kZoneShift - kPageShift;

}  // namespace

void MiniaturePager::SetBudget(int64_t budget_pages, double fraction) {
  const Watermarks marks = Watermarks::For(budget_pages);
  frames_per_tick_ = fraction * static_cast<double>(uint64_t{1} << TickShift(budget_pages));
  frames_ = std::max(1.0, fraction * static_cast<double>(budget_pages));
  low_ = std::min(fraction * static_cast<double>(marks.low), frames_ / 8);
  high_ = std::max(2 * low_, 1.0);
}

void MiniaturePager::AdvanceClock(double progress) {
  constexpr double kFewestMisses = 64;
  ticks_ += (progress - at_progress_) * misses_per_progress_ / frames_per_tick_;
  at_progress_ = progress;
  if (turnover_misses_ < std::max(frames_, kFewestMisses) || progress <= turnover_since_) return;
  misses_per_progress_ = turnover_misses_ / (progress - turnover_since_);
  turnover_since_ = progress;
  turnover_misses_ = 0;
}

bool MiniaturePager::Touch(Vpn page, double progress, std::vector<Vpn>* left) {
  AdvanceClock(progress);
  const auto [found, is_new] = pages_.try_emplace(page.raw());
  Page& touched = found->second;
  if (touched.here) return false;
  ++turnover_misses_;
  if (misses_per_progress_ == 0) ticks_ += 1 / frames_per_tick_;
  if (!is_new) {
    touched.hot = static_cast<uint8_t>(ticks_ - touched.since < kSoonTicks ? Hotter(touched.hot)
                                                                           : Cooler(touched.hot));
  }
  touched.here = true;
  touched.credit = static_cast<uint8_t>(CreditFor(touched.hot));
  touched.since = ticks_;
  ++resident_;
  const uint64_t zone = page.raw() >> kZoneOfPage;
  Zone& of = zones_[zone];
  of.here.push_back(page.raw());
  if (!of.listed) {
    of.listed = true;
    queue_.push_back(zone);
  }
  if (free_frames() < low_ || free_frames() < 0) SweepUntil(high_, left);
  return true;
}

void MiniaturePager::SweepUntil(double free, std::vector<Vpn>* left) {
  while (free_frames() < free && !queue_.empty()) {
    const uint64_t zone = queue_.front();
    queue_.pop_front();
    fruitless_ = Sweep(zone, left) != 0 ? 0 : fruitless_ + 1;
    const auto found = zones_.find(zone);
    if (found->second.here.empty()) {
      zones_.erase(found);
    } else {
      queue_.push_back(zone);
    }
  }
}

size_t MiniaturePager::Sweep(uint64_t zone, std::vector<Vpn>* left) {
  // As the evictors': one round in vain takes young pages too, two take whatever there is.
  const size_t zones = queue_.size() + 1;
  const bool urgent = fruitless_ > zones;
  const bool desperate = fruitless_ > 2 * zones;
  return std::erase_if(zones_[zone].here, [&](uint64_t number) {
    Page& page = pages_[number];
    if (!urgent && ticks_ - page.since < kMinAgeTicks) return false;
    if (!desperate && page.credit != 0) {
      --page.credit;
      page.since = ticks_;
      return false;
    }
    page.here = false;
    page.since = ticks_;
    --resident_;
    left->push_back(Vpn(number));
    return true;
  });
}

void MiniaturePager::Forget(Vpn page) {
  const auto found = pages_.find(page.raw());
  if (found == pages_.end()) return;
  if (found->second.here) {
    std::erase(zones_[page.raw() >> kZoneOfPage].here, page.raw());
    --resident_;
  }
  pages_.erase(found);
}

}  // namespace spiritos
