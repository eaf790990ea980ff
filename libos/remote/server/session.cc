// SPDX-License-Identifier: Apache-2.0
// From bytes to requests, from requests to replies.
#include "libos/remote/server/session.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "libos/base/check.h"

namespace spiritos {
namespace {

alignas(kPageSize) const std::byte zero_page[kPageSize]{};

// Whose write came last: a page without a version was never written.
bool Overtaken(const PageTrailer& stored, const PageTrailer& arriving) {
  return stored.version != 0 && PageTrailer::Newer(stored.version, arriving.version);
}

// Of a request and its reply.
uint64_t BytesOf(const FrameHeader& request) {
  const uint64_t moved = request.op == WireOp::kRead ? request.pages * kPageSize : request.payload;
  return 2 * FrameHeader::kSize + moved;
}

}  // namespace

ServerCounter CounterOf(WireStatus status) {
  switch (status) {
    case WireStatus::kNoSpace:
    case WireStatus::kOverQuota:
      return ServerCounter::kNoSpace;
    case WireStatus::kDamaged:
      return ServerCounter::kDamagedFrames;
    case WireStatus::kStaleEpoch:
      return ServerCounter::kStaleEpochs;
    case WireStatus::kOutOfRange:
      return ServerCounter::kOutOfRange;
    case WireStatus::kBadFrame:
      return ServerCounter::kBadFrames;
    case WireStatus::kVersion:
      return ServerCounter::kBadVersions;
    default:
      return ServerCounter::kNotPermitted;
  }
}

ServerSession::ServerSession(Tenancy& tenancy, ServerCounters& counters, Client& client,
                             uint16_t version, bool passes_files, Pacer* pacer)
    : tenancy_(tenancy),
      counters_(counters),
      client_(client),
      version_(version),
      passes_files_(passes_files),
      pacer_(pacer) {
  ++client_.connections;
}

ServerSession::~ServerSession() {
  if (target_ != nullptr) tenancy_.LetGo(*target_);
  for (uint32_t i = 0; i < reply_count_; ++i) {
    Reply& reply = replies_[(reply_head_ + i) % kMaxRequests];
    if (reply.slab != nullptr) tenancy_.LetGo(*reply.slab);
  }
  tenancy_.Leave(client_);
}

// What the stage still waits for, where it belongs. A page that a newer write has
// taken meanwhile goes nowhere.
std::span<std::byte> ServerSession::Place() noexcept {
  if (stage_ == Stage::kTrailers) {
    const size_t size = request_.pages * sizeof(PageTrailer);
    return {reinterpret_cast<std::byte*>(trailers_.data()) + arrived_, size - arrived_};
  }
  const auto mine = [&](uint32_t page) {
    return target_->memory.trailer(request_.first + page)->version == trailers_[page].version;
  };
  const auto page = static_cast<uint32_t>(arrived_ / kPageSize);
  const size_t within = arrived_ % kPageSize;
  if (!mine(page)) return {discarded_.data() + within, kPageSize - within};
  uint32_t end = page + 1;
  while (end < request_.pages && mine(end)) ++end;
  return {target_->memory.page(request_.first + page) + within,
          size_t{end - page} * kPageSize - within};
}

std::span<iovec> ServerSession::Want() noexcept {
  if (reply_count_ == kMaxRequests || paused()) return {};
  size_t parts = 0;
  if (stage_ == Stage::kTrailers || stage_ == Stage::kPages) {
    const std::span<std::byte> place = Place();
    want_[parts++] = {place.data(), place.size()};
  }
  if (buffer_begin_ != 0) {
    std::memmove(buffer_.data(), buffer_.data() + buffer_begin_, buffer_end_ - buffer_begin_);
    buffer_end_ -= buffer_begin_;
    buffer_begin_ = 0;
  }
  // What follows the last page, or stands for itself, goes into the buffer.
  const bool last = parts == 0 || (stage_ == Stage::kPages &&
                                   arrived_ + want_[0].iov_len == request_.pages * kPageSize);
  if (last) want_[parts++] = {buffer_.data() + buffer_end_, buffer_.size() - buffer_end_};
  return {want_.data(), parts};
}

bool ServerSession::Received(size_t bytes, uint64_t now_ns) {
  if (stage_ == Stage::kTrailers || stage_ == Stage::kPages) {
    const size_t placed = std::min(bytes, want_[0].iov_len);
    if (stage_ == Stage::kPages) {
      Arrived(placed);
    } else {
      arrived_ += placed;
    }
    bytes -= placed;
  }
  buffer_end_ += bytes;
  return Consume(now_ns);
}

// Whether the next request may be served now; else the session is paused.
bool ServerSession::MayBegin(uint64_t now_ns) {
  if (pacer_ == nullptr || pacer_->MayBegin(now_ns) || (paused() && resume_ns() <= now_ns)) {
    paused_since_ns_ = 0;
    return true;
  }
  if (!paused()) {
    paused_since_ns_ = now_ns;
    pacer_->CountPause();
    counters_.Add(ServerCounter::kPauses);
  }
  return false;
}

uint64_t ServerSession::resume_ns() const {
  return std::min(pacer_->due_ns(), paused_since_ns_ + Pacer::kLongestPauseNs);
}

bool ServerSession::Consume(uint64_t now_ns) {
  while (true) {
    const size_t have = buffer_end_ - buffer_begin_;
    switch (stage_) {
      case Stage::kHeader:
        if (have < FrameHeader::kSize || reply_count_ == kMaxRequests) return true;
        if (!MayBegin(now_ns)) return true;
        if (!OnHeader(now_ns)) return false;
        break;
      case Stage::kSkip: {
        const size_t skipped = std::min<size_t>(have, request_.payload - arrived_);
        buffer_begin_ += skipped;
        arrived_ += skipped;
        if (arrived_ < request_.payload) return true;
        Answer(request_, write_status_);
        stage_ = Stage::kHeader;
        break;
      }
      case Stage::kTrailers:
        TakeFromBuffer();
        if (arrived_ < request_.pages * sizeof(PageTrailer)) return true;
        OnTrailers();
        break;
      case Stage::kPages:
        TakeFromBuffer();
        if (arrived_ < size_t{request_.pages} * kPageSize) return true;
        Answer(request_, write_status_);
        tenancy_.LetGo(*target_);
        target_ = nullptr;
        stage_ = Stage::kHeader;
        break;
    }
  }
}

void ServerSession::TakeFromBuffer() {
  const size_t total = request_.pages * (stage_ == Stage::kPages ? kPageSize : sizeof(PageTrailer));
  while (buffer_begin_ != buffer_end_ && arrived_ < total) {
    const std::span<std::byte> place = Place();
    const size_t n = std::min(place.size(), buffer_end_ - buffer_begin_);
    std::memcpy(place.data(), buffer_.data() + buffer_begin_, n);
    buffer_begin_ += n;
    if (stage_ == Stage::kPages) {
      Arrived(n);
    } else {
      arrived_ += n;
    }
  }
}

// Pages are checked as they come, while they are in the cache.
void ServerSession::Arrived(size_t bytes) {
  const auto from = static_cast<uint32_t>(arrived_ / kPageSize);
  arrived_ += bytes;
  const auto to = static_cast<uint32_t>(arrived_ / kPageSize);
  for (uint32_t page = from; page < to; ++page) {
    const PageTrailer& stored = *target_->memory.trailer(request_.first + page);
    if (stored.version != trailers_[page].version) {
      counters_.Add(ServerCounter::kStaleWrites);
      continue;
    }
    const std::span<const std::byte> bytes_of{target_->memory.page(request_.first + page),
                                              kPageSize};
    if (Crc32c(bytes_of) != trailers_[page].crc) write_status_ = WireStatus::kDamaged;
  }
  counters_.Add(ServerCounter::kPagesWritten, to - from);
}

bool ServerSession::OnHeader(uint64_t now_ns) {
  FrameBytes bytes;
  std::memcpy(bytes.data(), buffer_.data() + buffer_begin_, bytes.size());
  buffer_begin_ += bytes.size();
  const FrameError error = DecodeFrame(bytes, &request_);
  if (error != FrameError::kNone || request_.reply() || request_.version != version_ ||
      request_.op == WireOp::kHello) {
    counters_.Add(error == FrameError::kVersion ? ServerCounter::kBadVersions
                                                : ServerCounter::kBadFrames);
    return false;
  }
  counters_.Add(ServerCounter::kRequests);
  client_.heard_ns = now_ns;
  if (pacer_ != nullptr) pacer_->Charge(BytesOf(request_), now_ns);
  if (request_.op != WireOp::kWrite) {
    Serve(request_);
    return true;
  }
  arrived_ = 0;
  write_status_ = CheckPages(request_, &target_);
  if (write_status_ == WireStatus::kOk) {
    Tenancy::Hold(*target_);
    stage_ = Stage::kTrailers;
  } else {
    stage_ = Stage::kSkip;
  }
  return true;
}

void ServerSession::OnTrailers() {
  const size_t size = request_.pages * sizeof(PageTrailer);
  if (Crc32c({reinterpret_cast<std::byte*>(trailers_.data()), size}) != request_.payload_crc) {
    write_status_ = WireStatus::kDamaged;
    tenancy_.LetGo(*target_);
    target_ = nullptr;
    stage_ = Stage::kSkip;
    return;
  }
  // From here on older writes of these pages are refused, whoever is done first.
  for (uint32_t page = 0; page < request_.pages; ++page) {
    PageTrailer& stored = *target_->memory.trailer(request_.first + page);
    if (!Overtaken(stored, trailers_[page])) stored = trailers_[page];
  }
  arrived_ = 0;
  stage_ = Stage::kPages;
}

ServerSession::Reply& ServerSession::Answer(const FrameHeader& request, WireStatus status) {
  if (status != WireStatus::kOk) counters_.Add(CounterOf(status));
  FrameHeader header = request;
  header.flags |= WireFlags::kReply;
  header.status = status;
  header.payload = 0;
  header.payload_crc = 0;
  Reply& reply = replies_[(reply_head_ + reply_count_++) % kMaxRequests];
  reply = Reply{};
  EncodeFrame(header, &reply.header);
  return reply;
}

WireStatus ServerSession::CheckPages(const FrameHeader& request, RentedSlab** slab) {
  if (request.pages == 0 || request.first >= kSlabPages ||
      request.pages > kSlabPages - request.first) {
    return WireStatus::kOutOfRange;
  }
  return tenancy_.Find(client_, request.slab, request.epoch, slab);
}

void ServerSession::Serve(const FrameHeader& request) {
  switch (request.op) {
    case WireOp::kRead:
      return ServeRead(request);
    case WireOp::kForget:
      return ServeForget(request);
    case WireOp::kPing: {
      FrameHeader answer = request;
      answer.argument = tenancy_.soon();
      answer.first = static_cast<uint32_t>(std::min<uint64_t>(client_.wanted, UINT32_MAX));
      Answer(answer, WireStatus::kOk);
      return;
    }
    case WireOp::kHolders: {
      FrameHeader answer = request;
      const WireStatus status = tenancy_.Holders(client_, request.slab, &answer.argument);
      Answer(answer, status);
      return;
    }
    default:
      return ServeQuestion(request);
  }
}

// What changes who has which slab is done once, however often it is asked.
void ServerSession::ServeQuestion(const FrameHeader& request) {
  if (request.id < client_.answered) {
    Answer(request, WireStatus::kNotPermitted);  // Its answer has come, or is not missed.
    return;
  }
  if (request.id != client_.answered || request.op != client_.answer.op) {
    client_.answered = request.id;
    client_.answer = request;
    client_.answer.status = Decide(request, &client_.answer);
    if (client_.answer.status == WireStatus::kNoSpace) client_.answer.argument = tenancy_.soon();
    if (client_.answer.status == WireStatus::kOk) tenancy_.Record(client_, client_.answer.slab);
  }
  Reply& reply = Answer(client_.answer, client_.answer.status);
  RentedSlab* slab = nullptr;
  const bool placed = request.op == WireOp::kPlace && client_.answer.status == WireStatus::kOk;
  if (placed && passes_files_ &&
      tenancy_.Find(client_, client_.answer.slab, UINT32_MAX, &slab) == WireStatus::kOk) {
    client_.keeps = true;
    reply.slab = slab;
    reply.file = slab->memory.file();
    Tenancy::Hold(*slab);
  }
}

WireStatus ServerSession::Decide(const FrameHeader& request, FrameHeader* answer) {
  switch (request.op) {
    case WireOp::kPlace:
    case WireOp::kAdopt: {
      RentedSlab* slab = nullptr;
      const WireStatus status = request.op == WireOp::kPlace
                                    ? tenancy_.Place(client_, &slab)
                                    : tenancy_.Adopt(client_, std::move(offered_), &slab);
      if (status != WireStatus::kOk) return status;
      answer->slab = slab->id;
      answer->epoch = slab->epoch;
      if ((request.flags & WireFlags::kExpose) != 0) {
        uint32_t key = 0;
        const WireStatus exposed = tenancy_.Expose(client_, *slab, &key);
        if (exposed != WireStatus::kOk) {
          tenancy_.Release(client_, slab->id);
          return exposed;
        }
        answer->argument = key;
      }
      counters_.Add(ServerCounter::kSlabsPlaced);
      return status;
    }
    case WireOp::kRelease: {
      const uint64_t wanted = client_.wanted;
      const WireStatus status = tenancy_.Release(client_, request.slab);
      if (client_.wanted < wanted) counters_.Add(ServerCounter::kSlabsReclaimed);
      return status;
    }
    case WireOp::kShare:
      return tenancy_.Share(client_, request.slab);
    case WireOp::kFork:
      answer->first = static_cast<uint32_t>(client_.slabs.size());
      return tenancy_.Fork(client_, GetForked(request), client_.heard_ns);
    default:
      return tenancy_.Fence(client_, request.slab, request.epoch);
  }
}

void ServerSession::ServeRead(const FrameHeader& request) {
  RentedSlab* slab = nullptr;
  const WireStatus status = CheckPages(request, &slab);
  if (status != WireStatus::kOk) counters_.Add(CounterOf(status));
  FrameHeader header = request;
  header.flags |= WireFlags::kReply;
  header.status = status;
  const bool trailers = (request.flags & WireFlags::kTrailers) != 0;
  header.payload = static_cast<uint32_t>(size_t{request.pages} *
                                         (kPageSize + (trailers ? sizeof(PageTrailer) : 0)));
  Reply& reply = replies_[(reply_head_ + reply_count_++) % kMaxRequests];
  reply = Reply{.slab = slab, .first = request.first, .pages = request.pages, .trailers = trailers};
  EncodeFrame(header, &reply.header);
  if (slab == nullptr) return;
  Tenancy::Hold(*slab);
  counters_.Add(ServerCounter::kPagesRead, request.pages);
}

void ServerSession::ServeForget(const FrameHeader& request) {
  RentedSlab* slab = nullptr;
  const WireStatus status = CheckPages(request, &slab);
  for (uint32_t page = 0; status == WireStatus::kOk && page < request.pages; ++page) {
    *slab->memory.trailer(request.first + page) = {};
  }
  Answer(request, status);
}

std::span<iovec> ServerSession::Outgoing(int* file) noexcept {
  *file = -1;
  size_t parts = 0;
  size_t skip = head_sent_;
  const auto add = [&](const void* bytes, size_t size) {
    if (skip >= size) {
      skip -= size;
      return;
    }
    if (parts == kMaxParts) return;
    outgoing_[parts++] = {static_cast<std::byte*>(const_cast<void*>(bytes)) + skip, size - skip};
    skip = 0;
  };
  for (uint32_t i = 0; i < reply_count_ && parts < kMaxParts; ++i) {
    const Reply& reply = replies_[(reply_head_ + i) % kMaxRequests];
    if (reply.file >= 0) {  // It goes with the first byte of its own reply.
      if (i != 0) break;
      if (head_sent_ == 0) *file = reply.file;
    }
    add(reply.header.data(), reply.header.size());
    if (reply.slab != nullptr && reply.file < 0) {
      if (reply.trailers) {
        add(reply.slab->memory.trailer(reply.first), reply.pages * sizeof(PageTrailer));
      }
      add(reply.slab->memory.page(reply.first), size_t{reply.pages} * kPageSize);
    } else {
      if (reply.trailers) add(zero_page, reply.pages * sizeof(PageTrailer));
      for (uint32_t page = 0; page < reply.pages; ++page) add(zero_page, kPageSize);
    }
    if (reply.file >= 0) break;
  }
  return {outgoing_.data(), parts};
}

bool ServerSession::Sent(size_t bytes, uint64_t now_ns) {
  const bool was_full = reply_count_ == kMaxRequests;
  head_sent_ += bytes;
  while (reply_count_ != 0) {
    Reply& reply = replies_[reply_head_];
    const size_t size = reply.size();
    if (head_sent_ < size) break;
    head_sent_ -= size;
    if (reply.slab != nullptr) tenancy_.LetGo(*reply.slab);
    reply_head_ = (reply_head_ + 1) % kMaxRequests;
    --reply_count_;
  }
  return !was_full || Consume(now_ns);
}

}  // namespace spiritos
