// SPDX-License-Identifier: Apache-2.0
// unix(7), and pidfd_open(2) for who calls.
#include "libos/base/unix_socket.h"

#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "libos/base/status.h"

namespace spiritos {

absl::StatusOr<sockaddr_un> UnixAddress(const std::string& path, std::string_view knob) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return InvalidArgument("socket path \"{}\" is empty or longer than {} characters ({})", path,
                           sizeof(address.sun_path) - 1, knob);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

absl::StatusOr<UniqueFd> ListenUnix(const std::string& path, int type, std::string_view knob) {
  SPIRITOS_ASSIGN_OR_RETURN(const sockaddr_un address, UnixAddress(path, knob));
  const auto* const name = reinterpret_cast<const sockaddr*>(&address);
  // One that is stopped does not empty its queue: EAGAIN.
  const UniqueFd probe(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (connect(probe.get(), name, sizeof(address)) == 0 || errno == EAGAIN) {
    return absl::FailedPreconditionError(
        fmt::format("another server listens on {} ({})", path, knob));
  }
  struct stat info;
  if (errno == ECONNREFUSED && stat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) {
    unlink(path.c_str());
  }
  UniqueFd listener(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener.valid() || bind(listener.get(), name, sizeof(address)) != 0 ||
      listen(listener.get(), SOMAXCONN) != 0) {
    return ErrnoStatus(errno, fmt::format("listening on {} ({})", path, knob));
  }
  return listener;
}

absl::StatusOr<UnixPeer> PeerOf(int socket) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return ErrnoStatus(errno, "asking who connects");
  }
  UnixPeer peer{.uid = credentials.uid, .pid = credentials.pid, .process = {}};
  if (peer.pid > 0) {
    peer.process = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, peer.pid, 0)));
  }
  return peer;
}

}  // namespace spiritos
