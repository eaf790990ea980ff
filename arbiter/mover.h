// SPDX-License-Identifier: Apache-2.0
// Mover: one epoch's step from what tenants hold to what the auction wants them to.
//
// Bandwidth changes hands by a word; cache has to be evicted by one tenant and faulted in by
// another, over the link they all share. So cache moves at a limited rate, and not at all
// where the gain until tenants change again is not worth the traffic.
//
//   held --- Carry() ---> base ========= step ==========> target
//            newcomers, leavers     as far as the rate       the auction's
//            and new entitlements   allows, or all the way
//
// The one thing that goes before the rate: nobody is left below its entitlement, least of
// all a newcomer, from its first epoch on. Between base and target somebody may be, where
// utilities are not concave; then the step ends where nobody is, which the target always is.
//
// Pure, as the auction. Cost: some 20 looks at every tenant's utility.
#pragma once

#include <span>

#include "arbiter/fill.h"

namespace spiritos {

struct MoveOptions {
  // Share of all cache that may change hands in an epoch.
  double most_moved = 0.15;
  // Epochs that the link takes to move all cache: all pages / pages per epoch. While it is
  // at it, tenants wait.
  double full_move_epochs = 0.35;
  // Epochs for which an allocation is expected to last.
  double horizon_epochs = 10;
};

struct Moved {
  Allocation allocation;
  double moved = 0;        // Share of all cache that changes hands, newcomers' included.
  bool arrived = false;    // This is the target.
  bool worthwhile = true;  // False: stays, as the way costs more than the target gains.
  bool beyond_rate = false;
};

// What tenants hold when others have come and gone: newcomers, who hold nothing, get what
// they are entitled to, and the others keep their proportions.
Allocation Carry(std::span<const Tenant> tenants, std::span<const Shares> entitled,
                 std::span<const Shares> held);

// `target` leaves nobody below its entitlement.
Moved Move(std::span<const Tenant> tenants, std::span<const Shares> entitled,
           std::span<const Shares> held, std::span<const Shares> target,
           const MoveOptions& options = {});

}  // namespace spiritos
