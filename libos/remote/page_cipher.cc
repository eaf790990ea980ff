// SPDX-License-Identifier: Apache-2.0
// The key's page, nonces, and libIPSec_MB's AES-GCM.
//
// Not OpenSSL's: its contexts hold the key in memory of malloc(), which may be far, is
// not locked, and which a signal handler may not ask for.
#include "libos/remote/page_cipher.h"

#include <intel-ipsec-mb.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include "libos/base/check.h"
#include "libos/base/status.h"

namespace spiritos {
namespace {

constexpr size_t kKeyBytes = 32;
// Far enough from the end that no threads reach it while the process ends.
constexpr uint64_t kLastCounter = UINT64_MAX - UINT32_MAX;

// The best that this CPU can run, found once.
struct Gcm {
  aes_gcm_pre_t expand = nullptr;
  aes_gcm_enc_dec_t encrypt = nullptr;
  aes_gcm_enc_dec_t decrypt = nullptr;
};
Gcm FindGcm() {
  IMB_MGR* const manager = alloc_mb_mgr(0);
  if (manager == nullptr) return {};
  init_mb_mgr_auto(manager, nullptr);
  const Gcm gcm{manager->gcm256_pre, manager->gcm256_enc, manager->gcm256_dec};
  free_mb_mgr(manager);
  return gcm;
}

// As GCM takes them. Counters and slots in this machine's order: nobody else reads them.
struct [[gnu::packed]] Nonce {
  uint64_t counter;
  uint32_t generation;
};
static_assert(sizeof(Nonce) == 12);

}  // namespace

struct PageCipher::Secret {
  gcm_key_data key;
  Gcm gcm;  // Null in a forked child, as is the key.
};

PageCipher::PageCipher(Options options, Mapping memory)
    : generation_(options.generation),
      memory_(std::move(memory)),
      counter_(options.first_counter) {}

absl::StatusOr<std::unique_ptr<PageCipher>> PageCipher::Create(Options options) {
  static_assert(sizeof(Secret) + kKeyBytes <= kPageSize);
  const Gcm gcm = FindGcm();
  if (gcm.encrypt == nullptr) {
    return absl::ResourceExhaustedError("no memory to look for AES-GCM (SPIRITOS_ENCRYPT)");
  }
  SPIRITOS_ASSIGN_OR_RETURN(Mapping memory,
                            Mapping::Anonymous(Bytes(kPageSize), kPageSize, "the pages' key"));
  if (mlock(memory.data(), kPageSize) != 0) {
    return ErrnoStatus(errno,
                       "locking the page of the pages' key, which must not be swapped out; raise "
                       "memlock, or go without (SPIRITOS_ENCRYPT=none)");
  }
  if (madvise(memory.data(), kPageSize, MADV_WIPEONFORK) != 0 ||
      madvise(memory.data(), kPageSize, MADV_DONTDUMP) != 0) {
    return ErrnoStatus(errno, "hiding the pages' key from children and core dumps");
  }
  auto* const secret = ::new (static_cast<void*>(memory.data())) Secret{};
  std::byte* const key = memory.data() + sizeof(Secret);
  if (getrandom(key, kKeyBytes, 0) != kKeyBytes) return ErrnoStatus(errno, "drawing a key");
  secret->gcm = gcm;
  gcm.expand(key, &secret->key);
  explicit_bzero(key, kKeyBytes);
  return std::unique_ptr<PageCipher>(new PageCipher(options, std::move(memory)));
}

PageCipher::~PageCipher() { explicit_bzero(memory_.data(), kPageSize); }

const PageCipher::Secret& PageCipher::secret() const noexcept {
  const auto& secret = *std::launder(reinterpret_cast<const Secret*>(memory_.data()));
  SPIRITOS_CHECK(secret.gcm.encrypt != nullptr, "a forked child has no key for its pages");
  return secret;
}

PageSeal PageCipher::Seal(SlotId slot, const std::byte* page, std::byte* to) noexcept {
  PageSeal seal{.counter = counter_.fetch_add(1, std::memory_order_relaxed)};
  SPIRITOS_CHECK(seal.counter <= kLastCounter,
                 "{:#x} pages have been encrypted under one key: no nonce is left", seal.counter);
  const Nonce nonce{seal.counter, generation_};
  const uint64_t label = slot.raw();
  gcm_context_data context;
  const Secret& with = secret();
  with.gcm.encrypt(
      &with.key, &context, reinterpret_cast<uint8_t*>(to), reinterpret_cast<const uint8_t*>(page),
      kPageSize, reinterpret_cast<const uint8_t*>(&nonce), reinterpret_cast<const uint8_t*>(&label),
      sizeof(label), reinterpret_cast<uint8_t*>(seal.tag.data()), sizeof(seal.tag));
  return seal;
}

bool PageCipher::Open(SlotId slot, const PageSeal& seal, const std::byte* from,
                      std::byte* to) const noexcept {
  const Nonce nonce{seal.counter, generation_};
  const uint64_t label = slot.raw();
  std::array<uint64_t, 2> tag;
  gcm_context_data context;
  const Secret& with = secret();
  with.gcm.decrypt(
      &with.key, &context, reinterpret_cast<uint8_t*>(to), reinterpret_cast<const uint8_t*>(from),
      kPageSize, reinterpret_cast<const uint8_t*>(&nonce), reinterpret_cast<const uint8_t*>(&label),
      sizeof(label), reinterpret_cast<uint8_t*>(tag.data()), sizeof(tag));
  // In the same time, whichever bits differ.
  const bool good = ((tag[0] ^ seal.tag[0]) | (tag[1] ^ seal.tag[1])) == 0;
  if (!good) std::memset(to, 0, kPageSize);
  return good;
}

}  // namespace spiritos
