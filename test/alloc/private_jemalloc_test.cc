// SPDX-License-Identifier: Apache-2.0
// The private copy and the program's malloc: neither sees the other.
#include "alloc/private_jemalloc.h"

#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "test/alloc/heap_rig.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

namespace spiritos {
namespace {

constexpr const char* kOtherJemalloc = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";

// The object that the dynamic linker takes `name` from.
std::string ProviderOf(const char* name) {
  Dl_info info{};
  dladdr(dlsym(RTLD_DEFAULT, name), &info);
  return info.dli_fname == nullptr ? "" : info.dli_fname;
}

// Runs this program's test `name` with `variable` set; its wait status.
int RunSelf(const char* variable, const char* value, const char* name) {
  const pid_t child = fork();
  if (child == 0) {
    setenv(variable, value, 1);
    execl("/proc/self/exe", "alloc_test", "--warn", "NoTests", name, static_cast<char*>(nullptr));
    _exit(127);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

}  // namespace

TEST_CASE("the program's malloc is the C library's", "[alloc]") {
  if (kSanitized) return;
  for (const char* name : {"malloc", "free", "calloc", "realloc", "posix_memalign", "aligned_alloc",
                           "malloc_usable_size", "pthread_create"}) {
    CAPTURE(name);
    CHECK(ProviderOf(name).find("libc.so") != std::string::npos);
  }
  for (const char* name : {"_Znwm", "_ZdlPv"}) {
    CAPTURE(name);
    CHECK(ProviderOf(name).find("libstdc++") != std::string::npos);
  }
  for (const char* name : {"mallocx", "mallctl", "malloc_conf", "spiritos_je_mallocx"}) {
    CAPTURE(name);
    CHECK(dlsym(RTLD_DEFAULT, name) == nullptr);
  }
  HeapRig heap(32_MiB);
  void* const near = malloc(20);
  void* const far = heap->Allocate(20);
  CHECK(malloc_usable_size(near) == 24);  // jemalloc would say 32.
  CHECK(heap->UsableSize(far) == 32);
  CHECK_FALSE(heap->Owns(near));
  free(near);
  heap->Free(far);
}

TEST_CASE("the private copy has our configuration", "[alloc]") {
  const auto flag = [](const char* name) {
    bool value = true;
    REQUIRE(jemalloc::Get(name, value));
    return value;
  };
  CHECK_FALSE(flag("opt.background_thread"));
  CHECK_FALSE(flag("opt.cache_oblivious"));
  CHECK_FALSE(flag("opt.hpa"));
  CHECK_FALSE(flag("opt.prof"));
  CHECK_FALSE(flag("opt.retain"));
  const auto text = [](const char* name) {
    const char* value = "";
    REQUIRE(jemalloc::Get(name, value));
    return std::string(value);
  };
  CHECK(text("opt.thp") == "never");
  CHECK(text("opt.metadata_thp") == "disabled");
  CHECK(text("opt.dss") == "disabled");
  unsigned arenas = 0;
  REQUIRE(jemalloc::Get("opt.narenas", arenas));
  CHECK(arenas == 1);

  unsigned bins = 0;
  REQUIRE(jemalloc::Get("arenas.nbins", bins));
  size_t largest = 0;
  REQUIRE(jemalloc::Get(jemalloc::ControlName("arenas.bin", bins - 1, "size"), largest));
  CHECK(largest == jemalloc::kLargestSmall);
  size_t cached = 0;
  REQUIRE(jemalloc::Get("arenas.tcache_max", cached));
  CHECK(cached == jemalloc::kLargestSmall);
  size_t page = 0;
  REQUIRE(jemalloc::Get("arenas.page", page));
  CHECK(page == kPageSize);
}

TEST_CASE("MALLOC_CONF is the program's and leaves the private copy alone", "[alloc]") {
  // With abort_conf, a jemalloc that read this would end the process.
  CHECK(RunSelf("MALLOC_CONF", "abort_conf:true,narenas:7,no_such_option:1",
                "the private copy has our configuration") == 0);
}

// Run by the next test under another malloc; harmless when run by itself.
TEST_CASE("the private copy serves beside any other malloc", "[alloc]") {
  HeapRig heap(64_MiB);
  std::vector<std::pair<void*, void*>> pairs;
  for (size_t i = 0; i < 20'000; ++i) {
    pairs.emplace_back(malloc(1 + i % 3000), heap->Allocate(1 + i % 3000));
    std::memset(pairs.back().first, 1, 1 + i % 3000);
    std::memset(pairs.back().second, 2, 1 + i % 3000);
  }
  bool ok = true;
  for (const auto& [near, far] : pairs) {
    ok = ok && heap->Owns(far) && !heap->Owns(near) && *static_cast<char*>(near) == 1 &&
         *static_cast<char*>(far) == 2;
    free(near);
    heap->Free(far);
  }
  CHECK(ok);
  heap->Purge();
  CHECK(heap->GetUsage().allocated == 0);
  if (const char* other = getenv("LD_PRELOAD")) CHECK(ProviderOf("malloc") == other);
}

TEST_CASE("a preloaded jemalloc and the private copy do not meet", "[alloc]") {
  if (kSanitized) return;
  if (access(kOtherJemalloc, R_OK) != 0) {
    WARN("skipped: no " << kOtherJemalloc);
    return;
  }
  CHECK(RunSelf("LD_PRELOAD", kOtherJemalloc, "the private copy serves beside any other malloc") ==
        0);
  CHECK(RunSelf("LD_PRELOAD", kOtherJemalloc, "the private copy has our configuration") == 0);
}

}  // namespace spiritos
