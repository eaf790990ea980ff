// SPDX-License-Identifier: Apache-2.0
// IntrusiveList: a doubly linked list whose links live in its elements.
#pragma once

#include "libos/base/check.h"

namespace spiritos {

struct ListLink {
  ListLink* next = nullptr;
  ListLink* previous = nullptr;
  bool linked() const { return next != nullptr; }
};

// T derives from ListLink. Not synchronised.
template <typename T>
class IntrusiveList {
 public:
  IntrusiveList() { head_.next = head_.previous = &head_; }
  IntrusiveList(const IntrusiveList&) = delete;
  IntrusiveList& operator=(const IntrusiveList&) = delete;

  bool empty() const { return head_.next == &head_; }
  void PushBack(T& item) { InsertBefore(head_, item); }
  void PushFront(T& item) { InsertBefore(*head_.next, item); }
  // The first element, still linked; null if there is none.
  const T* front() const { return empty() ? nullptr : static_cast<const T*>(head_.next); }
  // The last element, still linked; null if there is none.
  T* back() const { return empty() ? nullptr : static_cast<T*>(head_.previous); }
  // The first element, unlinked; null if there is none.
  T* PopFront() {
    if (empty()) return nullptr;
    T* const item = static_cast<T*>(head_.next);
    Remove(*item);
    return item;
  }
  // The first element that `matches`, still linked; null if there is none.
  template <typename Predicate>
  T* Find(Predicate matches) const {
    for (ListLink* link = head_.next; link != &head_; link = link->next) {
      if (T* const item = static_cast<T*>(link); matches(*item)) return item;
    }
    return nullptr;
  }
  static void Remove(T& item) {
    ListLink& link = item;
    SPIRITOS_DCHECK(link.linked(), "element {} is on no list", static_cast<void*>(&item));
    link.next->previous = link.previous;
    link.previous->next = link.next;
    link.next = link.previous = nullptr;
  }

 private:
  static void InsertBefore(ListLink& place, ListLink& item) {
    SPIRITOS_DCHECK(!item.linked(), "element {} is on a list already", static_cast<void*>(&item));
    item.next = &place;
    item.previous = place.previous;
    place.previous->next = &item;
    place.previous = &item;
  }

  ListLink head_;
};

}  // namespace spiritos
