// SPDX-License-Identifier: Apache-2.0
// IntrusiveList: random edits against a deque, and misuse that debug builds stop.
#include "libos/base/intrusive_list.h"

#include <signal.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <deque>
#include <random>

#include "test/support/child.h"
#include "test/support/together.h"

namespace spiritos {
namespace {

struct Item : ListLink {
  int number = 0;
};

TEST_CASE("a list agrees with a deque under random edits", "[base]") {
  const uint64_t seed = TestSeed();
  INFO("seed " << seed);
  std::mt19937_64 random(seed);
  std::array<Item, 20> items;
  IntrusiveList<Item> list;
  std::deque<Item*> model;
  uint32_t wrong = 0;
  for (uint32_t step = 0; step < Rounds(50'000); ++step) {
    Item& item = items[random() % items.size()];
    const auto at = std::find(model.begin(), model.end(), &item);
    wrong += item.linked() != (at != model.end());
    switch (random() % 4) {
      case 0:
        if (at != model.end()) break;
        list.PushBack(item);
        model.push_back(&item);
        break;
      case 1:
        if (at != model.end()) break;
        list.PushFront(item);
        model.push_front(&item);
        break;
      case 2:
        if (at == model.end()) break;
        IntrusiveList<Item>::Remove(item);
        model.erase(at);
        break;
      default: {
        Item* const expected = model.empty() ? nullptr : model.front();
        if (!model.empty()) model.pop_front();
        wrong += list.PopFront() != expected;
      }
    }
    wrong += list.empty() != model.empty();
    wrong += list.front() != (model.empty() ? nullptr : model.front());
    wrong +=
        list.Find([&](const Item& i) { return &i == &item; }) != (item.linked() ? &item : nullptr);
  }
  for (Item* expected : model) wrong += list.PopFront() != expected;
  CHECK(wrong == 0);
  CHECK(list.empty());
}

#ifndef NDEBUG

TEST_CASE("listing an element twice and unlisting a free one are fatal", "[base]") {
  const ChildEnd twice = RunInChild([] {
    IntrusiveList<Item> list;
    Item item;
    list.PushBack(item);
    list.PushBack(item);
    return 0;
  });
  CHECK(twice.signal == SIGABRT);
  CHECK(twice.text.find("is on a list already") != std::string::npos);
  const ChildEnd unlisted = RunInChild([] {
    Item item;
    IntrusiveList<Item>::Remove(item);
    return 0;
  });
  CHECK(unlisted.signal == SIGABRT);
  CHECK(unlisted.text.find("is on no list") != std::string::npos);
}

#endif

}  // namespace
}  // namespace spiritos
