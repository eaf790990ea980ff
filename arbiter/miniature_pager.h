// SPDX-License-Identifier: Apache-2.0
// MiniaturePager: the pager's policy under another budget, played by a few of the pages.
//
//   touch --here--> nothing         the pager could not see it either
//      \----away--> miss --> here, with the credit of its past
//                     \--> too few frames free: the zone that has waited longest is swept
//
// What leaves is decided by each page's own past and by how fast frames are handed out
// (libos/base/recency.h), not by which pages there are besides. So a sample of the pages with
// the same part of a budget misses as often, for each page, as all of them would: Waldspurger
// et al., "Cache Modeling and Optimization using Miniature Simulations", USENIX ATC 2017.
// Misses are counted for each page and not for each access, since the sampled accesses
// depend on whether the one most popular page is in the sample, and its misses hardly do.
//
// Pure; one thread. Memory: some 100 bytes a sampled page.
#pragma once

#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

#include "libos/base/recency.h"
#include "libos/base/units.h"

namespace spiritos {

class MiniaturePager {
 public:
  // Plays `budget_pages`, of which `fraction` of all pages has its part. May change.
  void SetBudget(int64_t budget_pages, double fraction);

  // A sampled page is touched, after `progress` in any unit, which never falls. True: it was
  // away. Appends to `left` who leaves for it; only their next touches have to be seen.
  bool Touch(Vpn page, double progress, std::vector<Vpn>* left);
  // The page has no contents any more.
  void Forget(Vpn page);

  // Sampled pages that have contents, here or away.
  size_t pages() const { return pages_.size(); }
  size_t resident() const { return resident_; }

 private:
  struct Page {
    bool here = false;
    uint8_t hot = 0;
    uint8_t credit = 0;
    double since = 0;  // Tick at which it came or left.
  };
  struct Zone {
    bool listed = false;
    std::vector<uint64_t> here;  // Page numbers.
  };

  double free_frames() const { return frames_ - static_cast<double>(resident_); }
  void SweepUntil(double free, std::vector<Vpn>* left);
  void AdvanceClock(double progress);
  // How many pages left.
  size_t Sweep(uint64_t zone, std::vector<Vpn>* left);

  double frames_ = 1;
  double frames_per_tick_ = 1;
  double low_ = 0;
  double high_ = 1;
  // The fault clock. In few pages the misses come unevenly: those of a whole turnover say
  // how fast it goes in the next one.
  double ticks_ = 0;
  double at_progress_ = 0;
  double misses_per_progress_ = 0;  // 0: the first turnover is not over.
  double turnover_since_ = 0;
  double turnover_misses_ = 0;
  size_t resident_ = 0;
  size_t fruitless_ = 0;  // Sweeps one after the other that freed nothing.
  std::unordered_map<uint64_t, Page> pages_;
  std::unordered_map<uint64_t, Zone> zones_;
  std::deque<uint64_t> queue_;  // Of zones, the one that has waited longest first.
};

}  // namespace spiritos
