// SPDX-License-Identifier: Apache-2.0
// Draws the edges twice, from the same numbers: once to count, once to place.
#include "bench/kronecker.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <span>
#include <utility>
#include <vector>

#include "bench/mixed_data.h"
#include "libos/base/status.h"

namespace spiritos::bench {
namespace {

Bytes WholePages(uint64_t bytes) { return BytesOf(PagesFor(Bytes(bytes))); }

struct Edge {
  uint32_t from;
  uint32_t to;
};

class EdgeSource {
 public:
  EdgeSource(unsigned scale, uint64_t seed) : scale_(scale), seed_(seed) {
    // A 16-bit random number decides two levels: two bits of either end.
    for (uint32_t i = 0; i < quadrants_.size(); ++i) {
      const unsigned high = Quadrant(i >> 8), low = Quadrant(i & 255);
      const unsigned from = (high >> 1) << 1 | low >> 1, to = (high & 1) << 1 | (low & 1);
      quadrants_[i] = static_cast<uint8_t>(from << 2 | to);
    }
  }

  Edge At(uint64_t i) const {
    uint32_t from = 0, to = 0;
    uint64_t bits = 0;
    for (unsigned level = 0; level < scale_; level += 2) {
      if (level % 8 == 0) bits = Mix(seed_ + (i << 3 | level / 8) * 0x9E3779B97F4A7C15u);
      const uint8_t pair = quadrants_[bits & 0xFFFF];
      bits >>= 16;
      from = from << 2 | pair >> 2;
      to = to << 2 | (pair & 3);
    }
    return {Rename(from), Rename(to)};
  }

 private:
  static unsigned Quadrant(uint32_t byte) {
    return byte < 146 ? 0 : byte < 195 ? 1 : byte < 244 ? 2 : 3;
  }

  // A bijection on the names: popular vertices end up anywhere. An odd scale
  // has one bit too many by now, which the mask drops.
  uint32_t Rename(uint32_t vertex) const {
    const uint32_t mask = (uint32_t{1} << scale_) - 1;
    vertex = (vertex & mask) * 2654435761u & mask;
    vertex ^= vertex >> (scale_ / 2);
    return vertex * 2246822519u & mask;
  }

  const unsigned scale_;
  const uint64_t seed_;
  std::vector<uint8_t> quadrants_ = std::vector<uint8_t>(65536);
};

// Random accesses to arrays far larger than a cache: drawing some edges ahead
// and prefetching their places lets the misses overlap.
constexpr size_t kBatch = 64;

template <typename Use>
void ForEachBatch(const EdgeSource& source, uint64_t count, const uint64_t* offsets, Use use) {
  std::array<Edge, kBatch> batch;
  for (uint64_t i = 0; i < count;) {
    size_t n = 0;
    for (; n < kBatch && i < count; ++n, ++i) {
      batch[n] = source.At(i);
      __builtin_prefetch(&offsets[batch[n].from], 1);
      __builtin_prefetch(&offsets[batch[n].to], 1);
    }
    use(std::span<const Edge>(batch.data(), n));
  }
}

}  // namespace

GraphShape ShapeForSize(Bytes size) {
  GraphShape shape;
  const uint64_t vertices = std::bit_floor(std::max<uint64_t>(size.raw() / 128, 1024));
  shape.scale = static_cast<unsigned>(std::countr_zero(vertices));
  shape.vertices = vertices;
  shape.ranks_size = WholePages(vertices * sizeof(double));
  // The one offset too many may start a page of its own.
  shape.offsets_size = WholePages((vertices + 1) * sizeof(uint64_t));
  const uint64_t others = shape.offsets_size.raw() + 2 * shape.ranks_size.raw();
  shape.targets_size = Bytes((size.raw() - std::min(others, size.raw())) & ~(kPageSize - 1));
  shape.edges = shape.targets_size.raw() / sizeof(uint32_t);
  return shape;
}

void MakeGraph(const GraphShape& shape, uint64_t seed, uint64_t* offsets, uint32_t* targets) {
  const EdgeSource source(shape.scale, seed);
  std::fill_n(offsets, shape.vertices + 1, 0);
  ForEachBatch(source, shape.edges / 2, offsets, [&](std::span<const Edge> batch) {
    for (const Edge& edge : batch) {
      ++offsets[edge.from];
      ++offsets[edge.to];
    }
  });
  // Each entry becomes the end of its vertex's part; placing moves it back to
  // the beginning.
  uint64_t end = 0;
  for (uint64_t v = 0; v <= shape.vertices; ++v) offsets[v] = end += offsets[v];
  ForEachBatch(source, shape.edges / 2, offsets, [&](std::span<const Edge> batch) {
    std::array<std::pair<uint32_t*, uint32_t>, 2 * kBatch> places;
    size_t n = 0;
    for (const Edge& edge : batch) {
      places[n++] = {&targets[--offsets[edge.from]], edge.to};
      places[n++] = {&targets[--offsets[edge.to]], edge.from};
      __builtin_prefetch(places[n - 2].first, 1);
      __builtin_prefetch(places[n - 1].first, 1);
    }
    for (size_t i = 0; i < n; ++i) *places[i].first = places[i].second;
  });
}

absl::StatusOr<UniqueFd> WriteGraph(const GraphShape& shape, uint64_t seed) {
  UniqueFd fd(memfd_create("spiritos-graph", 0));  // Inherited: no close on exec.
  const size_t size = shape.graph_size().raw();
  if (!fd.valid() || ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
    return ErrnoStatus(errno, "making a memfd for the graph");
  void* const map = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (map == MAP_FAILED) return ErrnoStatus(errno, "mapping the graph");
  auto* const bytes = static_cast<std::byte*>(map);
  MakeGraph(shape, seed, reinterpret_cast<uint64_t*>(bytes),
            reinterpret_cast<uint32_t*>(bytes + shape.offsets_size.raw()));
  munmap(map, size);
  return fd;
}

}  // namespace spiritos::bench
