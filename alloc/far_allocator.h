// SPDX-License-Identifier: Apache-2.0
// FarAllocator and FarResource: standard containers in far memory.
//
//   std::vector<int, FarAllocator<int>> v{FarAllocator<int>(heap)};
//   FarResource resource(heap); std::pmr::vector<int> w(&resource);
//
// Both throw std::bad_alloc when the heap is full, as containers expect; they
// are header-only so that the library itself needs no exceptions.
#pragma once

#include <cstddef>
#include <memory_resource>
#include <new>
#include <type_traits>

#include "alloc/far_malloc.h"

namespace spiritos {

template <typename T>
class FarAllocator {
 public:
  using value_type = T;
  // A container takes its heap along when it is moved or swapped, not when it is
  // copied into.
  using propagate_on_container_move_assignment = std::true_type;
  using propagate_on_container_swap = std::true_type;

  explicit FarAllocator(FarHeap& heap) noexcept : heap_(&heap) {}
  template <typename U>
  FarAllocator(const FarAllocator<U>& other) noexcept : heap_(&other.heap()) {}

  T* allocate(size_t n) {
    if (n > static_cast<size_t>(-1) / sizeof(T)) throw std::bad_array_new_length();
    void* p = heap_->Allocate(n * sizeof(T), alignof(T));
    if (p == nullptr) throw std::bad_alloc();
    return static_cast<T*>(p);
  }
  void deallocate(T* p, size_t) noexcept { heap_->Free(p); }

  FarHeap& heap() const noexcept { return *heap_; }
  template <typename U>
  bool operator==(const FarAllocator<U>& other) const noexcept {
    return heap_ == &other.heap();
  }

 private:
  FarHeap* heap_;
};

class FarResource final : public std::pmr::memory_resource {
 public:
  explicit FarResource(FarHeap& heap) noexcept : heap_(heap) {}

 private:
  void* do_allocate(size_t bytes, size_t alignment) override {
    void* p = heap_.Allocate(bytes, alignment);
    if (p == nullptr) throw std::bad_alloc();
    return p;
  }
  void do_deallocate(void* p, size_t, size_t) override { heap_.Free(p); }
  bool do_is_equal(const memory_resource& other) const noexcept override {
    const auto* far = dynamic_cast<const FarResource*>(&other);
    return far != nullptr && &far->heap_ == &heap_;
  }

  FarHeap& heap_;
};

}  // namespace spiritos
