// SPDX-License-Identifier: Apache-2.0
// Random mapping calls, stores and loads; prints a digest of all that was seen.
//
//   mapping_fuzz SEED OPERATIONS
//
// It is run twice, as it is and under the shim: the digests must be equal, as nothing in
// them depends on addresses. What is seen: every word read, every errno, and whether the
// kernel may read and write where the program may (a page's bytes go through a pipe).
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kMostPages = 3072;  // 12 MiB; from 256 pages on they may be far.

// What the program knows of a page, so that it never touches one that it may not.
enum class Page : uint8_t { kNone, kRead, kWrite };

struct Area {
  std::byte* begin = nullptr;
  std::vector<Page> pages;
  // Of one mapping, for sure: calls on parts may have made several of it.
  bool whole = true;
  std::byte* at(size_t page) const { return begin + page * kPage; }
};

class Fuzz {
 public:
  explicit Fuzz(uint64_t seed) : random_(seed) {
    if (pipe(pipe_.data()) != 0) std::abort();
  }

  void Step() {
    if (areas_.size() < 4) return Map();
    switch (Below(20)) {
      case 0:
        return Map();
      case 1:
        return Unmap();
      case 2:
      case 3:
        return Protect();
      case 4:
        return Advise(MADV_DONTNEED);
      case 5:
        return Advise(
            std::array{MADV_WILLNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_NORMAL}[Below(4)]);
      case 6:
        return Resize();
      case 7:
        return MapOver();
      case 8:
      case 9:
        return ThroughKernel();
      case 10:
        return Keep();
      default:
        return Touch();
    }
  }

  uint64_t Finish() {
    for (const Area& area : areas_) {
      for (size_t page = 0; page < area.pages.size(); ++page) {
        if (area.pages[page] >= Page::kRead) See(*WordAt(area, page));
      }
    }
    return digest_;
  }

 private:
  uint64_t Below(uint64_t n) { return random_() % n; }
  void See(uint64_t value) { digest_ = (digest_ ^ value) * 0x100000001B3ull; }
  void SeeResult(bool good) { See(good ? 1 : 0x1000 + static_cast<uint64_t>(errno)); }
  Area& AnyArea() { return areas_[Below(areas_.size())]; }
  static volatile uint64_t* WordAt(const Area& area, size_t page) {
    return reinterpret_cast<volatile uint64_t*>(area.at(page) + page % 8 * 512);
  }
  static int Bits(Page page) {
    return page == Page::kWrite  ? PROT_READ | PROT_WRITE
           : page == Page::kRead ? PROT_READ
                                 : PROT_NONE;
  }

  // A run of pages of an area: [*first, *first + result).
  size_t AnyRun(Area& area, size_t* first) {
    area.whole = false;
    *first = Below(area.pages.size());
    const size_t most = 1 + Below(Below(4) == 0 ? area.pages.size() : 64);
    return std::min(most, area.pages.size() - *first);
  }

  void Map() {
    if (areas_.size() >= 12) {
      Area& area = areas_.back();
      See(static_cast<uint64_t>(munmap(area.begin, area.pages.size() * kPage)));
      areas_.pop_back();
    }
    Area area;
    area.pages.assign(1 + Below(kMostPages), Below(4) == 0 ? Page::kNone : Page::kWrite);
    const size_t size = area.pages.size() * kPage;
    void* const at = mmap(nullptr, size, Bits(area.pages[0]), MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SeeResult(at != MAP_FAILED);
    if (at == MAP_FAILED) return;
    area.begin = static_cast<std::byte*>(at);
    areas_.push_back(std::move(area));
  }

  // What is left on either side goes on as an area of its own.
  void Unmap() {
    const size_t index = Below(areas_.size());
    Area& area = areas_[index];
    const size_t first = Below(area.pages.size());
    const size_t count = std::min(1 + Below(area.pages.size()), area.pages.size() - first);
    const bool good = munmap(area.at(first), count * kPage) == 0;
    SeeResult(good);
    if (!good) return;
    Area high;
    high.begin = area.at(first + count);
    high.pages.assign(area.pages.begin() + static_cast<std::ptrdiff_t>(first + count),
                      area.pages.end());
    high.whole = area.whole;
    area.pages.resize(first);
    if (area.pages.empty()) areas_.erase(areas_.begin() + static_cast<std::ptrdiff_t>(index));
    if (!high.pages.empty()) areas_.push_back(std::move(high));
  }

  void Protect() {
    Area& area = AnyArea();
    size_t first;
    const size_t count = AnyRun(area, &first);
    const Page to = std::array{Page::kNone, Page::kRead, Page::kWrite, Page::kWrite}[Below(4)];
    const bool good = mprotect(area.at(first), count * kPage, Bits(to)) == 0;
    SeeResult(good);
    for (size_t i = first; good && i < first + count; ++i) area.pages[i] = to;
  }

  void Advise(int advice) {
    Area& area = AnyArea();
    size_t first;
    const size_t count = AnyRun(area, &first);
    SeeResult(madvise(area.at(first), count * kPage, advice) == 0);
  }

  void Resize() {
    Area& area = AnyArea();
    const size_t old_count = area.pages.size();
    if (!area.whole) return;  // Of several mappings none is moved or grows.
    const size_t count = 1 + Below(kMostPages);
    void* const at = mremap(area.begin, old_count * kPage, count * kPage, MREMAP_MAYMOVE);
    SeeResult(at != MAP_FAILED);
    if (at == MAP_FAILED) return;
    area.begin = static_cast<std::byte*>(at);
    area.pages.resize(count, area.pages[0]);
  }

  void MapOver() {
    Area& area = AnyArea();
    size_t first;
    const size_t count = AnyRun(area, &first);
    const Page to = Below(3) == 0 ? Page::kNone : Page::kWrite;
    void* const at = mmap(area.at(first), count * kPage, Bits(to),
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    SeeResult(at == area.at(first));
    for (size_t i = first; i < first + count; ++i) area.pages[i] = to;
  }

  // Locks pages or makes them code, and ends that one way or another.
  void Keep() {
    Area& area = AnyArea();
    size_t first;
    const size_t count = std::min<size_t>(AnyRun(area, &first), 16);
    for (size_t i = first; i < first + count; ++i) {
      if (area.pages[i] != Page::kWrite) return;
    }
    const bool lock = Below(2) == 0;
    const int result = lock ? mlock(area.at(first), count * kPage)
                            : mprotect(area.at(first), count * kPage, PROT_READ | PROT_EXEC);
    SeeResult(result == 0);
    for (size_t i = first; i < first + count; ++i) See(*WordAt(area, i));
    if (Below(2) == 0) {
      void* const at = mmap(area.at(first), count * kPage, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      return SeeResult(at == area.at(first));
    }
    if (lock) return SeeResult(munlock(area.at(first), count * kPage) == 0);
    SeeResult(mprotect(area.at(first), count * kPage, PROT_READ | PROT_WRITE) == 0);
  }

  void ThroughKernel() {
    const Area& from = AnyArea();
    const Area& to = AnyArea();
    const size_t from_page = Below(from.pages.size());
    const size_t to_page = Below(to.pages.size());
    const ssize_t sent = write(pipe_[1], from.at(from_page), kPage);
    SeeResult(sent == static_cast<ssize_t>(kPage));
    if (sent != static_cast<ssize_t>(kPage)) return;
    const ssize_t got = read(pipe_[0], to.at(to_page), kPage);
    SeeResult(got == static_cast<ssize_t>(kPage));
    if (got == static_cast<ssize_t>(kPage)) return See(*WordAt(to, to_page));
    // The page is still in the pipe.
    close(pipe_[0]);
    close(pipe_[1]);
    if (pipe(pipe_.data()) != 0) std::abort();
  }

  void Touch() {
    const Area& area = AnyArea();
    const size_t first = Below(area.pages.size());
    const size_t count = Below(8) == 0 ? Below(512) : Below(8);
    for (size_t i = first; i < std::min(first + count, area.pages.size()); ++i) {
      if (area.pages[i] < Page::kRead) continue;
      See(*WordAt(area, i));
      if (area.pages[i] == Page::kWrite && Below(2) == 0) *WordAt(area, i) = random_();
    }
  }

  std::mt19937_64 random_;
  std::array<int, 2> pipe_{};
  std::vector<Area> areas_;
  uint64_t digest_ = 0xCBF29CE484222325ull;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: mapping_fuzz SEED OPERATIONS\n");
    return 2;
  }
  Fuzz fuzz(std::strtoull(argv[1], nullptr, 10));
  const uint64_t operations = std::strtoull(argv[2], nullptr, 10);
  for (uint64_t i = 0; i < operations; ++i) fuzz.Step();
  std::printf("%016llx\n", static_cast<unsigned long long>(fuzz.Finish()));
  return 0;
}
