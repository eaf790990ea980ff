#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Checks that every C++ file is laid out as .clang-format says.
#
#   check_format.sh [--fix] [ROOT]
#
# Versions of clang-format lay out some lines differently, so only version 14
# counts; without it the check is skipped (exit status 77).
set -euo pipefail

readonly VERSION=14
mode=(--dry-run -Werror)
[[ ${1-} != --fix ]] || { mode=(-i); shift; }
cd "${1:-$(dirname "$0")/../..}"

tool=
for name in "clang-format-$VERSION" clang-format; do
  case $("$name" --version 2>/dev/null || true) in
    *"version $VERSION."*) tool=$name; break ;;
  esac
done
if [[ -z $tool ]]; then
  echo "skipped: clang-format $VERSION is not installed"
  exit 77
fi

# What git knows or would add; the whole tree where there is no git.
list() {
  if [[ -z $(git rev-parse --show-prefix 2>/dev/null || echo none) ]]; then
    git ls-files -coz --exclude-standard -- '*.h' '*.cc'
  else
    find . \( -name .git -o -path ./build \) -prune -o \
      -type f \( -name '*.h' -o -name '*.cc' \) -print0
  fi
}

files=()
while IFS= read -r -d '' file; do
  [[ ! -f $file ]] || files+=("$file")  # Git lists deleted files too.
done < <(list)
if ((${#files[@]} > 0)); then
  printf '%s\0' "${files[@]}" | xargs -0 -n 40 -P 2 "$tool" --style=file "${mode[@]}" || {
    echo "to lay them out: test/lint/check_format.sh --fix"
    exit 1
  }
fi
echo "${#files[@]} files"
