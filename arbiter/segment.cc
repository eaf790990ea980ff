// SPDX-License-Identifier: Apache-2.0
// The layout, how it is made, and what a tenant looks at before it believes in one.
#include "arbiter/segment.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "libos/base/status.h"

namespace spiritos {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

struct Header {
  uint64_t magic;
  uint32_t version;
  uint32_t size;
  uint64_t instance;
};

}  // namespace

struct Segment::Layout {
  Header header;
  alignas(64) Mailbox<Grant> grant;
  alignas(4096) Mailbox<Report> report;
};

static_assert(sizeof(Header) == 24);
static_assert(sizeof(Epoch) == 16 && sizeof(Grant) == 64);
static_assert(sizeof(MissRates) == 272);
static_assert(sizeof(Report) == 8 + 16 + 4 * 8 + 6 * 8 + sizeof(MissRates));
static_assert(std::atomic<uint64_t>::is_always_lock_free, "a lock would be one process's own");

absl::StatusOr<Segment> Segment::Create(uint64_t instance) {
  static_assert(offsetof(Layout, grant) == 64 && offsetof(Layout, report) == 4096);
  static_assert(sizeof(Layout) == kSegmentSize);
  UniqueFd file = NewMemoryFile("spiritos-segment");
  if (!file.valid() || ftruncate(file.get(), kSegmentSize) != 0 ||
      fcntl(file.get(), F_ADD_SEALS, kSeals) != 0) {
    return ErrnoStatus(errno, "making memory to share with a tenant");
  }
  SPIRITOS_ASSIGN_OR_RETURN(Mapping memory,
                            Mapping::OfFile(file.get(), Bytes(kSegmentSize), "a tenant's segment"));
  Segment segment(std::move(file), std::move(memory));
  segment.layout().header = {kSegmentMagic, kSegmentVersion, kSegmentSize, instance};
  return segment;
}

absl::StatusOr<Segment> Segment::Attach(UniqueFd file) {
  struct stat status {};
  const int seals = fcntl(file.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals || fstat(file.get(), &status) != 0 ||
      static_cast<size_t>(status.st_size) != kSegmentSize) {
    return absl::FailedPreconditionError(
        "what the arbiter handed over is no sealed segment of this size (is it spiritos arbiter "
        "that listens there?)");
  }
  SPIRITOS_ASSIGN_OR_RETURN(
      Mapping memory, Mapping::OfFile(file.get(), Bytes(kSegmentSize), "the arbiter's segment"));
  if (madvise(memory.data(), kSegmentSize, MADV_DONTFORK) != 0) {
    return ErrnoStatus(errno, "keeping the arbiter's segment from children");
  }
  Segment segment(std::move(file), std::move(memory));
  const Header header = segment.layout().header;
  if (header.magic != kSegmentMagic || header.version != kSegmentVersion) {
    return absl::FailedPreconditionError(
        fmt::format("the arbiter's segment is of version {}, this is {} (install one version of "
                    "spiritos for both)",
                    header.version, kSegmentVersion));
  }
  return segment;
}

uint64_t Segment::instance() const { return layout().header.instance; }
Mailbox<Grant>& Segment::grant() const { return layout().grant; }
Mailbox<Report>& Segment::report() const { return layout().report; }

}  // namespace spiritos
