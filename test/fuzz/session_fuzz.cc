// SPDX-License-Identifier: Apache-2.0
// Fuzz target: sessions of a memory server, fed anything in any pieces.
//
//   input --> commands --> bytes --> ServerSession x 3 --> replies
//                            |                               |
//                            +--> model: what was asked -----+ compared, in order
//
// Three connections, two of one client and one of another, over a real Tenancy. A third
// client's slab is mapped without any right of access: whoever touches it stops the
// process. Commands (test/fuzz/README.md) make frames that are well-formed but for what
// they say they spoil; raw bytes go in as they are.
//
// After each input: every whole frame had its reply, nothing is held, and when the leases
// are over nothing is rented.
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "libos/base/check.h"
#include "libos/remote/server/session.h"

namespace spiritos {
namespace {

using ByteVector = std::vector<std::byte>;

constexpr size_t kWhole = size_t{1} << 30;  // In one piece.

class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(std::as_bytes(std::span(data, size))) {}
  bool done() const { return rest_.empty(); }
  uint8_t Byte() {
    if (rest_.empty()) return 0;
    const auto byte = static_cast<uint8_t>(rest_.front());
    rest_ = rest_.subspan(1);
    return byte;
  }
  uint16_t Short() {
    const uint16_t low = Byte();
    return static_cast<uint16_t>(low | Byte() << 8);
  }
  std::span<const std::byte> Bytes(size_t n) {
    const auto bytes = rest_.first(std::min(n, rest_.size()));
    rest_ = rest_.subspan(bytes.size());
    return bytes;
  }

 private:
  std::span<const std::byte> rest_;
};

// Slab files that live as long as the process, as making one takes longer than a
// thousand inputs: each input's Tenancy adopts them.
class Files {
 public:
  static constexpr size_t kCount = 4;

  Files() {
    for (SlabMemory& slab : slabs_) {
      auto made = SlabMemory::Make();
      SPIRITOS_CHECK(made.ok(), "no memory for slabs: {}", std::string(made.status().message()));
      slab = *std::move(made);
    }
  }
  UniqueFd Copy(size_t i) const { return UniqueFd(fcntl(slabs_[i].file(), F_DUPFD_CLOEXEC, 0)); }
  // As if never written to.
  void Clear() const {
    for (const SlabMemory& slab : slabs_) {
      std::memset(static_cast<void*>(slab.trailer(0)), 0, kSlabPages * sizeof(PageTrailer));
    }
  }

 private:
  std::array<SlabMemory, kCount> slabs_;
};

// What a server's side of one connection is held to.
class Connection {
 public:
  Connection(Tenancy& tenancy, ServerCounters& counters, Client& client, bool passes_files)
      : session_(std::make_unique<ServerSession>(tenancy, counters, client, kWireVersion,
                                                 passes_files)) {}

  bool open() const { return session_ != nullptr; }
  void GiveFile(UniqueFd file) { session_->GiveFile(std::move(file)); }
  void Send(std::span<const std::byte> bytes) {
    unread_.erase(unread_.begin(), unread_.begin() + static_cast<ptrdiff_t>(read_));
    read_ = 0;
    unread_.insert(unread_.end(), bytes.begin(), bytes.end());
  }

  // Gives the session what it wants of what was sent, `piece` bytes at a time; later ever
  // more, as thousands of equal pieces find nothing that some do not.
  void Feed(size_t piece) {
    for (; open() && read_ != unread_.size(); piece = std::min(2 * piece, kWhole)) {
      const auto parts = session_->Want();
      if (parts.empty()) return;
      size_t given = 0;
      for (const iovec& part : parts) {
        const size_t n = std::min({part.iov_len, unread_.size() - read_ - given, piece - given});
        std::memcpy(part.iov_base, unread_.data() + read_ + given, n);
        given += n;
        if (n < part.iov_len) break;
      }
      Model({unread_.data() + read_, given});
      read_ += given;
      if (!session_->Received(given, 0)) Close();
    }
  }
  // Takes so many bytes of replies.
  void Take(size_t most) {
    while (open() && session_->has_outgoing() && most != 0) {
      int file = -1;
      size_t sent = 0;
      for (const iovec& part : session_->Outgoing(&file)) {
        const size_t n = std::min(part.iov_len, most - sent);
        const auto* const bytes = static_cast<const std::byte*>(part.iov_base);
        taken_.insert(taken_.end(), bytes, bytes + n);
        sent += n;
      }
      SPIRITOS_CHECK(sent != 0, "replies without bytes");
      most -= sent;
      CheckReplies();
      if (!session_->Sent(sent, 0)) Close();
    }
  }
  // Everything that was sent is answered.
  void Finish() {
    while (open() && (session_->has_outgoing() || read_ != unread_.size())) {
      Take(SIZE_MAX);
      Feed(kWhole);
    }
    if (!open()) return;
    SPIRITOS_CHECK(!nonsense_, "a session goes on after nonsense");
    SPIRITOS_CHECK(asked_.empty(), "{} requests without a reply", asked_.size());
    SPIRITOS_CHECK(taken_.empty(), "{} bytes too many", taken_.size());
  }

 private:
  void Close() {
    SPIRITOS_CHECK(nonsense_, "a session ends without a reason");
    session_.reset();
  }
  // Frames of the bytes that the session has been given.
  void Model(std::span<const std::byte> bytes) {
    while (!bytes.empty() && !nonsense_) {
      if (payload_left_ != 0) {
        const size_t n = std::min(bytes.size(), payload_left_);
        payload_left_ -= n;
        bytes = bytes.subspan(n);
      } else {
        const size_t n = std::min(bytes.size(), header_.size() - header_bytes_);
        std::copy_n(bytes.begin(), n, header_.begin() + static_cast<ptrdiff_t>(header_bytes_));
        header_bytes_ += n;
        bytes = bytes.subspan(n);
        if (header_bytes_ < header_.size()) return;
        header_bytes_ = 0;
        nonsense_ = DecodeFrame(header_, &frame_) != FrameError::kNone || frame_.reply() ||
                    frame_.version != kWireVersion || frame_.op == WireOp::kHello;
        payload_left_ = nonsense_ ? 0 : frame_.payload;
      }
      if (!nonsense_ && payload_left_ == 0) asked_.push_back(frame_);
    }
  }
  void CheckReplies() {
    size_t checked = 0;
    while (taken_.size() - checked >= FrameHeader::kSize) {
      const std::byte* const at = taken_.data() + checked;
      FrameBytes bytes;
      std::copy_n(at, bytes.size(), bytes.begin());
      FrameHeader reply;
      SPIRITOS_CHECK(DecodeFrame(bytes, &reply) == FrameError::kNone && reply.reply(),
                     "a reply that is no frame");
      if (taken_.size() - checked < FrameHeader::kSize + reply.payload) break;
      SPIRITOS_CHECK(!asked_.empty(), "a reply to nothing");
      const FrameHeader& asked = asked_.front();
      SPIRITOS_CHECK(reply.op == asked.op && reply.id == asked.id, "a reply to another request");
      static const ByteVector zeroes(kMaxWirePages * (kPageSize + sizeof(PageTrailer)));
      SPIRITOS_CHECK(reply.status == WireStatus::kOk ||
                         std::memcmp(at + FrameHeader::kSize, zeroes.data(), reply.payload) == 0,
                     "a refusal with somebody's bytes");
      asked_.pop_front();
      checked += FrameHeader::kSize + reply.payload;
    }
    taken_.erase(taken_.begin(), taken_.begin() + static_cast<ptrdiff_t>(checked));
  }

  std::unique_ptr<ServerSession> session_;
  ByteVector unread_;  // From `read_` on.
  size_t read_ = 0;
  ByteVector taken_;
  // The model of what was given: a header as far as it has come, what follows it, and
  // whole frames that are not answered yet.
  FrameBytes header_;
  size_t header_bytes_ = 0;
  size_t payload_left_ = 0;
  bool nonsense_ = false;
  FrameHeader frame_;
  std::deque<FrameHeader> asked_;
};

enum Spoil : uint8_t {
  kPayloadLength = 1,
  kHeaderByte = 2,    // And the checksum does not match.
  kSealedByte = 4,    // And it does.
  kPageChecksum = 8,  // Of a Write.
  kPayloadChecksum = 16,
};

ByteVector MakeFrame(Input& in) {
  FrameHeader header;
  header.op = static_cast<WireOp>(in.Byte());
  header.flags = in.Byte();
  header.id = in.Byte();
  const uint8_t slab = in.Byte();
  header.slab = slab == 255 ? UINT64_MAX : slab;
  header.epoch = in.Byte();
  header.first = in.Short();
  // Few, most often: what many find is found by few, and sooner.
  const uint8_t pages = in.Byte();
  header.pages = pages < 192 ? pages % 4 : pages - 190u;
  const uint8_t spoil = in.Byte();
  const uint8_t value = in.Byte();
  const bool writes = header.op == WireOp::kWrite;
  ByteVector payload;
  if (writes) {
    const ByteVector page(kPageSize, std::byte{value});
    const uint32_t crc = Crc32c(page) ^ ((spoil & kPageChecksum) != 0 ? 1 : 0);
    const std::vector<PageTrailer> trailers(header.pages, PageTrailer{value, crc});
    const auto list = std::as_bytes(std::span(trailers));
    header.payload_crc = Crc32c(list) ^ ((spoil & kPayloadChecksum) != 0 ? 1 : 0);
    payload.assign(list.begin(), list.end());
    payload.resize(list.size() + header.pages * kPageSize, std::byte{value});
    header.payload = static_cast<uint32_t>(payload.size());
  }
  if ((spoil & kPayloadLength) != 0) header.payload += value;
  FrameBytes bytes;
  EncodeFrame(header, &bytes);
  constexpr size_t kSummed = FrameHeader::kSize - sizeof(uint32_t);
  if ((spoil & kHeaderByte) != 0) bytes[value % bytes.size()] ^= std::byte{1};
  if ((spoil & kSealedByte) != 0) {
    bytes[value % kSummed] ^= std::byte{0x80};
    const uint32_t crc = Crc32c({bytes.data(), kSummed});
    std::memcpy(bytes.data() + kSummed, &crc, sizeof(crc));
  }
  payload.insert(payload.begin(), bytes.begin(), bytes.end());
  return payload;
}

Client& Enter(Tenancy& tenancy, uint8_t id, std::string_view tenant) {
  WireId wire_id{};
  wire_id[0] = std::byte{id};
  return *tenancy.Enter(wire_id, tenant, 0);
}

// One slab that Place finds; made anew once in many inputs.
SlabStore& Store() {
  static SlabStore* const store = new SlabStore({.slabs = 1, .lock = false});
  static uint32_t inputs = 0;
  if (inputs++ % 1024 == 0) SPIRITOS_CHECK(store->Refill().ok(), "no memory for a slab");
  return *store;
}

void Play(Input in, const Files& files) {
  enum Command : uint8_t { kFrame, kRaw, kTake, kPiece, kTurnTo, kReopen, kFile, kCommands };
  constexpr uint64_t kLeaseNs = 1000;
  files.Clear();
  SlabStore& store = Store();
  Tenancy tenancy(store, {.lease_ns = kLeaseNs, .slab_quota = 4});
  ServerCounters counters;
  Client& victim = Enter(tenancy, 1, "victim");
  Client& one = Enter(tenancy, 2, "one");
  Client& other = Enter(tenancy, 3, "other");
  RentedSlab* slab = nullptr;
  SPIRITOS_CHECK(tenancy.Adopt(victim, files.Copy(0), &slab) == WireStatus::kOk, "no slab");
  SPIRITOS_CHECK(mprotect(slab->memory.page(0), SlabMemory::kFileSize.raw(), PROT_NONE) == 0,
                 "unprotected");
  SPIRITOS_CHECK(tenancy.Adopt(one, files.Copy(1), &slab) == WireStatus::kOk, "no slab");
  SPIRITOS_CHECK(tenancy.Adopt(other, files.Copy(2), &slab) == WireStatus::kOk, "no slab");

  const std::array<Client*, 3> clients = {&one, &one, &other};
  std::array<std::optional<Connection>, 3> connections;
  const auto open = [&](size_t i) {
    connections[i].reset();
    connections[i].emplace(tenancy, counters, *clients[i], i == 0);
  };
  for (size_t i = 0; i < connections.size(); ++i) open(i);
  size_t at = 0;
  size_t piece = kWhole;
  while (!in.done()) {
    const auto command = static_cast<Command>(in.Byte() % kCommands);
    if (command == kReopen || !connections[at]->open()) open(at);
    Connection& connection = *connections[at];
    switch (command) {
      case kFrame:
        connection.Send(MakeFrame(in));
        break;
      case kRaw:
        connection.Send(in.Bytes(in.Byte()));
        break;
      case kTake:
        connection.Take(in.Short());
        break;
      case kPiece:
        piece = 1 + size_t{in.Short()};
        break;
      case kTurnTo:
        at = in.Byte() % connections.size();
        break;
      case kFile:
        connection.GiveFile(in.Byte() % 2 == 0 ? files.Copy(3)
                                               : UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)));
        break;
      default:
        break;
    }
    connection.Feed(piece);
  }
  for (auto& connection : connections) {
    connection->Finish();
    connection.reset();
  }
  const uint64_t rented = victim.slabs.size() + one.slabs.size() + other.slabs.size();
  SPIRITOS_CHECK(store.rented() == rented, "{} slabs are rented, {} are somebody's", store.rented(),
                 rented);
  SPIRITOS_CHECK(victim.slabs.size() == 1, "somebody has taken another's slab");
  uint64_t others = 0;
  SPIRITOS_CHECK(tenancy.Holders(victim, victim.slabs.begin()->first, &others) == WireStatus::kOk &&
                     others == 0,
                 "{} others have a slab that nobody has shared", others);
  const size_t clients_left = tenancy.client_count();  // Forked ones too.
  SPIRITOS_CHECK(tenancy.Expire(kLeaseNs) == clients_left && store.rented() == 0,
                 "slabs outlive the leases");
}

}  // namespace
}  // namespace spiritos

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto* const files = new spiritos::Files;
  spiritos::Play({data, size}, *files);
  return 0;
}
