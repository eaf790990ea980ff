// SPDX-License-Identifier: Apache-2.0
// ncurses keeps one screen in global state; so there is one TopScreen.
#include "runtime/cli/top_screen.h"

#include <langinfo.h>
#include <locale.h>
#include <ncurses.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "libos/base/status.h"

namespace spiritos::cli {

absl::StatusOr<std::unique_ptr<TopScreen>> TopScreen::Open() {
  setlocale(LC_CTYPE, "");
  const bool utf8 = std::strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
  SCREEN* const screen = newterm(nullptr, stdout, stdin);
  if (screen == nullptr) {
    const char* const terminal = getenv("TERM");
    return InvalidArgument("TERM={} is no terminal that ncurses knows (--plain)",
                           terminal == nullptr ? "" : terminal);
  }
  cbreak();
  noecho();
  curs_set(0);
  keypad(stdscr, TRUE);
  return std::unique_ptr<TopScreen>(new TopScreen(screen, utf8));
}

TopScreen::~TopScreen() {
  endwin();
  delscreen(static_cast<SCREEN*>(screen_));
}

void TopScreen::Draw(const std::string& title, const std::string& heading,
                     const std::vector<std::string>& rows, const std::string& keys) {
  const int last = getmaxy(stdscr) - 1;
  const int columns = getmaxx(stdscr);
  erase();
  mvaddnstr(0, 0, title.c_str(), columns);
  attron(A_REVERSE);
  mvhline(2, 0, ' ', columns);
  mvaddnstr(2, 0, heading.c_str(), columns);
  attroff(A_REVERSE);
  for (size_t i = 0; i < rows.size() && static_cast<int>(i) + 3 < last; ++i) {
    mvaddstr(static_cast<int>(i) + 3, 0, rows[i].c_str());
    clrtoeol();
  }
  mvaddnstr(last, 0, keys.c_str(), columns);
  refresh();
}

int TopScreen::AwaitKey(int ms) {
  timeout(std::max(ms, 0));
  const int key = getch();
  return key == ERR ? 0 : key;
}

}  // namespace spiritos::cli
