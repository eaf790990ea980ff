#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every planted bug must be caught by the oracle stress within its time limit.

usage: planted_bugs.py ORACLE_STRESS [BUG ...]
Runs the stress once without a bug (it must pass) and once with each.
"""
import subprocess
import sys
import time

LIMIT_S = 60
BUGS = {  # And what brings each out soonest.
    "unprotect-after-resident": ["--chaos"],
    "stale-slot-valid": ["--chaos"],
    "thaw-over-leaving": ["--chaos"],
    "pin-ignored": ["--chaos"],
    "two-writes-per-slot": ["--chaos", "--unruly"],
    "frame-before-ack": ["--chaos", "--unruly"],
    "guard-outlives-thaw": [],
    "pin-before-thaw": ["--chaos"],
}


def run(stress, arguments, limit):
    begin = time.monotonic()
    try:
        done = subprocess.run([stress, *arguments], timeout=limit,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        status, text = done.returncode, done.stdout
    except subprocess.TimeoutExpired as expired:
        status, text = None, (expired.stdout or b"").decode(errors="replace")
    reason = [line for line in text.splitlines() if "MISMATCH" in line or "check failed" in line
              or line.startswith("spiritos: page")]
    return status, reason, time.monotonic() - begin, text


def main():
    stress, wanted = sys.argv[1], sys.argv[2:] or list(BUGS)
    failures = 0
    status, _, seconds, text = run(stress, ["--chaos", "--operations", "20000"], 2 * LIMIT_S)
    print(f"no bug: {'passes' if status == 0 else 'FAILS'} in {seconds:.1f} s", flush=True)
    if status != 0:
        print(text)
        failures += 1
    for bug in wanted:
        status, reason, seconds, text = run(
            stress, ["--plant", bug, "--operations", "1000000000", *BUGS[bug]], LIMIT_S)
        caught = status not in (None, 0, 2) and reason
        print(f"{bug}: {'caught' if caught else 'NOT CAUGHT'} in {seconds:.1f} s"
              f"{': ' + reason[0][:160] if reason else ''}", flush=True)
        if not caught:
            print(text)
            failures += 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
