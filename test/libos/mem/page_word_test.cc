// SPDX-License-Identifier: Apache-2.0
// PageWord: every arrow changes what it names and carries the rest, over every
// value of every field; and what happens when arrows race.
#include "libos/mem/page_word.h"

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <random>
#include <string>
#include <vector>

#include "test/support/together.h"

namespace spiritos {
namespace {

// A word taken apart, laid out by the drawing in the header and not by its code.
struct Fields {
  PageState state = PageState::kEmpty;
  bool valid = false;
  bool zero = false;
  bool in_flight = false;
  bool guarded = false;
  uint32_t generation = 0;
  uint32_t hot = 0;
  uint32_t credit = 0;
  uint32_t age = 0;
  uint32_t aux = 0;

  PageWord Word() const {
    return PageWord(static_cast<uint64_t>(state) | uint64_t{valid} << 4 | uint64_t{zero} << 5 |
                    uint64_t{in_flight} << 6 | uint64_t{guarded} << 7 | uint64_t{generation} << 8 |
                    uint64_t{hot} << 16 | uint64_t{credit} << 20 | uint64_t{age} << 24 |
                    uint64_t{aux} << 40);
  }
  bool operator==(const Fields&) const = default;
};

Fields Read(PageWord word) {
  return {word.state(),   word.slot_valid(), word.zero(), word.write_in_flight(),
          word.guarded(), word.generation(), word.hot(),  word.credit(),
          word.age(),     word.pins()};
}

constexpr uint32_t kStates = static_cast<uint32_t>(PageState::kHole) + 1;

Fields RandomFields(std::mt19937_64& random) {
  Fields f;
  f.state = static_cast<PageState>(random() % kStates);
  f.valid = random() % 2 != 0;
  f.zero = random() % 2 != 0;
  f.in_flight = random() % 2 != 0;
  f.guarded = random() % 2 != 0;
  f.generation = random() & 0xff;
  f.hot = random() & 0xf;
  f.credit = random() & 0xf;
  f.age = random() & 0xffff;
  f.aux = random() & PageWord::kMaxAux;
  return f;
}

// Every value of every field, the others at random; `visit` returns false to stop.
template <typename Visit>
void ForEveryValue(std::mt19937_64& random, Visit&& visit) {
  const auto each = [&](uint32_t count, auto&& set) {
    for (uint32_t value = 0; value < count; ++value) {
      for (int others = 0; others < 4; ++others) {
        Fields f = RandomFields(random);
        set(f, value);
        visit(f);
      }
    }
  };
  each(kStates * 16, [](Fields& f, uint32_t v) {
    f.state = static_cast<PageState>(v / 16);
    f.valid = (v & 1) != 0;
    f.zero = (v & 2) != 0;
    f.in_flight = (v & 4) != 0;
    f.guarded = (v & 8) != 0;
  });
  each(0x100, [](Fields& f, uint32_t v) { f.generation = v; });
  each(0x10, [](Fields& f, uint32_t v) { f.hot = v; });
  each(0x10, [](Fields& f, uint32_t v) { f.credit = v; });
  each(0x10000, [](Fields& f, uint32_t v) { f.age = v; });
  each(24, [](Fields& f, uint32_t v) { f.aux = 1u << v; });
  each(25, [](Fields& f, uint32_t v) { f.aux = (1u << v) - 1; });
}

// An arrow in both worlds: what the header promises, and what it does. Arguments
// of arrows are the three numbers.
struct Arrow {
  const char* name;
  Fields (*expected)(Fields f, uint16_t now, uint32_t hot, uint32_t credit);
  PageWord (*taken)(PageWord w, uint16_t now, uint32_t hot, uint32_t credit);
  bool (*allowed)(const Fields& f) = [](const Fields&) { return true; };
};

#define ARGS \
  [[maybe_unused]] uint16_t now, [[maybe_unused]] uint32_t hot, [[maybe_unused]] uint32_t credit

const std::vector<Arrow> kArrows = {
    {"ToLoading",
     [](Fields f, ARGS) {
       f.state = PageState::kLoading;
       f.aux = 0;
       return f;
     },
     [](PageWord w, ARGS) { return w.ToLoading(); }},
    {"LoadedToResident",
     [](Fields f, ARGS) {
       f.state = PageState::kResident;
       f.hot = hot;
       f.credit = credit;
       f.age = now;
       f.zero = false;
       return f;
     },
     [](PageWord w, ARGS) { return w.LoadedToResident(now, hot, credit); }},
    {"ToLeaving",
     [](Fields f, ARGS) {
       f.state = PageState::kLeaving;
       return f;
     },
     [](PageWord w, ARGS) { return w.ToLeaving(); }},
    {"ToThawing",
     [](Fields f, ARGS) {
       f.state = PageState::kThawing;
       f.guarded = false;  // It is about to be un-protected.
       return f;
     },
     [](PageWord w, ARGS) { return w.ToThawing(); }},
    {"ThawedToResident",
     [](Fields f, ARGS) {
       f.state = PageState::kResident;
       f.hot = hot;
       f.credit = credit;
       f.age = now;
       f.zero = false;  // A store is about to make it untrue.
       return f;
     },
     [](PageWord w, ARGS) { return w.ThawedToResident(now, hot, credit); }},
    {"ToZapping",
     [](Fields f, ARGS) {
       f.state = PageState::kZapping;
       return f;
     },
     [](PageWord w, ARGS) { return w.ToZapping(); }},
    {"BackToResident",
     [](Fields f, ARGS) {
       f.state = PageState::kResident;
       f.zero = false;
       return f;
     },
     [](PageWord w, ARGS) { return w.BackToResident(); }},
    {"ZappedToRemote",
     [](Fields f, ARGS) {
       f.state = PageState::kRemote;
       f.age = now;
       f.aux = 0;
       return f;
     },
     [](PageWord w, ARGS) { return w.ZappedToRemote(now); }},
    {"ZappedToStandby",
     [](Fields f, ARGS) {
       f.state = PageState::kStandby;
       f.age = now;
       f.aux = ((hot << 20) | (credit << 4) | 1) + 1;
       return f;
     },
     [](PageWord w, ARGS) { return w.ZappedToStandby(now, (hot << 20) | (credit << 4) | 1); }},
    {"ToReadAhead",
     [](Fields f, ARGS) {
       f.state = PageState::kLoading;
       f.aux = ((hot << 20) | (credit << 4) | 1) + 1;
       return f;
     },
     [](PageWord w, ARGS) { return w.ToReadAhead((hot << 20) | (credit << 4) | 1); }},
    {"StandbyToRemote",
     [](Fields f, ARGS) {
       f.state = PageState::kRemote;
       f.aux = 0;
       return f;
     },
     [](PageWord w, ARGS) { return w.StandbyToRemote(); }},
    {"ToEmpty",
     [](Fields f, ARGS) {
       Fields empty;
       empty.generation = f.generation;
       return empty;
     },
     [](PageWord w, ARGS) { return w.ToEmpty(); }},
    {"ToHole",
     [](Fields f, ARGS) {
       f.state = PageState::kHole;
       f.aux = 0;
       return f;
     },
     [](PageWord w, ARGS) { return w.ToHole(); }},
    {"HoleToAbsent",
     [](Fields f, ARGS) {
       f.state = f.valid || f.zero ? PageState::kRemote : PageState::kEmpty;
       return f;
     },
     [](PageWord w, ARGS) { return w.HoleToAbsent(); }},
    {"WritePosted",
     [](Fields f, ARGS) {
       f.in_flight = true;
       f.valid = f.zero = f.guarded = false;
       return f;
     },
     [](PageWord w, ARGS) { return w.WritePosted(); }},
    {"WriteAcknowledged",
     [](Fields f, ARGS) {
       f.in_flight = false;
       f.valid = true;
       return f;
     },
     [](PageWord w, ARGS) { return w.WriteAcknowledged(); }},
    {"WriteForgotten",
     [](Fields f, ARGS) {
       f.in_flight = false;
       return f;
     },
     [](PageWord w, ARGS) { return w.WriteForgotten(); }},
    {"FoundZero",
     [](Fields f, ARGS) {
       f.zero = true;
       f.valid = f.guarded = false;
       return f;
     },
     [](PageWord w, ARGS) { return w.FoundZero(); }},
    {"Pinned",
     [](Fields f, ARGS) {
       ++f.aux;
       return f;
     },
     [](PageWord w, ARGS) { return w.Pinned(); },
     [](const Fields& f) { return f.aux < PageWord::kMaxAux; }},
    {"Guarded",
     [](Fields f, ARGS) {
       f.guarded = true;
       return f;
     },
     [](PageWord w, ARGS) { return w.Guarded(); }},
    {"Unguarded",
     [](Fields f, ARGS) {
       f.guarded = false;
       return f;
     },
     [](PageWord w, ARGS) { return w.Unguarded(); }},
    {"Unpinned",
     [](Fields f, ARGS) {
       --f.aux;
       return f;
     },
     [](PageWord w, ARGS) { return w.Unpinned(); }, [](const Fields& f) { return f.aux != 0; }},
    {"Spared",
     [](Fields f, ARGS) {
       --f.credit;
       f.age = now;
       return f;
     },
     [](PageWord w, ARGS) { return w.Spared(now); }, [](const Fields& f) { return f.credit != 0; }},
    {"WithSlotValid",
     [](Fields f, ARGS) {
       f.valid = hot % 2 != 0;
       f.guarded = f.guarded && f.valid;
       return f;
     },
     [](PageWord w, ARGS) { return w.WithSlotValid(hot % 2 != 0); }},
    {"WithGeneration",
     [](Fields f, ARGS) {
       f.generation = now & 0xff;
       return f;
     },
     [](PageWord w, ARGS) { return w.WithGeneration(static_cast<uint8_t>(now)); }},
};
#undef ARGS

TEST_CASE("fields lie where the drawing says and do not overlap", "[mem]") {
  std::mt19937_64 random(1);
  uint32_t wrong = 0;
  ForEveryValue(random, [&](const Fields& f) { wrong += Read(f.Word()) != f; });
  CHECK(wrong == 0);
  uint64_t seen = 0;
  for (unsigned bit = 0; bit < 64; ++bit) {
    const Fields f = Read(PageWord(uint64_t{1} << bit));
    const int shown = (f.state != PageState::kEmpty) + f.valid + f.zero + f.in_flight + f.guarded +
                      (f.generation != 0) + (f.hot != 0) + (f.credit != 0) + (f.age != 0) +
                      (f.aux != 0);
    CHECK(shown == 1);
    seen += static_cast<uint64_t>(shown);
  }
  CHECK(seen == 64);
  CHECK(PageWord(Fields{.aux = 77}.Word()).staging_buffer() == 76);
  CHECK(PageWord() == Fields{}.Word());
}

TEST_CASE("every arrow changes what it names and carries the rest", "[mem]") {
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  for (const Arrow& arrow : kArrows) {
    std::mt19937_64 random(seed);
    uint32_t wrong = 0;
    uint32_t tried = 0;
    std::string first_wrong;
    ForEveryValue(random, [&](const Fields& f) {
      if (!arrow.allowed(f)) return;
      const auto now = static_cast<uint16_t>(random());
      const uint32_t hot = random() & 0xf;
      const uint32_t credit = random() & 0xf;
      const PageWord expected = arrow.expected(f, now, hot, credit).Word();
      const PageWord got = arrow.taken(f.Word(), now, hot, credit);
      ++tried;
      if (got == expected) return;
      if (++wrong == 1) {
        first_wrong = std::to_string(f.Word().raw()) + " became " + std::to_string(got.raw()) +
                      " instead of " + std::to_string(expected.raw());
      }
    });
    INFO(arrow.name << ": " << first_wrong);
    CHECK(tried > 10'000);
    CHECK(wrong == 0);
  }
}

TEST_CASE("a page taken back from a sweep is not known to be zero any more", "[mem]") {
  const PageWord leaving = PageWord().ToLoading().LoadedToResident(1, 0, 0).ToLeaving();
  const PageWord found_zero = leaving.FoundZero();
  // A store takes it back; a zap of it fails; then comes the next sweep.
  for (const PageWord resident :
       {found_zero.ToThawing().ThawedToResident(2, 1, 1), found_zero.BackToResident(),
        found_zero.ToZapping().BackToResident()}) {
    CHECK_FALSE(resident.ToLeaving().zero());
    CHECK_FALSE(resident.ToLeaving().slot_valid());
  }
}

TEST_CASE("a word is taken only from what it is, and a refusal tells what it is", "[mem]") {
  AtomicPageWord page;
  PageWord from = page.Load();
  CHECK(from == PageWord());
  CHECK(page.Take(from, from.ToLoading()));
  PageWord stale;
  CHECK_FALSE(page.Take(stale, stale.ToLoading()));
  CHECK(stale.state() == PageState::kLoading);
  CHECK(page.Load() == stale);
  page.Publish(stale.LoadedToResident(3, 2, 1));
  CHECK(page.Load().state() == PageState::kResident);
  CHECK(page.Load().age() == 3);
}

TEST_CASE("one of many claimers gets the page", "[mem]") {
  constexpr uint32_t kThreads = 4;
  const uint32_t pages = Rounds(300'000);
  std::vector<AtomicPageWord> words(pages);
  std::atomic<uint32_t> claims{0};
  RunTogether(kThreads, [&](uint32_t) {
    for (AtomicPageWord& word : words) {
      PageWord from;
      if (word.Take(from, from.ToLoading())) ++claims;
    }
  });
  CHECK(claims == pages);
}

TEST_CASE("a page is pinned or a victim, never both", "[mem]") {
  const uint32_t pages = Rounds(300'000);
  std::vector<AtomicPageWord> words(pages);
  for (AtomicPageWord& word : words) word.Publish(PageWord().LoadedToResident(0, 0, 0));
  std::vector<char> pinned(pages, 0);
  std::vector<char> claimed(pages, 0);
  RunTogether(2, [&](uint32_t thread) {
    for (uint32_t i = 0; i < pages; ++i) {
      PageWord word = words[i].Load();
      if (thread == 0) {
        while (word.state() == PageState::kResident && pinned[i] == 0) {
          if (words[i].Take(word, word.Pinned())) pinned[i] = 1;
        }
      } else {
        while (word.state() == PageState::kResident && word.pins() == 0) {
          if (words[i].Take(word, word.ToLeaving())) claimed[i] = 1;
        }
      }
    }
  });
  uint32_t both = 0;
  uint32_t neither = 0;
  for (uint32_t i = 0; i < pages; ++i) {
    both += pinned[i] != 0 && claimed[i] != 0;
    neither += pinned[i] == 0 && claimed[i] == 0;
  }
  CHECK(both == 0);
  CHECK(neither == 0);
}

TEST_CASE("changes within a state by many threads are all kept", "[mem]") {
  constexpr uint32_t kPinners = 3;
  const uint32_t rounds = Rounds(200'000);
  AtomicPageWord page;
  page.Publish(PageWord().LoadedToResident(9, 1, 15).WithGeneration(7));
  const PageWord before = page.Load();
  const auto change = [&](auto&& to) {
    PageWord word = page.Load();
    while (!page.Take(word, to(word))) {
    }
  };
  RunTogether(kPinners + 1, [&](uint32_t thread) {
    for (uint32_t i = 0; i < rounds; ++i) {
      if (thread < kPinners) {
        change([](PageWord w) { return w.Pinned(); });
        change([](PageWord w) { return w.Unpinned(); });
      } else {
        change([](PageWord w) { return w.WritePosted(); });
        change([](PageWord w) { return w.WriteForgotten(); });
      }
    }
  });
  CHECK(page.Load() == before);
}

#ifdef SPIRITOS_FAILPOINTS
TEST_CASE("arrows between states are counted when taken, others are not", "[mem]") {
  ResetArrows();
  AtomicPageWord page;
  PageWord word = page.Load();
  REQUIRE(page.Take(word, word.ToLoading()));
  PageWord stale;
  CHECK_FALSE(page.Take(stale, stale.ToLoading()));
  page.Publish(page.Load().LoadedToResident(0, 0, 0));
  word = page.Load();
  REQUIRE(page.Take(word, word.Pinned()));
  CHECK(ArrowsTaken(PageState::kEmpty, PageState::kLoading) == 1);
  CHECK(ArrowsTaken(PageState::kLoading, PageState::kResident) == 1);
  CHECK(ArrowsTaken(PageState::kResident, PageState::kResident) == 0);
  ResetArrows();
  CHECK(ArrowsTaken(PageState::kEmpty, PageState::kLoading) == 0);
}
#endif

}  // namespace
}  // namespace spiritos
