// SPDX-License-Identifier: Apache-2.0
// Per-thread ranks of held locks, for debug builds.
#include "libos/base/lock.h"

namespace spiritos::internal {
#ifndef NDEBUG
thread_local constinit uint32_t held_ranks = 0;
#endif
}  // namespace spiritos::internal
