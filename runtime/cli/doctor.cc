// SPDX-License-Identifier: Apache-2.0
// A line for each finding, for people or for programs.
#include "runtime/cli/doctor.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "runtime/cli/doctor_checks.h"

namespace spiritos::cli {
namespace {

const char* NameOf(Finding::Grade grade) {
  switch (grade) {
    case Finding::Grade::kGood:
      return "ok";
    case Finding::Grade::kNote:
      return "note";
    default:
      return "fix";
  }
}

void PrintText(const std::vector<Finding>& findings) {
  for (const Finding& finding : findings) {
    fmt::print("{:<5} {:<21} {}{}{}\n", NameOf(finding.grade), finding.check, finding.says,
               finding.fix.empty() ? "" : "; ", finding.fix);
  }
}

void PrintJson(const std::vector<Finding>& findings) {
  auto list = nlohmann::json::array();
  for (const Finding& finding : findings) {
    list.push_back({{"check", finding.check},
                    {"grade", NameOf(finding.grade)},
                    {"says", finding.says},
                    {"fix", finding.fix}});
  }
  fmt::print("{}\n", list.dump(2));
}

}  // namespace

void AddDoctor(CLI::App& app, int* status) {
  auto json = std::make_shared<bool>(false);
  CLI::App* const doctor =
      app.add_subcommand("doctor", "Say what this machine lacks, and how to mend it.");
  doctor->add_flag("--json", *json,
                   "for programs: a list of check, grade (ok, note, fix), says, fix");
  doctor->callback([json, status] {
    const std::vector<Finding> findings = Examine();
    *json ? PrintJson(findings) : PrintText(findings);
    *status = std::any_of(findings.begin(), findings.end(), [](const Finding& finding) {
      return finding.grade == Finding::Grade::kFix;
    });
  });
}

}  // namespace spiritos::cli
