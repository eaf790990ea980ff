// SPDX-License-Identifier: Apache-2.0
// Headers and halves of records.
#include "libos/remote/server/slab_directory.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <string_view>

#include "libos/base/check.h"
#include "libos/base/status.h"
#include "libos/base/units.h"

namespace spiritos {
namespace {

constexpr std::array<char, 8> kMagic = {'s', 'p', 'i', 'r', 's', 'l', 'a', 'b'};
constexpr uint32_t kVersion = 1;

// This boot of the machine, as a text.
absl::StatusOr<std::array<char, 36>> BootId() {
  std::array<char, 36> id;
  const UniqueFd file(open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  if (!file.valid() || read(file.get(), id.data(), id.size()) != static_cast<ssize_t>(id.size())) {
    return ErrnoStatus(errno, "reading /proc/sys/kernel/random/boot_id");
  }
  return id;
}

}  // namespace

absl::Status SlabDirectory::Begin(int file) {
  Header header{.magic = kMagic, .version = kVersion, .reserved = 0, .server = {}, .boot = {}};
  if (getrandom(header.server.data(), header.server.size(), 0) < 0) {
    return ErrnoStatus(errno, "naming the server");
  }
  SPIRITOS_ASSIGN_OR_RETURN(header.boot, BootId());
  // One write, and short: a server that is killed here leaves all of it or nothing.
  if (pwrite(file, &header, sizeof(header), 0) != static_cast<ssize_t>(sizeof(header))) {
    return ErrnoStatus(errno, "beginning a directory of slabs");
  }
  return absl::OkStatus();
}

absl::Status SlabDirectory::Check(const Header& header) {
  if (header.magic != kMagic) return InvalidArgument("it is no directory of slabs");
  if (header.version != kVersion) {
    return InvalidArgument("it is of version {}, and this server reads {}", header.version,
                           kVersion);
  }
  SPIRITOS_ASSIGN_OR_RETURN(const auto boot, BootId());
  if (header.boot != boot) return absl::FailedPreconditionError("it is of another boot");
  return absl::OkStatus();
}

absl::StatusOr<SlabDirectory> SlabDirectory::Open(UniqueFd file, uint32_t slabs) {
  struct stat info;
  if (fstat(file.get(), &info) != 0) return ErrnoStatus(errno, "looking at a directory of slabs");
  auto bytes = static_cast<uint64_t>(info.st_size);
  if (bytes == 0) {
    SPIRITOS_RETURN_IF_ERROR(Begin(file.get()));
  } else if (bytes < sizeof(Header)) {
    return InvalidArgument("it is no directory of slabs: {} bytes", bytes);
  }
  SlabDirectory directory;
  const uint64_t had = bytes < kPageSize ? 0 : (bytes - kPageSize) / sizeof(Halves);
  directory.slabs_ = static_cast<uint32_t>(std::max<uint64_t>(slabs, had));
  bytes = kPageSize + directory.slabs_ * sizeof(Halves);
  // All of it now: a store into a file without room would be a SIGBUS.
  if (fallocate(file.get(), 0, 0, static_cast<off_t>(bytes)) != 0) {
    return ErrnoStatus(errno, "making room for a directory of slabs");
  }
  SPIRITOS_ASSIGN_OR_RETURN(directory.map_,
                            Mapping::OfFile(file.get(), Bytes(bytes), "a directory of slabs"));
  SPIRITOS_RETURN_IF_ERROR(Check(directory.header()));
  return directory;
}

SlabDirectory::Halves& SlabDirectory::At(uint32_t number) const {
  SPIRITOS_DCHECK(number < slabs_, "slab file {} of {}", number, slabs_);
  return reinterpret_cast<Halves*>(map_.data() + kPageSize)[number];
}

bool SlabDirectory::Whole(Half half) {
  const uint32_t crc = std::exchange(half.crc, 0);
  return crc == Crc32c(std::as_bytes(std::span(&half, 1)));
}

int SlabDirectory::Newest(const Halves& halves) {
  const bool first = Whole(halves[0]);
  const bool second = Whole(halves[1]);
  if (first && second) return PageTrailer::Newer(halves[1].sequence, halves[0].sequence) ? 1 : 0;
  return second ? 1 : first ? 0 : -1;
}

std::optional<SlabRecord> SlabDirectory::Read(uint32_t number) const {
  const Halves& halves = At(number);
  const int newest = Newest(halves);
  if (newest < 0) return std::nullopt;
  return halves[static_cast<size_t>(newest)].record;
}

void SlabDirectory::Write(uint32_t number, const SlabRecord& record) {
  Halves& halves = At(number);
  const int newest = Newest(halves);
  Half next{.sequence = newest < 0 ? 1 : halves[static_cast<size_t>(newest)].sequence + 1,
            .crc = 0,
            .record = record};
  next.crc = Crc32c(std::as_bytes(std::span(&next, 1)));
  halves[newest == 0 ? 1 : 0] = next;
}

}  // namespace spiritos
