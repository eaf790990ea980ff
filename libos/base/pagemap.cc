// SPDX-License-Identifier: Apache-2.0
// Entries of eight bytes, bit 63: in memory, bit 62: in swap.
#include "libos/base/pagemap.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "libos/base/status.h"

namespace spiritos {
namespace {

constexpr uint64_t kPresent = uint64_t{1} << 63;
constexpr uint64_t kSwapped = uint64_t{1} << 62;

}  // namespace

absl::StatusOr<Pagemap> Pagemap::Open() {
  UniqueFd file(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return ErrnoStatus(errno, "opening /proc/self/pagemap");
  return Pagemap(std::move(file));
}

absl::Status Pagemap::Read(Vpn first, std::span<bool> touched) const {
  std::array<uint64_t, 512> entries;
  size_t done = 0;
  while (done < touched.size()) {
    const size_t wanted = std::min(entries.size(), touched.size() - done) * sizeof(uint64_t);
    const auto offset = static_cast<off_t>((first.raw() + done) * sizeof(uint64_t));
    const ssize_t got = pread(file_.get(), entries.data(), wanted, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < static_cast<ssize_t>(sizeof(uint64_t))) {
      return ErrnoStatus(got < 0 ? errno : EIO, "reading /proc/self/pagemap");
    }
    for (size_t i = 0; i < static_cast<size_t>(got) / sizeof(uint64_t); ++i) {
      touched[done++] = (entries[i] & (kPresent | kSwapped)) != 0;
    }
  }
  return absl::OkStatus();
}

}  // namespace spiritos
