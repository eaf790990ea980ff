// SPDX-License-Identifier: Apache-2.0
// Both sides of the page.
#include "libos/stats_page.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

#include "libos/base/status.h"

namespace spiritos {

struct StatsPage::Header {
  static constexpr uint64_t kMagic = 0x317374'6174537053;  // "SpStats1"
  uint64_t magic;
  uint64_t sequence;  // Odd while the text is being replaced; 0: none yet.
  uint64_t size;
};

StatsPage::Header& StatsPage::header() const { return *reinterpret_cast<Header*>(memory_.data()); }

absl::StatusOr<StatsPage> StatsPage::Create() {
  UniqueFd file = NewMemoryFile("spiritos-stats");
  if (!file.valid() || ftruncate(file.get(), kSize) != 0 ||
      fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
    return ErrnoStatus(errno, "making a page for live statistics (SPIRITOS_LIVE_STATS)");
  }
  SPIRITOS_ASSIGN_OR_RETURN(Mapping memory,
                            Mapping::OfFile(file.get(), Bytes(kSize), "live statistics"));
  StatsPage page(std::move(file), std::move(memory));
  page.header().magic = Header::kMagic;
  return page;
}

absl::Status StatsPage::Publish(std::string_view text) noexcept {
  if (text.size() > kSize - sizeof(Header)) {
    return absl::ResourceExhaustedError("live statistics are too long");
  }
  Header& to = header();
  const std::atomic_ref<uint64_t> sequence(to.sequence);
  const uint64_t before = sequence.load(std::memory_order_relaxed);
  sequence.store(before + 1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  to.size = text.size();
  std::memcpy(&to + 1, text.data(), text.size());
  // Release: who sees it sees the text. Its partner is in another process, a pread(2).
  sequence.store(before + 2, std::memory_order_release);
  return absl::OkStatus();
}

// By pread(2), as a file that is mapped could be cut short under its reader.
absl::StatusOr<std::string> StatsPage::Read(int file) {
  constexpr int kTries = 100;
  const auto read_header = [file](Header* header) {
    return pread(file, header, sizeof(*header), 0) == sizeof(*header) &&
           header->magic == Header::kMagic && header->size <= kSize - sizeof(Header);
  };
  for (int i = 0; i < kTries; ++i) {
    Header before;
    Header after;
    if (!read_header(&before)) return absl::FailedPreconditionError("not a page of statistics");
    std::string text(before.size, '\0');
    const ssize_t size = pread(file, text.data(), text.size(), sizeof(Header));
    const bool whole = size == static_cast<ssize_t>(text.size()) && read_header(&after);
    if (whole && before.sequence == after.sequence && before.sequence % 2 == 0) {
      if (before.sequence == 0) return absl::UnavailableError("it has published nothing yet");
      return text;
    }
    std::this_thread::yield();
  }
  return absl::UnavailableError("its statistics were always about to change");
}

}  // namespace spiritos
