// SPDX-License-Identifier: Apache-2.0
// Event channels, and errors that name devices.
#include "libos/remote/rdma_verbs.h"

#include <fcntl.h>
#include <fmt/core.h>

#include <cerrno>
#include <string>
#include <utility>

#include "libos/base/status.h"

namespace spiritos {
namespace {

std::string DeviceNames() {
  int count = 0;
  ibv_device** const devices = ibv_get_device_list(&count);
  if (devices == nullptr) return "no RDMA device";
  std::string names;
  for (int i = 0; i < count; ++i) {
    names += fmt::format("{}{}", i == 0 ? "" : ", ", ibv_get_device_name(devices[i]));
  }
  ibv_free_device_list(devices);
  return count == 0 ? "no RDMA device" : "RDMA devices: " + names;
}

}  // namespace

absl::Status RdmaError(int error, std::string_view what) {
  const bool absent = error == ENODEV || error == ENOENT || error == ENOSYS ||
                      error == EADDRNOTAVAIL || error == EHOSTUNREACH || error == ENETUNREACH;
  if (!absent) return ErrnoStatus(error, what);
  return ErrnoStatus(
      error,
      fmt::format("{}: this machine has {}, and needs one on the network of that address; any "
                  "Ethernet port can be one in software (modprobe rdma_ucm rdma_rxe; rdma link "
                  "add rxe0 type rxe netdev eth0)",
                  what, DeviceNames()));
}

absl::Status SetNonBlocking(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    return ErrnoStatus(errno, "preparing an RDMA channel");
  }
  return absl::OkStatus();
}

absl::StatusOr<CmChannel> MakeCmChannel() {
  CmChannel channel(rdma_create_event_channel());
  if (channel == nullptr) return RdmaError(errno, "opening the RDMA connection manager");
  SPIRITOS_RETURN_IF_ERROR(SetNonBlocking(channel->fd));
  return channel;
}

}  // namespace spiritos
