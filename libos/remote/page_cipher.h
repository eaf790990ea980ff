// SPDX-License-Identifier: Apache-2.0
// PageCipher: seals pages before they leave: AES-256-GCM under a key that nobody else has.
//
//   page --Seal(slot)--> 4096 bytes, which may lie anywhere
//                        PageSeal {counter, tag}, which stays near
//   both --Open(slot)--> the page; or false: not what was sealed last for that slot
//
//   nonce, 96 bits:  counter of pages sealed, 64 | generation, 32
//
// Two pages under one nonce would give both away, and the means to forge others. So a
// counter is given out once, whatever becomes of the page, and the process ends before
// they run out. The slot's number is authenticated too.
//
// The key is drawn for each cipher, and its generation with it: forks do not share one.
// It lies in a page that is locked, missing in core dumps, zeroes in a forked child, and
// wiped at the end; and nowhere else.
//
// Context: signal, but for Create() and the end. Any number of threads.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "libos/base/mapping.h"
#include "libos/base/units.h"

namespace spiritos {

// What is kept of a page that was sealed.
struct PageSeal {
  uint64_t counter = 0;  // 0 = nothing has been sealed.
  std::array<uint64_t, 2> tag{};
};
static_assert(sizeof(PageSeal) == 24);

class PageCipher {
 public:
  struct Options {
    uint32_t generation = 0;
    uint64_t first_counter = 1;
  };
  static absl::StatusOr<std::unique_ptr<PageCipher>> Create(Options options);
  ~PageCipher();
  PageCipher(const PageCipher&) = delete;
  PageCipher& operator=(const PageCipher&) = delete;

  // `page` may be stored into meanwhile: what is sealed is then some mixture, and opens.
  PageSeal Seal(SlotId slot, const std::byte* page, std::byte* to) noexcept;
  // `from` and `to` may be the same. When false `to` is zeroes.
  [[nodiscard]] bool Open(SlotId slot, const PageSeal& seal, const std::byte* from,
                          std::byte* to) const noexcept;

 private:
  friend class PageCipherTestPeer;
  struct Secret;

  PageCipher(Options options, Mapping memory);
  const Secret& secret() const noexcept;

  const uint32_t generation_;
  const Mapping memory_;
  std::atomic<uint64_t> counter_;  // Of the page that is sealed next.
};

}  // namespace spiritos
