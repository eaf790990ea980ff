// SPDX-License-Identifier: Apache-2.0
// spiritos: the one program. A subcommand for each daemon and tool.
#include <CLI/CLI.hpp>

#include "runtime/cli/arbiter.h"
#include "runtime/cli/doctor.h"
#include "runtime/cli/key.h"
#include "runtime/cli/memd.h"
#include "runtime/cli/run.h"
#include "runtime/cli/stat.h"
#include "runtime/cli/top.h"

int main(int argc, char** argv) {
  CLI::App app("Far memory for ordinary programs.");
  app.require_subcommand(1);
  app.set_help_all_flag("--help-all", "Help for every subcommand");
  int status = 0;
  spiritos::cli::AddArbiter(app, &status);
  spiritos::cli::AddKey(app, &status);
  spiritos::cli::AddMemd(app, &status);
  spiritos::cli::AddRun(app, &status);
  spiritos::cli::AddStat(app, &status);
  spiritos::cli::AddTop(app, &status);
  spiritos::cli::AddDoctor(app, &status);
  spiritos::cli::MarkCommand(argc, argv);
  CLI11_PARSE(app, argc, argv);
  return status;
}
