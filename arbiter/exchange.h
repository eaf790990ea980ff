// SPDX-License-Identifier: Apache-2.0
// Exchange: pairs of tenants divide what the two have anew, where both are entitled to more
// or the product of their utilities grows (Nash's bargain). For markets without equilibrium:
// what prices cannot place, such as a working set that fits only if someone gives up its
// own, a pair can.
//
// Nobody falls below its entitlement by it, and who is below comes closer. Everything stays
// feasible, and as full as it was.
#pragma once

#include <span>

#include "arbiter/fill.h"

namespace spiritos {

// Each of `dissatisfied` bargains with all others, or with some of them if there are many.
// True if anything changed.
bool Exchange(std::span<const Tenant> tenants, std::span<const Shares> entitled,
              std::span<const size_t> dissatisfied, std::span<Shares> allocation);

}  // namespace spiritos
