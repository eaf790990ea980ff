// SPDX-License-Identifier: Apache-2.0
// The checks of `spiritos doctor`: each looks at one thing and says one line.
#pragma once

#include <string>
#include <vector>

namespace spiritos::cli {

struct Finding {
  enum class Grade {
    kGood,
    kNote,  // Works, and could be better; or is not needed by everyone.
    kFix,   // Programs fail, or lose what they were promised.
  };
  std::string check;
  Grade grade = Grade::kGood;
  std::string says;
  std::string fix;  // What to do; empty when all is good.
};

// All of them, in the order in which they are best mended. Takes as long as a pool takes
// to answer, seconds at most.
std::vector<Finding> Examine();

}  // namespace spiritos::cli
