#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs `spiritos arbiter solve` over the cases, and the strict checker over what it prints;
then over broken cases, which have to be refused with a message that names what is wrong.

usage: cases_test.py PROGRAM
"""
import json
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
POLICIES = ["ideal", "equal", "harvest", "trade", "released"]


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def check_case(program, case, folder):
    """The complaints about one case."""
    complaints = []
    solved = run(program, "arbiter", "solve", str(case))
    if solved.returncode != 0:
        return [solved.stderr]
    allocation = folder / case.name
    allocation.write_text(solved.stdout)
    checked = run(sys.executable, str(HERE / "symbiosis_check.py"), "--strict", str(case),
                  str(allocation))
    print(f"{case.name}: {checked.stdout.strip().splitlines()[-1]}")
    if checked.returncode != 0:
        complaints.append(f"{checked.stdout}{checked.stderr}")
    exists = json.loads(case.read_text())["reference_ce"]["exists"]
    if json.loads(solved.stdout)["exists"] != exists:
        complaints.append(f"an equilibrium exists: {exists}, but not what was said")
    for policy in POLICIES:
        other = run(program, "arbiter", "solve", str(case), "--policy", policy)
        shares = json.loads(other.stdout)["alloc"] if other.returncode == 0 else []
        if not shares or any(sum(of) > 1 + 1e-6 for of in zip(*shares)):
            complaints.append(f"--policy {policy}: {other.stdout}{other.stderr}")
    table = run(program, "arbiter", "solve", str(case), "--table")
    if table.returncode != 0 or "of equal share" not in table.stdout:
        complaints.append(f"--table: {table.stdout}{table.stderr}")
    return complaints


def check_refusals(program, folder):
    linear = {"kind": "linear", "params": {"wc": 1, "wb": 1}}
    refusals = [
        ("{", "no JSON"),
        ('{"apps": [{"kind": "linear", "params": {"wc": NaN, "wb": 1}}]}', "NaN"),
        ("{}", "apps is missing"),
        ('{"n": 0, "apps": []}', "apps is empty"),
        (json.dumps({"n": 3, "apps": [linear]}), "n is 3, but apps has 1"),
        (json.dumps({"apps": [{"kind": "cubic"}]}), 'apps[0].kind is "cubic"'),
        (json.dumps({"apps": [{"kind": "linear", "params": {"wc": 1}}]}),
         "apps[0].params.wb is missing"),
        (json.dumps({"apps": [linear], "weights": [-1]}), "weights[0] is -1"),
        (json.dumps({"apps": [linear] * 2, "bounds": {"c": [0.6, 1]}}), "minimums"),
        (json.dumps({"apps": [linear], "bounds": {"b": [0.6, 0.5]}}), "bounds.b[1] is 0.5"),
    ]
    complaints = []
    for text, wanted in refusals:
        case = folder / "broken.json"
        case.write_text(text)
        refused = run(program, "arbiter", "solve", str(case))
        if refused.returncode != 1 or wanted not in refused.stderr:
            complaints.append(f"{text}: wanted {wanted!r}, got {refused.returncode}: "
                              f"{refused.stdout}{refused.stderr}")
    missing = run(program, "arbiter", "solve", str(folder / "missing.json"))
    if missing.returncode != 1 or "missing.json" not in missing.stderr:
        complaints.append(f"a missing file: {missing.stderr}")
    return complaints


def main():
    program = sys.argv[1]
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        cases = sorted((HERE / "cases").glob("*.json"))
        results = [(case.name, check_case(program, case, folder)) for case in cases]
        results.append(("refusals", check_refusals(program, folder)))
        for what, complaints in results:
            for complaint in complaints:
                failed = True
                print(f"{what}: {complaint}", file=sys.stderr)
    sys.exit(failed or not cases)


if __name__ == "__main__":
    main()
