// SPDX-License-Identifier: Apache-2.0
// Sums that cannot overflow, and room that is shared out once.
#include "arbiter/ledger.h"

#include <algorithm>

namespace spiritos {
namespace {

uint64_t Sum(uint64_t a, uint64_t b) { return a + b < a ? UINT64_MAX : a + b; }

}  // namespace

void Ledger::Add(TenantId tenant, uint64_t held_bytes) {
  accounts_[tenant] = {
      .target_bytes = held_bytes, .grant_bytes = held_bytes, .held_bytes = held_bytes};
}

void Ledger::Remove(TenantId tenant) { accounts_.erase(tenant); }

void Ledger::SetTarget(TenantId tenant, uint64_t target_bytes) {
  const auto found = accounts_.find(tenant);
  if (found != accounts_.end()) found->second.target_bytes = std::min(target_bytes, total_bytes_);
}

void Ledger::NoteHeld(TenantId tenant, bool obeys, uint64_t held_bytes) {
  const auto found = accounts_.find(tenant);
  if (found == accounts_.end()) return;
  Account& account = found->second;
  // Until it obeys it may take all that it could hold before.
  account.held_bytes = obeys ? held_bytes : std::max(account.held_bytes, held_bytes);
}

std::vector<std::pair<TenantId, uint64_t>> Ledger::Settle() {
  std::vector<std::pair<TenantId, uint64_t>> grants;
  std::vector<std::pair<double, TenantId>> behind;
  for (auto& [tenant, account] : accounts_) {
    if (account.target_bytes < account.grant_bytes) {
      // What it could hold until now it may hold until it obeys.
      account.held_bytes = account.committed();
      account.grant_bytes = account.target_bytes;
      grants.emplace_back(tenant, account.grant_bytes);
    } else if (account.target_bytes > account.grant_bytes) {
      behind.emplace_back(
          static_cast<double>(account.grant_bytes) / static_cast<double>(account.target_bytes),
          tenant);
    }
  }
  std::sort(behind.begin(), behind.end());
  const uint64_t committed = committed_bytes();
  uint64_t room = committed < total_bytes_ ? total_bytes_ - committed : 0;
  for (const auto& [share, tenant] : behind) {
    Account& account = accounts_[tenant];
    const uint64_t before = account.committed();
    const uint64_t most = std::min(account.target_bytes, Sum(before, room));
    if (most <= account.grant_bytes) continue;
    account.grant_bytes = most;
    room -= account.committed() - before;
    grants.emplace_back(tenant, most);
  }
  return grants;
}

uint64_t Ledger::granted_bytes(TenantId tenant) const {
  const auto found = accounts_.find(tenant);
  return found == accounts_.end() ? 0 : found->second.grant_bytes;
}

uint64_t Ledger::committed_bytes() const {
  uint64_t sum = 0;
  for (const auto& [tenant, account] : accounts_) sum = Sum(sum, account.committed());
  return sum;
}

uint64_t Ledger::overcommitted_bytes() const {
  const uint64_t committed = committed_bytes();
  return committed > total_bytes_ ? committed - total_bytes_ : 0;
}

bool Ledger::settled() const {
  return std::all_of(accounts_.begin(), accounts_.end(), [](const auto& entry) {
    const Account& account = entry.second;
    return account.grant_bytes == account.target_bytes && account.held_bytes <= account.grant_bytes;
  });
}

}  // namespace spiritos
