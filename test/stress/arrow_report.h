// SPDX-License-Identifier: Apache-2.0
// ReportArrows: how often each arrow of the page and zone words was taken.
#pragma once

#include <cstdint>

namespace spiritos {

// Prints every arrow's count; false when one that can be taken was so fewer than
// `least` times. Some need a pool that is not memory of the process, or failures
// at random. Without failpoints nothing is counted, and nothing printed.
bool ReportArrows(uint64_t least, bool far_pool, bool mischief);

}  // namespace spiritos
