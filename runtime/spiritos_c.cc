// SPDX-License-Identifier: Apache-2.0
// The C calls: handles are the C++ objects, errors become errno values and a text.
#include "runtime/spiritos_c.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "alloc/far_malloc.h"
#include "libos/base/export.h"
#include "libos/options_env.h"
#include "libos/space.h"

struct spiritos_space {
  std::unique_ptr<spiritos::Space> space;
};
struct spiritos_heap {
  std::unique_ptr<spiritos::FarHeap> heap;
};

namespace {

using spiritos::AddressRange;
using spiritos::Bytes;

std::string& LastError() {
  static thread_local std::string message;
  return message;
}

int Report(const absl::Status& status) {
  if (status.ok()) return 0;
  LastError() = status.ToString();
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return EINVAL;
    case absl::StatusCode::kResourceExhausted:
      return ENOMEM;
    case absl::StatusCode::kPermissionDenied:
      return EPERM;
    case absl::StatusCode::kUnimplemented:
      return ENOSYS;
    case absl::StatusCode::kFailedPrecondition:
      return EBUSY;
    case absl::StatusCode::kNotFound:
      return ENOENT;
    default:
      return EIO;
  }
}

AddressRange Range(void* begin, size_t size) {
  return {static_cast<std::byte*>(begin), Bytes(size)};
}

}  // namespace

extern "C" {

SPIRITOS_PUBLIC const char* spiritos_error(void) { return LastError().c_str(); }

SPIRITOS_PUBLIC int spiritos_space_create(const char* const* options, spiritos_space** space) {
  auto parsed = spiritos::OptionsFromEnvironment();
  if (parsed.ok() && options != nullptr) {
    std::vector<std::string> variables;
    for (; *options != nullptr; ++options) variables.emplace_back(*options);
    parsed = spiritos::ApplyOptions(*parsed, variables);
  }
  if (!parsed.ok()) return Report(parsed.status());
  auto made = spiritos::Space::Create(*parsed);
  if (!made.ok()) return Report(made.status());
  *space = new spiritos_space{*std::move(made)};
  return 0;
}

SPIRITOS_PUBLIC void spiritos_space_destroy(spiritos_space* space) { delete space; }

SPIRITOS_PUBLIC int spiritos_region_create(spiritos_space* space, size_t size, void** begin) {
  auto range = space->space->CreateRegion(Bytes(size));
  if (!range.ok()) return Report(range.status());
  *begin = range->begin;
  return 0;
}

SPIRITOS_PUBLIC int spiritos_unmap(spiritos_space* space, void* begin, size_t size) {
  return Report(space->space->Unmap(Range(begin, size)));
}
SPIRITOS_PUBLIC int spiritos_discard(spiritos_space* space, void* begin, size_t size) {
  return Report(space->space->Discard(Range(begin, size)));
}
SPIRITOS_PUBLIC int spiritos_protect(spiritos_space* space, void* begin, size_t size,
                                     int protection) {
  return Report(space->space->Protect(Range(begin, size), protection));
}
SPIRITOS_PUBLIC int spiritos_move(spiritos_space* space, void* begin, size_t size, size_t new_size,
                                  void** new_begin) {
  auto moved = space->space->Move(Range(begin, size), Bytes(new_size));
  if (!moved.ok()) return Report(moved.status());
  *new_begin = moved->begin;
  return 0;
}
SPIRITOS_PUBLIC int spiritos_prefetch(spiritos_space* space, void* begin, size_t size) {
  return Report(space->space->Prefetch(Range(begin, size)));
}
SPIRITOS_PUBLIC int spiritos_evict(spiritos_space* space, void* begin, size_t size) {
  return Report(space->space->Evict(Range(begin, size)));
}
SPIRITOS_PUBLIC int spiritos_pin(spiritos_space* space, void* begin, size_t size) {
  return Report(space->space->Pin(Range(begin, size)));
}
SPIRITOS_PUBLIC void spiritos_unpin(spiritos_space* space, void* begin, size_t size) {
  space->space->Unpin(Range(begin, size));
}
SPIRITOS_PUBLIC int spiritos_set_budget(spiritos_space* space, size_t budget) {
  return Report(space->space->SetBudget(Bytes(budget)));
}

SPIRITOS_PUBLIC char* spiritos_stats_json(const spiritos_space* space) {
  return strdup(space->space->GetStats().ToJson().c_str());
}

SPIRITOS_PUBLIC int spiritos_heap_create(spiritos_space* space, size_t max_size,
                                         spiritos_heap** heap) {
  auto made = spiritos::FarHeap::Create(*space->space, {.max_size = Bytes(max_size)});
  if (!made.ok()) return Report(made.status());
  *heap = new spiritos_heap{*std::move(made)};
  return 0;
}

SPIRITOS_PUBLIC void spiritos_heap_destroy(spiritos_heap* heap) { delete heap; }
SPIRITOS_PUBLIC void* far_malloc(spiritos_heap* heap, size_t size) {
  return heap->heap->Allocate(size);
}
SPIRITOS_PUBLIC void* far_calloc(spiritos_heap* heap, size_t count, size_t size) {
  size_t bytes = 0;
  if (__builtin_mul_overflow(count, size, &bytes)) return nullptr;
  return heap->heap->AllocateZeroed(bytes);
}
SPIRITOS_PUBLIC void* far_aligned_alloc(spiritos_heap* heap, size_t alignment, size_t size) {
  return heap->heap->Allocate(size, alignment);
}
SPIRITOS_PUBLIC void* far_realloc(spiritos_heap* heap, void* pointer, size_t size) {
  return heap->heap->Reallocate(pointer, size);
}
SPIRITOS_PUBLIC void far_free(spiritos_heap* heap, void* pointer) { heap->heap->Free(pointer); }
SPIRITOS_PUBLIC size_t far_usable_size(const spiritos_heap* heap, const void* pointer) {
  return heap->heap->UsableSize(pointer);
}

}  // extern "C"
