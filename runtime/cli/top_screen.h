// SPDX-License-Identifier: Apache-2.0
// A terminal that is drawn anew, by ncurses.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace spiritos::cli {

class TopScreen {
 public:
  // One at a time. Fails where ncurses knows nothing of the terminal.
  static absl::StatusOr<std::unique_ptr<TopScreen>> Open();
  ~TopScreen();
  TopScreen(const TopScreen&) = delete;
  TopScreen& operator=(const TopScreen&) = delete;

  // What does not fit is left out.
  void Draw(const std::string& title, const std::string& heading,
            const std::vector<std::string>& rows, const std::string& keys);
  // The key that is pressed within `ms`, or 0. A terminal whose size changes is a key, too.
  int AwaitKey(int ms);
  // Whether it can show more than ASCII.
  bool shows_curves() const { return utf8_; }

 private:
  explicit TopScreen(void* screen, bool utf8) : screen_(screen), utf8_(utf8) {}
  void* const screen_;  // ncurses' SCREEN.
  const bool utf8_;
};

}  // namespace spiritos::cli
