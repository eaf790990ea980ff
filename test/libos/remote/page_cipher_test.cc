// SPDX-License-Identifier: Apache-2.0
// Seals against OpenSSL's, nonces under threads, and where the key is.
#include "libos/remote/page_cipher.h"

#include <openssl/evp.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <random>
#include <set>
#include <sstream>
#include <thread>
#include <vector>

#include "test/support/child.h"
#include "test/support/together.h"

namespace spiritos {

class PageCipherTestPeer {
 public:
  // A key schedule begins with the key.
  static const std::byte* Key(const PageCipher& cipher) { return cipher.memory_.data(); }
};

namespace {

using Page = std::array<std::byte, kPageSize>;

std::unique_ptr<PageCipher> Cipher(PageCipher::Options options = {}) {
  auto made = PageCipher::Create(options);
  INFO(made.status().ToString());
  REQUIRE(made.ok());
  return *std::move(made);
}

Page RandomPage(std::mt19937_64& random) {
  Page page;
  std::generate(page.begin(), page.end(), [&] { return static_cast<std::byte>(random()); });
  return page;
}

TEST_CASE("what seals is AES-256-GCM, with nonce and slot where the header says", "[remote]") {
  constexpr uint32_t kGeneration = 0xA1B2C3D4;
  const auto cipher = Cipher({.generation = kGeneration, .first_counter = 77});
  std::mt19937_64 random(TestSeed());
  const Page page = RandomPage(random);
  const uint64_t slot = 0x123456789;
  Page sealed;
  const PageSeal seal = cipher->Seal(SlotId(slot), page.data(), sealed.data());
  CHECK(seal.counter == 77);

  std::array<unsigned char, 12> nonce;
  std::memcpy(nonce.data(), &seal.counter, 8);
  std::memcpy(nonce.data() + 8, &kGeneration, 4);
  Page theirs;
  std::array<uint64_t, 2> tag;
  int size = 0;
  EVP_CIPHER_CTX* const context = EVP_CIPHER_CTX_new();
  const auto bytes = [](const auto* p) { return reinterpret_cast<const unsigned char*>(p); };
  const auto out = [](auto* p) { return reinterpret_cast<unsigned char*>(p); };
  REQUIRE(EVP_EncryptInit(context, EVP_aes_256_gcm(), bytes(PageCipherTestPeer::Key(*cipher)),
                          nonce.data()) == 1);
  REQUIRE(EVP_EncryptUpdate(context, nullptr, &size, bytes(&slot), sizeof(slot)) == 1);
  REQUIRE(EVP_EncryptUpdate(context, out(theirs.data()), &size, bytes(page.data()), kPageSize) ==
          1);
  REQUIRE(EVP_EncryptFinal(context, out(theirs.data()), &size) == 1);
  REQUIRE(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, sizeof(tag), tag.data()) == 1);
  EVP_CIPHER_CTX_free(context);
  CHECK(sealed == theirs);
  CHECK(seal.tag == tag);
}

TEST_CASE("a page opens where and as it was sealed last, and in no other way", "[remote]") {
  const uint64_t seed = TestSeed();
  INFO("SPIRITOS_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  const auto cipher = Cipher();
  const Page page = RandomPage(random);
  Page sealed;
  Page opened;
  const SlotId slot(5);
  const PageSeal seal = cipher->Seal(slot, page.data(), sealed.data());
  CHECK(sealed != page);
  REQUIRE(cipher->Open(slot, seal, sealed.data(), opened.data()));
  CHECK(opened == page);

  uint32_t opened_anyway = 0;
  for (uint32_t round = 0; round < Rounds(2000); ++round) {
    const auto bit = static_cast<std::byte>(1 << random() % 8);
    const uint64_t at = random() % kPageSize;
    sealed[at] ^= bit;
    opened_anyway += cipher->Open(slot, seal, sealed.data(), opened.data());
    sealed[at] ^= bit;
  }
  for (uint32_t bit = 0; bit < 128; ++bit) {
    PageSeal other = seal;
    other.tag[bit / 64] ^= uint64_t{1} << bit % 64;
    opened_anyway += cipher->Open(slot, other, sealed.data(), opened.data());
  }
  CHECK(opened_anyway == 0);
  CHECK(std::all_of(opened.begin(), opened.end(), [](std::byte b) { return b == std::byte{0}; }));
  PageSeal later = seal;
  ++later.counter;
  CHECK_FALSE(cipher->Open(slot, later, sealed.data(), opened.data()));
  CHECK_FALSE(cipher->Open(SlotId(6), seal, sealed.data(), opened.data()));
  const PageSeal newer = cipher->Seal(slot, page.data(), opened.data());
  CHECK_FALSE(cipher->Open(slot, newer, sealed.data(), opened.data()));
  CHECK_FALSE(Cipher()->Open(slot, seal, sealed.data(), opened.data()));

  REQUIRE(cipher->Open(slot, seal, sealed.data(), sealed.data()));  // In place.
  CHECK(sealed == page);
}

TEST_CASE("no counter is given to two pages", "[remote]") {
  constexpr uint32_t kThreads = 4;
  const uint32_t pages = Rounds(50'000);
  const auto cipher = Cipher();
  std::array<std::vector<uint64_t>, kThreads> counters;
  RunTogether(kThreads, [&](uint32_t thread) {
    Page page{};
    Page sealed;
    for (uint32_t i = 0; i < pages; ++i) {
      counters[thread].push_back(cipher->Seal(SlotId(i), page.data(), sealed.data()).counter);
    }
  });
  std::set<uint64_t> all;
  for (const auto& some : counters) all.insert(some.begin(), some.end());
  CHECK(all.size() == kThreads * pages);
  CHECK(!all.contains(0));
}

TEST_CASE("a page that is stored into while it is sealed opens", "[remote]") {
  const auto cipher = Cipher();
  alignas(64) static std::array<volatile uint64_t, kPageSize / 8> words;
  std::atomic<bool> stop{false};
  std::thread storing([&] {
    for (uint64_t value = 0; !stop.load(); ++value) words[value % words.size()] = value;
  });
  uint32_t closed = 0;
  for (uint32_t i = 0; i < Rounds(20'000); ++i) {
    Page sealed;
    const auto* const page = reinterpret_cast<const std::byte*>(const_cast<uint64_t*>(&words[0]));
    const PageSeal seal = cipher->Seal(SlotId(i), page, sealed.data());
    closed += cipher->Open(SlotId(i), seal, sealed.data(), sealed.data()) ? 0 : 1;
  }
  stop.store(true);
  storing.join();
  CHECK(closed == 0);
}

TEST_CASE("the process ends before counters do", "[remote]") {
  const ChildEnd end = RunInChild([] {
    Page page{};
    const auto cipher = PageCipher::Create({.first_counter = UINT64_MAX - UINT32_MAX - 1}).value();
    static_cast<void>(cipher->Seal(SlotId(0), page.data(), page.data()));
    static_cast<void>(cipher->Seal(SlotId(0), page.data(), page.data()));
    std::fputs("the last two\n", stdout);
    std::fflush(stdout);
    static_cast<void>(cipher->Seal(SlotId(0), page.data(), page.data()));
    return 0;
  });
  INFO(end.text);
  CHECK(end.signal == SIGABRT);
  CHECK(end.text.find("the last two") != std::string::npos);
  CHECK(end.text.find("no nonce is left") != std::string::npos);
}

TEST_CASE("a forked child has no key", "[remote]") {
  const auto cipher = Cipher();
  const ChildEnd end = RunInChild([&] {
    const std::byte* const key = PageCipherTestPeer::Key(*cipher);
    const bool wiped =
        std::all_of(key, key + kPageSize, [](std::byte b) { return b == std::byte{0}; });
    std::fputs(wiped ? "wiped\n" : "inherited\n", stdout);
    std::fflush(stdout);
    Page page{};
    static_cast<void>(cipher->Seal(SlotId(0), page.data(), page.data()));
    return 0;
  });
  INFO(end.text);
  CHECK(end.text.find("wiped") != std::string::npos);
  CHECK(end.signal == SIGABRT);
  CHECK(end.text.find("a forked child has no key") != std::string::npos);
}

// Sanitizers have an mlock of their own that locks nothing.
constexpr bool kCanLock = !kUnderTsan && !kUnderAsan;

TEST_CASE("the key's page is locked and in no core dump", "[remote]") {
  const auto cipher = Cipher();
  std::ostringstream begin;
  begin << std::hex << reinterpret_cast<uintptr_t>(PageCipherTestPeer::Key(*cipher)) << "-";
  std::ifstream maps("/proc/self/smaps");
  std::string flags;
  bool here = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.starts_with(begin.str())) here = true;
    if (!here || !line.starts_with("VmFlags:")) continue;
    flags = line + " ";
    break;
  }
  INFO(begin.str() << " " << flags);
  if (kCanLock) CHECK(flags.find(" lo ") != std::string::npos);
  for (const char* flag : {" dd ", " wf "}) CHECK(flags.find(flag) != std::string::npos);
}

TEST_CASE("a key that cannot be locked is refused, and the knob is named", "[remote]") {
  if (!kCanLock) {
    WARN("skipped: mlock always succeeds under sanitizers");
    return;
  }
  const ChildEnd end = RunInChild([] {
    const rlimit none{0, 0};
    if (setrlimit(RLIMIT_MEMLOCK, &none) != 0 || (geteuid() == 0 && setuid(65534) != 0)) return 77;
    const auto made = PageCipher::Create({});
    std::fputs(made.status().ToString().c_str(), stdout);
    std::fflush(stdout);
    return made.ok() ? 1 : 0;
  });
  INFO(end.text);
  CHECK(end.status == 0);
  CHECK(end.text.find("SPIRITOS_ENCRYPT=none") != std::string::npos);
}

}  // namespace
}  // namespace spiritos
