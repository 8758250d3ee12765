"""Two network namespaces as two machines, joined by a cable of a given rate and delay.

Needs root and iproute2. Delays need the kernel's netem; rates do with its token bucket.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

AGENT = """#!/bin/sh
# What mpirun takes for ssh: the first argument is the other machine, the rest what to run there.
shift
exec ip netns exec {name} unshare --uts sh -c 'hostname {name}; exec sh -c "$0"' "$*"
"""


class CannotError(Exception):
    """This machine has no such namespaces or cables; the message says why."""


class Machines:
    """Use as a context manager; `front` then starts an mpirun over both.

    Parameters
    ----------
    rate
        Megabits per second in each direction; None for no limit.
    delay
        Milliseconds one way.
    """

    def __init__(self, rate=None, delay=0.0):
        self.rate, self.delay = rate, delay
        number = os.getpid() % 10_000
        self.names = [f"llm{number}a", f"llm{number}b"]
        self.addresses = ["10.77.0.1", "10.77.0.2"]
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self):
        if os.geteuid() != 0 or shutil.which("ip") is None:
            raise CannotError("needs root and iproute2 for network namespaces")
        try:
            self._make()
        except CannotError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        self._folder.cleanup()

    def _make(self):
        for name in self.names:
            call("ip", "netns", "add", name)
        cable = [f"{name}0" for name in self.names]
        call("ip", "link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
        for name, end, address in zip(self.names, cable, self.addresses, strict=True):
            call("ip", "link", "set", end, "netns", name)
            call("ip", "-n", name, "addr", "add", f"{address}/24", "dev", end)
            call("ip", "-n", name, "link", "set", end, "up")
            call("ip", "-n", name, "link", "set", "lo", "up")
            for words in self._limits():
                call("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", end, "root", *words)
        agent = Path(self._folder.name) / "agent"
        agent.write_text(AGENT.format(name=self.names[1]))
        agent.chmod(0o755)
        self.agent = str(agent)

    def _limits(self):
        rate = [] if self.rate is None else ["rate", f"{self.rate}mbit"]
        if self.delay:
            return [["netem", "delay", f"{self.delay}ms", *rate]]
        return [["tbf", *rate, "burst", "256kb", "latency", "500ms"]] if rate else []

    @property
    def before(self):
        """What stands before mpirun."""
        inside = f'hostname {self.names[0]}; exec "$@"'
        return ["ip", "netns", "exec", self.names[0], "unshare", "--uts", "sh", "-c", inside, "-"]

    @property
    def flags(self):
        """Flags of Open MPI 4: both machines, over the cable alone."""
        net = "10.77.0.0/24"
        settings = {
            "plm_rsh_agent": self.agent,
            "btl": "tcp,self",
            "btl_tcp_if_include": net,
            "oob_tcp_if_include": net,
        }
        pairs = [word for name, value in settings.items() for word in ("--mca", name, value)]
        hosts = ",".join(f"{address}:8" for address in self.addresses)
        return ["--host", hosts, "--map-by", "node", *pairs]


def call(*words):
    """Run a command; raise CannotError with what it says if it fails."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise CannotError(f"{' '.join(words)}: {done.stderr.strip()}")
