// SPDX-License-Identifier: Apache-2.0
// Unix sockets by path: where a daemon of this machine listens, and who calls it.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "libos/base/fd.h"

namespace spiritos {

// `knob` is named in errors.
absl::StatusOr<sockaddr_un> UnixAddress(const std::string& path, std::string_view knob);

// Listens there with sockets of `type` (SOCK_STREAM or SOCK_SEQPACKET) that do not block. A
// socket that nobody answers on is taken for a dead daemon's, and replaced;
// kFailedPrecondition: another one answers.
absl::StatusOr<UniqueFd> ListenUnix(const std::string& path, int type, std::string_view knob);

// Who is at the other end, as the kernel knows it since it connected.
struct UnixPeer {
  uid_t uid = 0;
  pid_t pid = 0;     // 0: it lives in another namespace of processes.
  UniqueFd process;  // A pidfd; invalid where there is no pid, or no such process any more.
};
absl::StatusOr<UnixPeer> PeerOf(int socket);

}  // namespace spiritos
