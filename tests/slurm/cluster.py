"""A Slurm cluster of one controller and one node on this machine, in a folder of its own."""

import os
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from tiny_runs import wait_for

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
SlurmctldPort=26817
SlurmdPort=26818
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={megabytes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """Started when it is entered, stopped when it is left; skips the test, with the reason, where it cannot start."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.env = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self.daemons: list[subprocess.Popen] = []

    def __enter__(self) -> "Cluster":
        install()
        self.write_config()
        socket_file = self.folder / "munge.socket"
        files = (f"--{name}-file={self.folder / f'munge.{name}'}" for name in ("key", "pid", "seed", "log"))
        self.start("munged", "--foreground", "--force", f"--socket={socket_file}", *files)
        wait_for(socket_file.exists, "munged", 10)
        self.start("slurmctld", "-D")
        self.start("slurmd", "-D")
        try:
            wait_for(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T", check=False), "Slurm", 60)
        except TimeoutError as error:
            logs = "\n".join((self.folder / f"{name}.log").read_text()[-1500:] for name in ("slurmctld", "slurmd"))
            self.__exit__()
            pytest.skip(f"{error}; its logs end:\n{logs}")
        return self

    def __exit__(self, *error) -> None:
        if self.queue():
            self.run("scancel", "--user=root", "--full", "--signal=KILL", check=False)
            self.run("scancel", "--user=root", check=False)
            with suppress(TimeoutError):
                wait_for(lambda: not self.queue(), "an empty queue", 60)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def write_config(self) -> None:
        self.folder.chmod(0o755)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        text = CONFIG.format(host=socket.gethostname(), folder=self.folder, cpus=os.cpu_count(), megabytes=megabytes)
        (self.folder / "slurm.conf").write_text(text)

    def start(self, *command: str) -> None:
        with open(self.folder / "daemons.log", "ab") as log:
            self.daemons.append(subprocess.Popen(command, env=self.env, stdout=log, stderr=log))

    def run(self, *command: str, check: bool = True) -> str:
        """Output of one of Slurm's commands."""
        return subprocess.run(command, env=self.env, check=check, text=True, capture_output=True, timeout=60).stdout

    def queue(self) -> list[str]:
        """Jobs that are waiting or running, e.g. ``3_7``."""
        return self.run("squeue", "--noheader", "--array", "--format=%i", check=False).split()


def install() -> None:
    """Slurm from the distribution's packages, where it is not there yet."""
    if all(map(shutil.which, PROGRAMS)):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip(f"needs Slurm: install {' and '.join(PACKAGES)}, or run this as root on Debian or Ubuntu")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", "--quiet", *command], env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"apt-get {command[0]} failed: {(done.stderr.splitlines() or ['no reason given'])[-1]}")
