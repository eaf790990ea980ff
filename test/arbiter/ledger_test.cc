// SPDX-License-Identifier: Apache-2.0
// What tenants may hold together is never more than there is, however they behave.
#include "arbiter/ledger.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <map>
#include <numeric>
#include <random>
#include <vector>

namespace spiritos {
namespace {

TEST_CASE("who is to have less is told at once, who is to have more when that is gone",
          "[arbiter]") {
  Ledger ledger(100);
  ledger.Add(1, 60);
  ledger.Add(2, 40);
  ledger.SetTarget(1, 30);
  ledger.SetTarget(2, 70);
  using Grants = std::vector<std::pair<TenantId, uint64_t>>;
  CHECK(ledger.Settle() == Grants{{1, 30}});
  CHECK(ledger.Settle().empty());
  ledger.NoteHeld(1, false, 45);  // On its way, but may still go back up.
  CHECK(ledger.Settle().empty());
  ledger.NoteHeld(1, true, 30);
  CHECK(ledger.Settle() == Grants{{2, 70}});
  CHECK(ledger.settled());
}

TEST_CASE("one that holds more than its grant keeps others from just that much", "[arbiter]") {
  Ledger ledger(100);
  ledger.Add(1, 50);
  ledger.Add(2, 50);
  ledger.SetTarget(1, 20);
  ledger.SetTarget(2, 80);
  ledger.Settle();
  ledger.NoteHeld(1, true, 35);  // Says that it obeys, and does not.
  ledger.Settle();
  CHECK(ledger.granted_bytes(2) == 65);
  CHECK_FALSE(ledger.settled());
  CHECK(ledger.overcommitted_bytes() == 0);
  ledger.Remove(1);
  ledger.Settle();
  CHECK(ledger.granted_bytes(2) == 80);
}

TEST_CASE("what newcomers bring along is found room for before anyone grows", "[arbiter]") {
  Ledger ledger(100);
  ledger.Add(1, 90);
  ledger.Add(2, 40);
  CHECK(ledger.overcommitted_bytes() == 30);
  ledger.Add(3, 1);
  ledger.SetTarget(1, 40);
  ledger.SetTarget(3, 20);
  CHECK(ledger.Settle().size() == 1);
  ledger.NoteHeld(1, true, 40);
  ledger.Settle();
  CHECK(ledger.granted_bytes(3) == 20);
  CHECK(ledger.overcommitted_bytes() == 0);
}

TEST_CASE("absurd figures neither overflow nor hand anything out", "[arbiter]") {
  Ledger ledger(100);
  ledger.Add(1, 10);
  ledger.Add(2, 10);
  ledger.SetTarget(1, UINT64_MAX);
  ledger.NoteHeld(2, true, UINT64_MAX);
  CHECK(ledger.Settle().empty());
  CHECK(ledger.committed_bytes() == UINT64_MAX);
  ledger.NoteHeld(2, true, 5);
  ledger.Settle();
  CHECK(ledger.granted_bytes(1) == 90);
  ledger.NoteHeld(9, true, 5);  // Of nobody.
  ledger.SetTarget(9, 5);
  ledger.Remove(9);
  CHECK(ledger.granted_bytes(9) == 0);
}

// Tenants obey late, by halves, or not; come and go.
TEST_CASE("tenants that obey when they like never hold more than there is", "[arbiter]") {
  constexpr uint64_t kTotal = 1'000'000;
  const uint32_t seed = std::random_device{}();
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  struct Tenant {
    uint64_t grant = 0;   // The newest that is there to be read,
    uint64_t aim = 0;     // the one that it read last and is going for,
    uint64_t budget = 0;  // and how far it has come: it may hold so much.
  };
  Ledger ledger(kTotal);
  std::map<TenantId, Tenant> tenants;
  TenantId next = 1;
  uint64_t most_held = 0;
  size_t grown = 0;
  for (int step = 0; step < 50'000; ++step) {
    if (tenants.size() < 8 && random() % 50 == 0) {
      ledger.Add(next, 0);  // It comes with next to nothing.
      tenants[next++] = {};
    }
    if (tenants.empty()) continue;
    const auto chosen = std::next(tenants.begin(), random() % tenants.size());
    Tenant& tenant = chosen->second;
    switch (random() % 6) {
      case 0: {  // New targets, full use of what there is.
        std::vector<double> shares(tenants.size());
        double sum = 0;
        for (double& share : shares) sum += share = static_cast<double>(1 + random() % 100);
        size_t i = 0;
        for (const auto& [id, unused] : tenants) {
          ledger.SetTarget(id, static_cast<uint64_t>(shares[i++] / sum * kTotal));
        }
        break;
      }
      case 1:
        tenant.aim = tenant.grant;
        break;
      case 2:
        tenant.budget = random() % 2 == 0 ? tenant.aim : std::midpoint(tenant.budget, tenant.aim);
        break;
      case 3:
        ledger.NoteHeld(chosen->first, tenant.aim == tenant.grant && tenant.budget == tenant.aim,
                        tenant.budget);
        break;
      case 4:
        if (random() % 40 == 0) {
          ledger.Remove(chosen->first);
          tenants.erase(chosen);
        }
        break;
      default:
        for (const auto& [id, grant] : ledger.Settle()) {
          grown += grant > tenants[id].grant;
          tenants[id].grant = grant;
        }
    }
    uint64_t held = 0;
    for (const auto& [id, each] : tenants) held += each.budget;
    most_held = std::max(most_held, held);
    REQUIRE(held <= kTotal);
    REQUIRE(ledger.overcommitted_bytes() == 0);
  }
  CHECK(grown > 100);
  CHECK(most_held > kTotal / 10 * 9);
}

}  // namespace
}  // namespace spiritos
