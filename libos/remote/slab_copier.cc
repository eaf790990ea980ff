// SPDX-License-Identifier: Apache-2.0
// A slab, piece by piece.
#include "libos/remote/slab_copier.h"

#include <fmt/core.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <utility>

#include "libos/base/check.h"
#include "libos/base/clock.h"
#include "libos/base/service_thread.h"
#include "libos/base/status.h"
#include "libos/remote/dial.h"

namespace spiritos {
namespace {

// A server that takes longer for 64 pages is as good as gone.
constexpr uint64_t kPieceNs = 1'000'000'000;

// Of a piece with pages that do not match, in all.
constexpr int kReads = 3;

constexpr size_t kTrailerBytes = sizeof(PageTrailer);

}  // namespace

SlabCopier::SlabCopier(std::function<void()> on_end) : on_end_(std::move(on_end)) {}

SlabCopier::~SlabCopier() {
  cancelled_.store(true);
  if (thread_.joinable()) thread_.join();
}

void SlabCopier::Start(Side from, Side to) {
  SPIRITOS_CHECK(!thread_.joinable(), "a slab is being copied already");
  from_ = std::move(from);
  to_ = std::move(to);
  ended_.store(false);
  thread_ = StartServiceThread("spiritos-mender", [this] {
    result_ = Copy();
    ended_.store(true, std::memory_order_release);
    on_end_();
  });
}

absl::Status SlabCopier::Finish() {
  thread_.join();
  ended_.store(false);
  from_.socket.Reset();
  to_.socket.Reset();
  return std::exchange(result_, absl::OkStatus());
}

void SlabCopier::AfterForkInChild() {
  std::construct_at(&thread_);
  from_.socket.Reset();
  to_.socket.Reset();
  ended_.store(false);
}

absl::Status SlabCopier::Copy() {
  arriving_.resize(kMaxWirePages * (kTrailerBytes + kPageSize));
  leaving_.resize(arriving_.size());
  for (uint32_t first = 0; first < kSlabPages; first += kMaxWirePages) {
    if (cancelled_.load(std::memory_order_relaxed)) return absl::CancelledError("the pool closes");
    SPIRITOS_RETURN_IF_ERROR(CopyPiece(first));
  }
  return absl::OkStatus();
}

FrameHeader SlabCopier::NextFrame(const Side& side, WireOp op, uint32_t first, uint32_t pages) {
  FrameHeader frame;
  frame.version = side.version;
  frame.op = op;
  frame.id = next_id_++;
  frame.slab = side.slab;
  frame.epoch = side.epoch;
  frame.first = first;
  frame.pages = pages;
  return frame;
}

absl::Status SlabCopier::ReadPiece(uint32_t first) {
  FrameHeader read = NextFrame(from_, WireOp::kRead, first, kMaxWirePages);
  read.flags = WireFlags::kTrailers;
  SPIRITOS_ASSIGN_OR_RETURN(const FrameHeader answer,
                            Exchange(from_.socket.get(), read, {}, arriving_, NowNs() + kPieceNs));
  if (answer.status == WireStatus::kOk) return absl::OkStatus();
  return absl::UnavailableError(fmt::format("reading a copy: {}", WireStatusName(answer.status)));
}

SlabCopier::Page SlabCopier::Arrived(uint32_t page) const {
  PageTrailer trailer;
  std::memcpy(&trailer, arriving_.data() + page * kTrailerBytes, kTrailerBytes);
  if (trailer.version == 0) return Page::kUnwritten;
  const std::byte* const bytes =
      arriving_.data() + kMaxWirePages * kTrailerBytes + size_t{page} * kPageSize;
  return Crc32c({bytes, kPageSize}) == trailer.crc ? Page::kSound : Page::kUnsound;
}

absl::Status SlabCopier::CopyPiece(uint32_t first) {
  std::array<Page, kMaxWirePages> pages;
  bool unsound = true;
  for (int attempt = 0; unsound && attempt < kReads; ++attempt) {
    SPIRITOS_RETURN_IF_ERROR(ReadPiece(first));
    for (uint32_t page = 0; page < kMaxWirePages; ++page) pages[page] = Arrived(page);
    unsound = std::find(pages.begin(), pages.end(), Page::kUnsound) != pages.end();
  }
  uint32_t begin = 0;  // Of a run of sound pages that ends at `page`.
  for (uint32_t page = 0; page <= kMaxWirePages; ++page) {
    if (page < kMaxWirePages && pages[page] == Page::kSound) continue;
    if (begin < page) SPIRITOS_RETURN_IF_ERROR(WriteRun(first, begin, page));
    begin = page + 1;
  }
  return absl::OkStatus();
}

absl::Status SlabCopier::WriteRun(uint32_t first, uint32_t begin, uint32_t end) {
  const uint32_t count = end - begin;
  const std::span<std::byte> payload(leaving_.data(), count * (kTrailerBytes + kPageSize));
  std::memcpy(payload.data(), arriving_.data() + begin * kTrailerBytes, count * kTrailerBytes);
  std::memcpy(payload.data() + count * kTrailerBytes,
              arriving_.data() + kMaxWirePages * kTrailerBytes + size_t{begin} * kPageSize,
              size_t{count} * kPageSize);
  FrameHeader write = NextFrame(to_, WireOp::kWrite, first + begin, count);
  write.payload = static_cast<uint32_t>(payload.size());
  write.payload_crc = Crc32c(payload.first(count * kTrailerBytes));
  SPIRITOS_ASSIGN_OR_RETURN(const FrameHeader answer,
                            Exchange(to_.socket.get(), write, payload, {}, NowNs() + kPieceNs));
  if (answer.status == WireStatus::kOk) return absl::OkStatus();
  return absl::UnavailableError(fmt::format("writing a copy: {}", WireStatusName(answer.status)));
}

}  // namespace spiritos
