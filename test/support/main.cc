// SPDX-License-Identifier: Apache-2.0
// Catch2's main, compiled once for all test programs.
#define CATCH_CONFIG_MAIN
#define CATCH_CONFIG_NO_POSIX_SIGNALS  // SIGBUS belongs to the code under test.
#include <catch2/catch.hpp>
