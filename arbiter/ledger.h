// SPDX-License-Identifier: Apache-2.0
// Ledger: who may hold how much local memory, so that all together never hold more than there
// is, whatever a tenant does and however late it obeys.
//
//                 target below grant: granted at once
//   target ------------------------------------------------> grant --the tenant obeys--> held
//                 target above grant: granted as far as there is room
//
//   committed = the most that it may hold: of its grant, and of what it last said it holds
//   room      = all there is, less what is committed
//
// What one tenant gives up is another's only when its report says that it is gone: shrink
// before grow, in two phases. A tenant that does not obey keeps nobody from anything but its
// own excess.
//
// Invariant: all that is committed is at most all there is, unless what tenants held when they
// came, or hold beyond their grants, is more (`overcommitted`): then nobody grows.
//
// Pure: no clock, no I/O. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace spiritos {

using TenantId = uint64_t;

class Ledger {
 public:
  explicit Ledger(uint64_t total_bytes) : total_bytes_(total_bytes) {}

  // A tenant that holds, or may hold, `held_bytes` when it comes. Known ids are replaced.
  void Add(TenantId tenant, uint64_t held_bytes);
  // Its process has ended: nothing of it is left in memory.
  void Remove(TenantId tenant);
  // What it is to have in the end.
  void SetTarget(TenantId tenant, uint64_t target_bytes);
  // What its report says: it obeys its grant, or not yet, and holds `held_bytes` at most.
  void NoteHeld(TenantId tenant, bool obeys, uint64_t held_bytes);

  // New grants: every target that is lower than its grant, and as much of the higher ones as
  // there is room for, those first that are furthest behind in proportion.
  std::vector<std::pair<TenantId, uint64_t>> Settle();

  uint64_t granted_bytes(TenantId tenant) const;
  uint64_t committed_bytes() const;
  uint64_t overcommitted_bytes() const;
  // Whether all grants are what they are to be, and obeyed.
  bool settled() const;

 private:
  struct Account {
    uint64_t target_bytes = 0;
    uint64_t grant_bytes = 0;
    uint64_t held_bytes = 0;
    uint64_t committed() const { return held_bytes > grant_bytes ? held_bytes : grant_bytes; }
  };

  uint64_t total_bytes_;
  std::map<TenantId, Account> accounts_;
};

}  // namespace spiritos
