// SPDX-License-Identifier: Apache-2.0
// Harvest: takes a unit from the best off, gives it to the worst off, and looks what came
// of it. Knows measurements only, no utilities.
//
// Every tenant has the resource that it is tried with next. A loser that did worse by the
// last step is tried with the other one next, and gets its unit back if it lost a lot; so
// is a winner that did no better.
#include <algorithm>
#include <optional>
#include <vector>

#include "arbiter/policy.h"

namespace spiritos {
namespace {

constexpr double kUnit = 1.0 / 200;
constexpr double kNoticed = 0.01;  // Relative changes.
constexpr double kTooMuch = 0.1;

class HarvestPolicy final : public Policy {
 public:
  absl::StatusOr<Allocation> Next(const PolicyInput& input) override {
    const size_t n = input.tenants.size();
    Allocation held(input.held.begin(), input.held.end());
    if (states_.size() != n) {
      states_.assign(n, State{});
      for (size_t i = 0; i < n; ++i) states_[i].base = input.measured[i];
      pool_ = Shares();
    }
    for (State& state : states_) state.rests = state.last.has_value();
    Judge(input, held);
    Move(input, held);
    return held;
  }

 private:
  struct Change {
    bool up = false;
    double before = 0;
  };
  struct State {
    double base = 0;  // Measured at the equal split.
    size_t resource = kBandwidth;
    std::optional<Change> last;
    bool rests = false;  // Was adjusted in the last epoch.
  };

  void Judge(const PolicyInput& input, Allocation& held) {
    for (size_t i = 0; i < states_.size(); ++i) {
      State& state = states_[i];
      if (!state.last.has_value()) continue;
      const Change change = *state.last;
      state.last.reset();
      const double now = input.measured[i];
      const size_t resource = state.resource;
      if (change.up ? now <= change.before * (1 + kNoticed)
                    : now < change.before * (1 - kNoticed)) {
        state.resource = resource == kCache ? kBandwidth : kCache;
      }
      if (!change.up && now < change.before * (1 - kTooMuch) && pool_[resource] >= kUnit) {
        held[i][resource] += kUnit;
        pool_[resource] -= kUnit;
      }
    }
  }

  void Move(const PolicyInput& input, Allocation& held) {
    const auto welfare = [&](size_t i) {
      return states_[i].base > 0 ? input.measured[i] / states_[i].base : 1.0;
    };
    std::optional<size_t> worst;
    for (size_t i = 0; i < states_.size(); ++i) {
      const size_t r = states_[i].resource;
      if (states_[i].rests || held[i][r] + kUnit > input.tenants[i].bounds.maximum[r]) continue;
      if (!worst.has_value() || welfare(i) < welfare(*worst)) worst = i;
    }
    if (!worst.has_value()) return;
    const size_t r = states_[*worst].resource;
    if (pool_[r] < kUnit) {
      std::optional<size_t> best;
      for (size_t i = 0; i < states_.size(); ++i) {
        if (states_[i].rests || i == *worst) continue;
        if (held[i][r] - kUnit < std::max(kUnit, input.tenants[i].bounds.minimum[r])) continue;
        if (!best.has_value() || welfare(i) > welfare(*best)) best = i;
      }
      if (!best.has_value()) return;
      held[*best][r] -= kUnit;
      pool_[r] += kUnit;
      states_[*best].resource = r;
      states_[*best].last = Change{false, input.measured[*best]};
    }
    held[*worst][r] += kUnit;
    pool_[r] -= kUnit;
    states_[*worst].last = Change{true, input.measured[*worst]};
  }

  std::vector<State> states_;
  Shares pool_;  // Taken, and not given yet.
};

}  // namespace

std::unique_ptr<Policy> MakeHarvestPolicy() { return std::make_unique<HarvestPolicy>(); }

}  // namespace spiritos
