// SPDX-License-Identifier: Apache-2.0
// PrefetchPlan: pages to bring, at equal distances, the demanded one first.
#pragma once

#include <cstdint>

#include "libos/base/units.h"

namespace spiritos {

struct PrefetchPlan {
  Vpn first;            // The demanded page.
  int64_t stride = 1;   // Pages from one to the next; negative runs backwards.
  uint32_t count = 1;   // The demanded page included: 1 = nothing more.
  int32_t stream = -1;  // Whose plan it is; for Brought().
};

}  // namespace spiritos
