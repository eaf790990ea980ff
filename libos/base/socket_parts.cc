// SPDX-License-Identifier: Apache-2.0
// sendmsg(2) and recvmsg(2) with one descriptor; poll(2) with a deadline.
#include "libos/base/socket_parts.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "libos/base/clock.h"

namespace spiritos {

ssize_t SendParts(int socket, std::span<iovec> parts, int file) noexcept {
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = parts.size();
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  if (file >= 0) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &file, sizeof(file));
  }
  ssize_t sent;
  do {
    sent = sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent;
}

ssize_t ReceiveParts(int socket, std::span<iovec> parts, UniqueFd* file) noexcept {
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  ssize_t received;
  do {
    message = {};
    message.msg_iov = parts.data();
    message.msg_iovlen = parts.size();
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    received = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (received < 0 && errno == EINTR);
  const cmsghdr* const header = received > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
    int fd;
    std::memcpy(&fd, CMSG_DATA(header), sizeof(fd));
    *file = UniqueFd(fd);
  }
  return received;
}

bool AwaitSocket(int socket, short events, uint64_t deadline_ns) noexcept {
  while (true) {
    const uint64_t now = NowNs();
    if (now >= deadline_ns) return false;
    pollfd wait{socket, events, 0};
    const uint64_t left_ms = (deadline_ns - now) / 1'000'000 + 1;
    if (poll(&wait, 1, static_cast<int>(std::min<uint64_t>(left_ms, 1000))) > 0) return true;
  }
}

}  // namespace spiritos
