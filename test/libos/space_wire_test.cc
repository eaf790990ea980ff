// SPDX-License-Identifier: Apache-2.0
// Spaces whose connections to memory servers flip bits, or replay what once was true.
#include <atomic>
#include <catch2/catch.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <tuple>
#include <vector>

#include "libos/space.h"
#include "test/support/frame_meddler.h"
#include "test/support/lost_access.h"
#include "test/support/server_thread.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

// More than the budget holds does not matter here: all leave at each round's end.
constexpr uint64_t kPages = 8;

ServerOptions OneSlab(const std::string& host) {
  return {.tcp_port = 0, .host = host, .memory = Bytes(kSlabSize), .lock_memory = false};
}

// A space whose pages are all read, checked, written and evicted in every round.
class Workload {
 public:
  Workload(const std::string& pool, uint32_t copies, bool encrypted) {
    Options options{.budget = 8_MiB};
    options.prefetch.kind = PrefetchOptions::Kind::kNone;
    options.remote.pool = pool;
    options.remote.copies = copies;
    options.remote.dead_after_ns = 2'000'000'000;  // A slow machine is no dead one.
    options.remote.encrypt = encrypted ? Encryption::kAes256Gcm : Encryption::kNone;
    space_ = Space::Create(options).value();
    region_ = space_->CreateRegion(Bytes(kPages * kPageSize)).value();
    WriteAll();
  }
  // Pages that cannot be had are given up, and written anew.
  void Go() {
    for (uint64_t page = 0; page < kPages; ++page) {
      std::byte* const at = region_.begin + page * kPageSize;
      if (lost_access_.FailsAt(at)) {
        ++lost_;
        REQUIRE(space_->Discard({at, Bytes(kPageSize)}).ok());
      } else {
        wrong_ += Word(page, 0) == (page ^ (value_ << 32)) && Word(page, 511) == value_ ? 0 : 1;
      }
    }
    WriteAll();
  }
  uint64_t wrong() const { return wrong_; }
  uint64_t lost() const { return lost_; }
  uint64_t corrupt() const { return space_->GetStats()[Metric::kCorruptPages]; }

 private:
  volatile uint64_t& Word(uint64_t page, uint64_t i) const {
    return reinterpret_cast<volatile uint64_t*>(region_.begin + page * kPageSize)[i];
  }
  void WriteAll() {
    ++value_;
    for (uint64_t page = 0; page < kPages; ++page) {
      Word(page, 0) = page ^ (value_ << 32);
      Word(page, 511) = value_;
    }
    REQUIRE(space_->Evict(region_).ok());
  }

  const LostAccess lost_access_;
  std::unique_ptr<Space> space_;
  AddressRange region_;
  uint64_t value_ = 0;
  uint64_t wrong_ = 0;
  uint64_t lost_ = 0;
};

// ---- Bits that flip ----------------------------------------------------------

enum class Spot { kHeaderThere, kTrailerThere, kPageThere, kHeaderBack, kPageBack };
// Where one of 50 flips goes: a damaged header costs a connection, and so 0.1 s.
Spot SpotOf(uint64_t number) {
  switch (number % 50) {
    case 0:
      return Spot::kHeaderThere;
    case 1:
      return Spot::kHeaderBack;
    default:
      return number % 5 == 2   ? Spot::kTrailerThere
             : number % 2 == 0 ? Spot::kPageThere
                               : Spot::kPageBack;
  }
}

// Flips one bit of the next frame that has such a spot.
class Flipper {
 public:
  explicit Flipper(uint64_t seed) : random_(seed) {}

  void Arm(Spot spot) {
    const std::lock_guard<std::mutex> guard(mutex_);
    spot_ = spot;
    flipped_.reset();
  }
  // The stream of the frame that was hit.
  std::optional<Proxy::Stream> flipped() const {
    const std::lock_guard<std::mutex> guard(mutex_);
    return flipped_;
  }
  void OnFrames(Proxy::Stream stream, std::vector<Frame>* frames) {
    const std::lock_guard<std::mutex> guard(mutex_);
    for (Frame& frame : *frames) {
      if (!spot_) return;
      const std::span<std::byte> target = Target(stream, frame);
      if (target.empty()) continue;
      target[random_() % target.size()] ^= static_cast<std::byte>(1 << random_() % 8);
      flipped_ = stream;
      spot_.reset();
    }
  }

 private:
  std::span<std::byte> Target(Proxy::Stream stream, Frame& frame) const {
    const FrameHeader& header = frame.header;
    const bool writes = stream.from_client && header.op == WireOp::kWrite;
    const bool reads = !stream.from_client && header.op == WireOp::kRead;
    const size_t trailers = header.pages * sizeof(PageTrailer);
    switch (*spot_) {
      case Spot::kHeaderThere:
        return stream.from_client ? std::span(frame.bytes).first(FrameHeader::kSize)
                                  : std::span<std::byte>();
      case Spot::kHeaderBack:
        return stream.from_client ? std::span<std::byte>()
                                  : std::span(frame.bytes).first(FrameHeader::kSize);
      case Spot::kTrailerThere:
        return writes ? frame.payload().first(trailers) : std::span<std::byte>();
      case Spot::kPageThere:
        return writes ? frame.payload().subspan(trailers) : std::span<std::byte>();
      case Spot::kPageBack:
        return reads ? frame.payload() : std::span<std::byte>();
    }
    return {};
  }

  mutable std::mutex mutex_;
  std::mt19937_64 random_;
  std::optional<Spot> spot_;
  std::optional<Proxy::Stream> flipped_;
};

// One at a time, each until somebody has noticed it.
void FlipOnTheWire(uint64_t flips, bool encrypted) {
  const uint64_t seed = TestSeed();
  INFO("SPIRITOS_TEST_SEED=" << seed << (encrypted ? ", encrypted" : ""));
  ServerThread server(OneSlab("one"));
  Flipper flipper(seed);
  FrameMeddler meddler([&](Proxy::Stream s, std::vector<Frame>* f) { flipper.OnFrames(s, f); });
  Proxy proxy(server.tcp(), std::ref(meddler));
  Workload rounds(proxy.address().ToString(), 1, encrypted);
  const auto noticed = [&](Spot spot) {
    switch (spot) {
      case Spot::kHeaderThere:
        return server.server().counters().Get(ServerCounter::kBadFrames);
      case Spot::kTrailerThere:
      case Spot::kPageThere:
        return server.server().counters().Get(ServerCounter::kDamagedFrames);
      case Spot::kPageBack:
        return rounds.corrupt();
      case Spot::kHeaderBack:
        break;  // The connection ends.
    }
    return uint64_t{0};
  };
  for (uint64_t flip = 0; flip < flips; ++flip) {
    const auto spot = SpotOf(flip);
    const uint64_t before = noticed(spot);
    flipper.Arm(spot);
    const auto seen = [&] {
      const auto stream = flipper.flipped();
      return stream && (noticed(spot) != before || proxy.HasEnded(*stream));
    };
    uint64_t tries = 0;
    while (!seen()) {
      INFO("flip " << flip << " in spot " << static_cast<int>(spot));
      REQUIRE(tries++ < 100'000);
      rounds.Go();
    }
  }
  rounds.Go();
  CHECK(rounds.wrong() == 0);
  CHECK(rounds.lost() == 0);
}

TEST_CASE("every bit that flips on the wire is noticed, and every page is right", "[space][uffd]") {
  FlipOnTheWire(200, GENERATE(false, true));
}

TEST_CASE("100 000 bits that flip on the wire are noticed", "[.flips]") {
  FlipOnTheWire(100'000, false);
}

// ---- What once was true ------------------------------------------------------

enum class Lie {
  kOldReply,    // What the slot held before.
  kOtherReply,  // What another slot holds.
  kReplyTwice,  // With its number, again.
  kReplyAhead,  // With the next number, before what that one asks has been done.
  kReplySwapped,
  kOldWrite,  // An older write in place of a newer: acknowledged, and ignored.
  kQuestionTwice,
  kCount
};
constexpr auto kLies = static_cast<size_t>(Lie::kCount);

// Of the frames about pages replaces one in some, and repeats or reorders fewer: that
// costs a connection, and so 0.1 s.
class Replayer {
 public:
  static constexpr uint64_t kReplaced = 4;
  static constexpr uint64_t kRepeated = 64;

  explicit Replayer(uint64_t seed) : random_(seed) {}

  void Stop() { stopped_.store(true); }
  // Replies seldom come together where each is waited for.
  bool has_told_each() const {
    for (size_t lie = 0; lie < kLies; ++lie) {
      if (told_[lie].load() == 0 && static_cast<Lie>(lie) != Lie::kReplySwapped) return false;
    }
    return true;
  }
  uint64_t told() const {
    uint64_t all = 0;
    for (const auto& told : told_) all += told.load();
    return all;
  }
  void OnFrames(Proxy::Stream stream, std::vector<Frame>* frames) {
    for (size_t i = 0; i < frames->size(); ++i) {
      Frame& frame = (*frames)[i];
      if (frame.header.op != WireOp::kRead && frame.header.op != WireOp::kWrite) continue;
      const Frame truth = frame;
      const Lie lie = stream.from_client ? LieToServer() : LieToClient();
      if (!stopped_.load() && lie != Lie::kCount && Tell(lie, frames, i)) {
        told_[static_cast<size_t>(lie)].fetch_add(1);
      }
      Remember(truth);
    }
  }

 private:
  // What frames must have in common for one to stand for the other.
  using Key = std::tuple<bool, WireOp, uint64_t, uint32_t, uint32_t>;
  static Key KeyOf(const FrameHeader& h) { return {h.reply(), h.op, h.slab, h.first, h.pages}; }

  // kCount: none.
  Lie LieToServer() {
    if (random_() % kReplaced == 0) return Lie::kOldWrite;
    return random_() % kRepeated == 0 ? Lie::kQuestionTwice : Lie::kCount;
  }
  Lie LieToClient() {
    if (random_() % kReplaced == 0) return random_() % 2 == 0 ? Lie::kOldReply : Lie::kOtherReply;
    if (random_() % kRepeated != 0) return Lie::kCount;
    constexpr Lie kRepeats[] = {Lie::kReplyTwice, Lie::kReplyAhead, Lie::kReplySwapped};
    return kRepeats[random_() % std::size(kRepeats)];
  }

  // False if this lie cannot be told here.
  bool Tell(Lie lie, std::vector<Frame>* frames, size_t i) {
    Frame& frame = (*frames)[i];
    const auto at = frames->begin() + static_cast<ptrdiff_t>(i);
    switch (lie) {
      case Lie::kOldReply:
      case Lie::kOldWrite: {
        const auto old = remembered_.find(KeyOf(frame.header));
        return old != remembered_.end() && PutInPlace(old->second, frame);
      }
      case Lie::kOtherReply: {
        FrameHeader other = frame.header;
        other.first ^= 1;
        const auto found = remembered_.find(KeyOf(other));
        return found != remembered_.end() && PutInPlace(found->second, frame);
      }
      case Lie::kReplySwapped:
        if (i + 1 == frames->size()) return false;
        std::swap(frame, (*frames)[i + 1]);
        return true;
      case Lie::kReplyTwice:
      case Lie::kReplyAhead:
      case Lie::kQuestionTwice: {
        Frame again = frame;
        if (lie == Lie::kReplyAhead) ++again.header.id;
        again.Encode();
        frames->insert(at + 1, std::move(again));
        return true;
      }
      case Lie::kCount:
        break;
    }
    return false;
  }
  // What `old` carries, in the name of `frame`.
  static bool PutInPlace(const Frame& old, Frame& frame) {
    if (old.header.payload == 0 || old.bytes.size() != frame.bytes.size()) return false;
    const std::span<const std::byte> payload = std::span(old.bytes).subspan(FrameHeader::kSize);
    if (std::equal(payload.begin(), payload.end(), frame.payload().begin())) return false;
    std::copy(payload.begin(), payload.end(), frame.payload().begin());
    frame.header.payload_crc = old.header.payload_crc;
    frame.Encode();
    return true;
  }
  // Old ones are worth more.
  void Remember(const Frame& frame) {
    Frame& place = remembered_[KeyOf(frame.header)];
    if (place.bytes.empty() || random_() % 4 == 0) place = frame;
  }

  std::mt19937_64 random_;
  std::map<Key, Frame> remembered_;
  std::atomic<bool> stopped_{false};
  std::array<std::atomic<uint64_t>, kLies> told_{};
};

void ReplayOnTheWire(uint64_t replays, uint32_t copies, bool encrypted) {
  const uint64_t seed = TestSeed();
  INFO("SPIRITOS_TEST_SEED=" << seed << ", copies " << copies << (encrypted ? ", encrypted" : ""));
  ServerThread one(OneSlab("one"));
  ServerThread two(OneSlab("two"));
  Replayer replayer(seed);
  FrameMeddler meddler([&](Proxy::Stream s, std::vector<Frame>* f) { replayer.OnFrames(s, f); });
  Proxy proxy(one.tcp(), std::ref(meddler));
  std::string pool = proxy.address().ToString();
  if (copies == 2) pool += "," + two.tcp().ToString();
  Workload rounds(pool, copies, encrypted);
  while (replayer.told() < replays || !replayer.has_told_each()) rounds.Go();
  replayer.Stop();
  rounds.Go();
  const uint64_t lost = rounds.lost();
  rounds.Go();
  CHECK(rounds.lost() == lost);
  CHECK(rounds.wrong() == 0);
  if (copies == 2) CHECK(lost == 0);
  if (copies == 1) CHECK(lost != 0);  // Old writes have been acknowledged in place of new ones.
  CHECK(rounds.corrupt() != 0);
}

TEST_CASE("what is replayed on the wire is refused, repaired or lost aloud, and never believed",
          "[space][uffd]") {
  ReplayOnTheWire(300, GENERATE(1u, 2u), GENERATE(false, true));
}

TEST_CASE("10 000 replays on the wire are never believed", "[.flips]") {
  ReplayOnTheWire(5'000, GENERATE(1u, 2u), false);
}

}  // namespace
}  // namespace spiritos
