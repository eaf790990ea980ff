// SPDX-License-Identifier: Apache-2.0
// Bytes and a file over a socket that does not block, and waiting for it.
//
// A file goes along with the first byte (SCM_RIGHTS, unix(7)). Context: signal.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstdint>
#include <span>

#include "libos/base/fd.h"

namespace spiritos {

// As sendmsg(2), begun again after a signal; `file` is -1 for none.
ssize_t SendParts(int socket, std::span<iovec> parts, int file) noexcept;
// As recvmsg(2), likewise; `*file` takes a file if one came.
ssize_t ReceiveParts(int socket, std::span<iovec> parts, UniqueFd* file) noexcept;
// Waits until poll(2) says `events`, or an error; false at the deadline.
bool AwaitSocket(int socket, short events, uint64_t deadline_ns) noexcept;

}  // namespace spiritos
