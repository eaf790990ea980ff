// SPDX-License-Identifier: Apache-2.0
// CopyWhileStored: copies memory that the program may be storing into.
//
// Pools read pages that are on their way out, and a store into such a page takes
// it back: what was copied meanwhile is thrown away. No thread is to be ordered
// with such a copy, so it is kept out of a race detector's sight.
#pragma once

#include <cstddef>

namespace spiritos {

// `from` and `to` do not overlap. Bytes stored meanwhile arrive old, new or mixed.
inline void CopyWhileStored(std::byte* to, const std::byte* from, size_t bytes) noexcept {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

}  // namespace spiritos
