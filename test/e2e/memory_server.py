# SPDX-License-Identifier: Apache-2.0
"""`spiritos memd` in a process of its own, for tests that need one."""

import contextlib
import pathlib
import select
import signal
import subprocess
import sys
import tempfile

READY_S = 60


def skip_without_threads(spiritos):
    """Ends with 77 where handler threads are not permitted."""
    probe = subprocess.run([spiritos, "run", "--quiet", "--", "true"], capture_output=True, text=True)
    if probe.returncode == 125 and "userfaultfd" in probe.stderr:
        print(f"skipped: {probe.stderr}")
        sys.exit(77)


@contextlib.contextmanager
def memd(spiritos, *words, **options):
    """A server that is ready, and what it said; it must end well when asked to."""
    process = subprocess.Popen([spiritos, "memd", "--no-lock", *map(str, words)], text=True,
                               stdout=subprocess.PIPE, **options)
    ready, _, _ = select.select([process.stdout], [], [], READY_S)
    try:
        yield process.stdout.readline() if ready else "nothing", process
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=READY_S)
        if status != 0:
            raise AssertionError(f"memd ended with {status}")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        if process.stderr:
            process.stderr.close()


@contextlib.contextmanager
def local_pool(spiritos, memory):
    """The address of a server of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "memd.sock")
        with memd(spiritos, "--unix", path, "--memory", memory) as (said, _):
            if "shm://" not in said:
                raise AssertionError(f"memd is not ready: {said}")
            yield f"shm://{path}"
