"""A PostgreSQL of Debian's, run by its own user in a temporary folder."""

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path


def binaries():
    """Return the folder with initdb and pg_ctl; None if PostgreSQL isn't installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = found[-1] if found else shutil.which("initdb")
    return Path(path).parent if path else None


@contextmanager
def postgres():
    """While open, yield the URL of an empty database."""
    programs = binaries()
    folder = tempfile.mkdtemp(prefix="pg-")  # short, since a socket's path must be
    user = []
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
        user = ["runuser", "-u", "postgres", "--"]

    def call(program, *arguments):
        command = [*user, str(programs / program), *arguments]
        subprocess.run(command, check=True, cwd=folder, capture_output=True, timeout=120)

    data = f"{folder}/data"
    try:
        call("initdb", "-D", data, "-U", "llmlab", "-A", "trust", "-N")
        options = f"-k {folder} -c listen_addresses= -c fsync=off"
        call("pg_ctl", "-D", data, "-w", "-l", f"{folder}/log", "-o", options, "start")
        try:
            yield f"postgresql://llmlab@/postgres?host={folder}"
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
