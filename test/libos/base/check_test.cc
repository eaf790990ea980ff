// SPDX-License-Identifier: Apache-2.0
// Checks: what a failed one says before the process dies.
#include "libos/base/check.h"

#include <signal.h>

#include <catch2/catch.hpp>
#include <string>

#include "test/support/child.h"

namespace spiritos {
namespace {

TEST_CASE("a failed check names file, line, condition and values, and aborts", "[base]") {
  const int line = __LINE__ + 3;
  const ChildEnd end = RunInChild([] {
    const int frames = 7;
    SPIRITOS_CHECK(frames % 2 == 0, "frames={} word={:#x}", frames, 0xabcu);
    return 0;
  });
  INFO(end.text);
  CHECK(end.signal == SIGABRT);
  CHECK(end.text.find("check_test.cc:" + std::to_string(line) + ": check failed: ") !=
        std::string::npos);
  CHECK(end.text.find(": frames % 2 == 0: frames=7 word=0xabc\n") != std::string::npos);
}

TEST_CASE("a check that holds does not evaluate its message", "[base]") {
  int evaluated = 0;
  SPIRITOS_CHECK(evaluated == 0, "{}", ++evaluated);
  CHECK(evaluated == 0);
}

TEST_CASE("a check stands where a lone statement may", "[base]") {
  int reached = 0;
  if (reached == 1)
    SPIRITOS_CHECK(false, "not taken");
  else
    reached = 2;
  CHECK(reached == 2);
}

TEST_CASE("an overlong message is cut, ends its line and still aborts", "[base]") {
  const ChildEnd end = RunInChild([] {
    SPIRITOS_CHECK(false, "{}", std::string(5000, 'x'));
    return 0;
  });
  CHECK(end.signal == SIGABRT);
  CHECK(end.text.find(std::string(300, 'x')) != std::string::npos);
  CHECK(end.text.size() < 800);
  CHECK(end.text.back() == '\n');
}

TEST_CASE("a check fails loudly inside a signal handler", "[base]") {
  const ChildEnd end = RunInChild([] {
    signal(SIGUSR1, [](int number) { SPIRITOS_CHECK(number == 0, "signal {}", number); });
    raise(SIGUSR1);
    return 0;
  });
  INFO(end.text);
  CHECK(end.signal == SIGABRT);
  CHECK(end.text.find(": number == 0: signal " + std::to_string(SIGUSR1)) != std::string::npos);
}

TEST_CASE("a debug check dies in debug builds alone and is never evaluated in others", "[base]") {
  const ChildEnd end = RunInChild([] {
    int evaluated = 0;
    SPIRITOS_DCHECK(++evaluated == 2, "evaluated {}", evaluated);
    return evaluated == 0 ? 3 : 4;
  });
#ifdef NDEBUG
  CHECK(end.status == 3);
#else
  CHECK(end.signal == SIGABRT);
#endif
}

}  // namespace
}  // namespace spiritos
