// SPDX-License-Identifier: Apache-2.0
// Generations: what was in the pool when one ended stays readable, whatever is written.
#include <catch2/catch.hpp>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "libos/remote/pool_factory.h"
#include "test/support/server_thread.h"
#include "test/support/space_peer.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

constexpr uint64_t kPages = 4096;
constexpr uint8_t kGenerations = 5;
constexpr uint64_t kPiece = 64;

// Bytes of a slot, from the pool itself.
uint64_t FirstWord(RemoteBackend& pool, SlotId slot) {
  alignas(kPageSize) static std::byte page[kPageSize];
  const std::byte* bytes = pool.Direct(slot);
  if (bytes == nullptr) {
    IoRequest request;
    request.first = slot;
    request.pages = 1;
    request.memory = page;
    while (pool.Submit(request) == IoResult::kBusy) pool.Poll(Lane::kDemand);
    pool.Wait(request);
    REQUIRE(request.status.load() == IoStatus::kDone);
    bytes = page;
  }
  uint64_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

// What a page held at the end of a generation, and in whose slot: none for zeroes.
struct Moment {
  uint64_t value = 0;
  std::optional<uint8_t> place;
};

void RunGenerations(const std::string& address) {
  Options options{.budget = 8_MiB};
  options.remote.pool = address;
  std::unique_ptr<RemoteBackend> made = MakePool(options.remote).value();
  RemoteBackend& pool = *made;
  const auto space = SpaceTestPeer::Create(options, std::move(made)).value();
  const AddressRange region = space->CreateRegion(BytesOf(PageCount(kPages))).value();
  const auto at = [&](uint64_t page) { return region.begin + page * kPageSize; };
  const auto word = [&](uint64_t page) -> volatile uint64_t& {
    return *reinterpret_cast<volatile uint64_t*>(at(page));
  };

  std::mt19937_64 random(TestSeed());
  std::vector<Moment> now(kPages);
  std::vector<std::vector<Moment>> ends;
  for (uint8_t generation = 0; generation < kGenerations; ++generation) {
    if (generation != 0) SpaceTestPeer::BeginGeneration(*space);
    for (uint64_t page = 0; page < kPages; ++page) {
      if (generation != 0 && random() % 3 != 0) continue;
      now[page] = {random() | 1, generation};
      word(page) = now[page].value;
    }
    // Some are given up, of whatever generation they are.
    const uint64_t gone = random() % (kPages / kPiece) * kPiece;
    REQUIRE(space->Discard({at(gone), BytesOf(PageCount(kPiece))}).ok());
    std::fill_n(now.begin() + static_cast<ptrdiff_t>(gone), kPiece, Moment{});
    // In order, so that what is ahead is fetched too.
    uint64_t wrong = 0;
    for (uint64_t page = 0; page < kPages; ++page) wrong += word(page) != now[page].value;
    CHECK(wrong == 0);
    REQUIRE(space->Evict(region).ok());
    space->Drain();
    ends.push_back(now);
  }

  uint64_t wrong = 0;
  for (uint64_t page = 0; page < kPages; ++page) wrong += word(page) != now[page].value;
  CHECK(wrong == 0);
  uint64_t looked = 0;
  for (const std::vector<Moment>& end : ends) {
    for (uint64_t page = 0; page < kPages; ++page) {
      if (!end[page].place) continue;
      // A slot of its last generation is free again once the page is discarded.
      if (*end[page].place == kGenerations - 1 && !now[page].place) continue;
      const SlotId slot = SpaceTestPeer::SlotOf(*space, at(page), *end[page].place);
      wrong += FirstWord(pool, slot) != end[page].value;
      ++looked;
    }
  }
  CHECK(wrong == 0);
  CHECK(looked > (kGenerations - 1) * kPages);
}

TEST_CASE("slots of earlier generations stay as they are", "[space]") {
  SECTION("in this process") { RunGenerations("embedded:"); }
  SECTION("on a server") {
    const ServerThread server(
        {.tcp_port = 0, .memory = Bytes(8 * kSlabSize), .lock_memory = false});
    RunGenerations(server.tcp().ToString());
  }
}

}  // namespace
}  // namespace spiritos
