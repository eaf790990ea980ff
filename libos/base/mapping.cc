// SPDX-License-Identifier: Apache-2.0
// mmap(2) with an alignment: maps more, trims both ends.
#include "libos/base/mapping.h"

#include <sys/mman.h>

#include <cerrno>

#include "libos/base/status.h"

namespace spiritos {

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(range_, other.range_);
  return *this;
}

Mapping::~Mapping() {
  if (range_.begin != nullptr) munmap(range_.begin, range_.size.raw());
}

absl::StatusOr<Mapping> Mapping::Anonymous(Bytes size, size_t alignment, const char* what) {
  return Aligned(size, alignment, PROT_READ | PROT_WRITE, what);
}

absl::StatusOr<Mapping> Mapping::Reserve(Bytes size, size_t alignment, const char* what) {
  return Aligned(size, alignment, PROT_NONE, what);
}

absl::StatusOr<Mapping> Mapping::Aligned(Bytes size, size_t alignment, int protection,
                                         const char* what) {
  const size_t wanted = BytesOf(PagesFor(size)).raw();
  const size_t padded = wanted + (alignment > kPageSize ? alignment : 0);
  void* const p =
      mmap(nullptr, padded, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) {
    return ErrnoStatus(errno, fmt::format("{}: cannot map {} bytes", what, padded));
  }
  auto* const begin = static_cast<std::byte*>(p);
  const size_t head = (alignment - reinterpret_cast<uintptr_t>(begin) % alignment) % alignment;
  const size_t tail = padded - head - wanted;
  if (head != 0) munmap(begin, head);
  if (tail != 0) munmap(begin + head + wanted, tail);
  return Mapping(AddressRange{begin + head, Bytes(wanted)});
}

absl::StatusOr<Mapping> Mapping::OfFile(int file, Bytes size, const char* what) {
  void* const p = mmap(nullptr, size.raw(), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (p == MAP_FAILED) {
    return ErrnoStatus(errno, fmt::format("{}: cannot map {} bytes", what, size.raw()));
  }
  return Mapping(AddressRange{static_cast<std::byte*>(p), size});
}

}  // namespace spiritos
