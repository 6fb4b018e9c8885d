"""Fuzz: hostile command lines and damaged run folders.  Each ends well or in one line; none dies, hangs or lies.

    python tests/attack/fuzz.py                                     (make attack)
    python tests/attack/fuzz.py --seed 7 --commands 100 --trained 10 --folders 100
    python tests/attack/fuzz.py --only folders:17                   one case, with all that it prints

A case is the same for the same seed and number.  Cases run one after the other in a forked process, which a hang or a
signal ends.  Where a case was accepted, "same" means byte for byte the numbers of a run that nobody damaged.
"""

import argparse
import io
import json
import logging
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import omegaconf._utils
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from chaos import IMPORTED, differences

import projectlib.cli.job
import projectlib.data.loaders
import projectlib.plotting
import projectlib.runs.recorder
import projectlib.training.allocation
from projectlib.cli.main import launch
from projectlib.config.bounds import Loader
from projectlib.config.compose import compose, without_hydra
from projectlib.config.settings import flatten, plain
from projectlib.runs.checkpoint import load_checkpoint, write_checkpoint

assert IMPORTED  # once for all forked processes
PATIENCE = 20.0  # seconds for one case
MEMORY = 2 * 10**9  # bytes that a machine pretends to have
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # nothing waits for a disk
LIFE = 150  # cases of one forked process
fork = multiprocessing.get_context("fork")


class Outcome(NamedTuple):
    """fell: whether it is one that must not be."""

    name: str
    fell: bool = False
    detail: str = ""


# Command lines

LOCAL = ("digits", "xor", "linear")  # data sets that need no file
SCRIPTS = {
    "train-biohsic": ("nmodels=1", "training.nepochs=1", "data.limit=30"),
    "train-bp": ("nmodels=1", "training.nepochs=1", "data.limit=30"),
    "train-lif-biohsic": ("nmodels=1", "training.nepochs=1", "data.limit=70", "training.sample_timesteps=2"),
    "train-reservoir": ("training.nepochs=1", "data.nsamples=12", "data.ntimesteps=2", "model.nhidden=20"),
}
"""What keeps a run small: first of the overrides, and of those that are trained the last too."""

CHOICES = {
    "model": ("mlp", "cnn", "linear", "lif-mlp", "reservoir"),
    "rule": ("biohsic", "hsic", "frozen", "backprop", "delta"),
    "modulator": ("window", "reservoir", "remembered", "covariance", "delta", "class-means"),
    "optimizer": ("adam", "adamw", "sgd"),
    "lr_schedule": ("constant", "cosine", "exponential", "piecewise"),
    "logger": ("print", "tensorboard"),
    "data": (*LOCAL, "mnist", "mnist_5000", "fashion_mnist", "cifar10", "folder"),
    "experiment": ("mnist", "xor", "reservoir"),
    "search": ("digits",),
    "sweep": ("window",),
}
NAMES = ("nosuch", "../mnist", "/etc/passwd", "null", "[mlp]", "[mlp,cnn]", "1", "ünï", "'a b'", "${seed}", "a/b", "")
TYPED = r"""
null
~ nan .nan inf -inf -.inf 0 -0 -1 0.5 -0.5 1e-320 1e308 1e400 1e999 1000000000 9223372036854775807 9223372036854775808
-9223372036854775809 true false yes 2026-11-26 1:30 0x10 1_000 007 +1 1e3 3.0 ??? _self_ [] [[]] [0] [1] [-1] [nan]
[inf,1,1] [1,2,3] [1e9] [1000000000] [null] [''] [1,[2,3]] [true] [0.5,0.5,0.5] [1e-300,1,1] [1e300,1e300,1e300]
[1000000,1000000] {} {a:1} {a:{b:{c:[1,{d:null}]}}} {_target_:os.system} [{_target_:os.getcwd}] {1:2} {null:1} {'':1}
ünïcödé 日本 🙂
 %s%n%x ${seed} '${seed}' ${nosuch} ${data} ${model} ${data.batchsize} ${oc.env:HOME} ${oc.env:NO} ${.} ${..}
${oc.decode:'[1'} ${oc.decode:'1e999'} ${now:%Y} ${hydra:job.name} ${ } $ ${oc.create:{_target_:os.system}} ${nosuch:1}
${oc.dict.values:data} ${oc.select:nosuch} ${oc.deprecated:seed} ../../etc/passwd /dev/null /proc/self/mem ~/x a,b 1,2
range(3) choice(1,2) glob(*) shuffle(1,2) interval(0,1) int(1.5) float(x) str(1) sort(3,1) extend_list(1) nosuch(1)
!!python/object/apply:os.system
*a ' " \ @ # a=b = ( ) [1, {a: : published exact parzen auto cpu cuda cuda:99 mps meta cpu:3
compiled train/loss standardize unit symmetric folder torch.nn.Module torch.float32 projectlib.rules.Delta &a
"""
VALUES = [
    *TYPED.split(),
    "",
    "'a b'",
    "a b",
    "\u202egpj",
    "'\x1b[2J'",
    "'a\nb'",
    "'\x00'",
    "\ud800",
    "1" + "0" * 400,
    "9" * 5000,
]
VALUES += [
    "[" * 39 + "]" * 39,
    "[" * 200 + "]" * 200,
    "{a:" * 200 + "1" + "}" * 200,
    "[" * 3000,
    "x" * 100_000,
    "[" + "1," * 5000 + "1]",
]
HYDRA_KEYS = """
hydra.job.name hydra.verbose hydra.job.chdir hydra.output_subdir hydra.job.config.override_dirname hydra.job_logging
hydra.job_logging.root.level hydra.job_logging.handlers.file.filename hydra.mode hydra/launcher hydra/job_logging
hydra.sweeper.params hydra.searchpath hydra.callbacks hydra hydra.runtime.choices hydra.overrides.task
hydra.job.env_set hydra.job.num hydra.help.template
"""


def settings_of(script: str, data: str) -> dict[str, Any]:
    return flatten(plain(without_hydra(compose(script, [f"data={data}"]))))


SETTINGS = {(script, data): settings_of(script, data) for script in SCRIPTS for data in LOCAL}


def command(seed: int, number: int) -> tuple[str, list[str]]:
    """A script and what is typed after it: one to four hostile overrides of a small run."""
    chance = random.Random(f"command {seed} {number}")
    script, data = chance.choice([*SCRIPTS]), chance.choice(LOCAL)
    words = [f"data={data}", *SCRIPTS[script], "engine=eager"]
    for _ in range(chance.randint(1, 3)):
        if chance.random() < 0.25:
            group = chance.choice(["model", "rule", "modulator", "optimizer", "lr_schedule"])
            words.append(f"{group}={chance.choice(CHOICES[group])}")
    words += [override(chance, SETTINGS[script, data]) for _ in range(chance.choice([1, 1, 1, 2, 4]))]
    if chance.random() < 0.1:
        words.append(chance.choice(words))
    if chance.random() < 0.05:
        chance.shuffle(words)
    if any("search=" in word for word in words):
        words.append("search.trials=1")  # 40 of them take longer than PATIENCE
    return script, words


def override(chance: random.Random, settings: dict[str, Any]) -> str:
    """One hostile override: a key that there is, mostly, and a value that suits it, hardly ever."""
    kind, prefix = chance.random(), chance.choice([*("",) * 12, "+", "++", "~", "+++", "~+"])
    if kind < 0.12:
        group = chance.choice([*CHOICES])
        return f"{prefix}{group}={chance.choice([*NAMES, *CHOICES[group]])}"
    if kind < 0.2:
        return f"{prefix}{chance.choice(HYDRA_KEYS.split())}={chance.choice(VALUES)}"
    key = chance.choice([*settings])
    if kind < 0.3:
        key = chance.choice(
            [key.rsplit(".", 1)[0], key[:-1], f"{key}.x", f"{key}.0", key.upper(), f".{key}", f"{key}@x"]
        )
    value = near(chance, settings.get(key)) if chance.random() < 0.3 else chance.choice(VALUES)
    return f"{prefix}{key}" if prefix == "~" and chance.random() < 0.5 else f"{prefix}{key}={value}"


def near(chance: random.Random, value: Any) -> str:
    """A value not far from a setting's own."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return str(value)
    if isinstance(value, list):
        changed = [*value, *value[:1]] if chance.random() < 0.3 else value[: chance.randint(0, len(value))]
        return f"[{','.join(near(chance, item) for item in changed)}]"
    return str(chance.choice([value, -value, value * 10, value / 10, value + 0.5, value * 1e30, value + 1]))


# Run folders

BASES = {
    "mlp": "train-biohsic data=xor nmodels=2 data.limit=30 data.batchsize=6 engine=eager training.log_arrays=[0,1] "
    "optimizer=sgd optimizer.momentum=0.9",
    "bp compiled": "train-bp data=digits nmodels=1 data.limit=30 engine=compiled optimizer=sgd "
    "lr_schedule=piecewise lr_schedule.milestones=[1,2]",
    "stream compiled": "train-biohsic data=digits nmodels=2 data.limit=30 engine=compiled modulator=delta "
    "lr_schedule=constant",
    "lif compiled": "train-lif-biohsic data=xor nmodels=2 data.limit=70 engine=compiled training.sample_timesteps=2",
    "cnn": "train-biohsic data=digits nmodels=1 data.limit=20 engine=eager model=cnn model.features=[2]",
    "reservoir compiled": "train-reservoir data=xor nmodels=2 data.nsamples=14 data.ntimesteps=3 model.nhidden=20 "
    "engine=compiled",
}
"""Runs of two epochs, with a checkpoint of each; what is damaged of them is resumed to a third."""

PLAIN: list[Any] = [None, True, False, 0, -1, 0.5, 10**9, 2**63, -(2**70), 10**400, math.nan, math.inf, "", "x", "a\nb"]
PLAIN += [
    [],
    [[]],
    [1],
    [None],
    [math.nan],
    {},
    {"a": 1},
    {"_target_": "os.system"},
    {1: 2},
    [{"_target_": "os.getcwd"}],
]
PLAIN += ["x" * 100_000, "${seed}", "${nosuch}", "${oc.env:HOME}", "${oc.env:NO}", "${data}", "${", "???", "../x"]
PLAIN += ["os.system", "torch.hub.load", "projectlib.rules.Frozen", "compiled", "meta", "cuda", "\x1b[2J", "train/loss"]
PLAIN += ["/etc/passwd", "\u202e"]


class Damage(NamedTuple):
    """What was done to a copy of a run folder.  keeps_numbers: whether what is accepted of it must end as ever."""

    kind: str
    what: str
    keeps_numbers: bool = True


def damage(chance: random.Random, folder: Path, others: list[Path]) -> Damage:
    kind = chance.choice(["settings", "settings", "checkpoint", "content"])
    if kind == "settings":
        names = ["config.yaml"] * 4 + ["hydra.yaml", "overrides.yaml"]
        path = folder / ".hydra" / chance.choice(names) if chance.random() < 0.93 else folder / "metrics.csv"
        change = chance.choice([change_values] * 3 + [change_text]) if path.suffix == ".yaml" else change_text
        return Damage("settings" if path.suffix == ".yaml" else "metrics.csv", f"{path.name}: {change(chance, path)}")
    newest = folder / "checkpoints" / "epoch-0002.pt"
    if kind == "checkpoint":
        return Damage("checkpoint", change_file(chance, newest, others))
    return Damage("content with its digest", change_content(chance, newest), keeps_numbers=False)


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """Where something is in nested values."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def container(node: Any, path: tuple) -> Any:
    for key in path[:-1]:
        node = node[key]
    return node


def change_values(chance: random.Random, path: Path) -> str:
    """Replace, delete, rename, swap or add one value of a YAML file."""
    node = yaml.safe_load(path.read_text())
    found = [*places(node)]
    place, other = chance.choice(found), chance.choice(found)
    parent, key = container(node, place), place[-1]
    how = chance.choice(["replace"] * 5 + ["delete", "wrap", "rename", "swap", "add"])
    value = chance.choice(PLAIN)
    if how == "replace":
        parent[key] = value
    elif how == "delete":
        del parent[key]
    elif how == "wrap":
        parent[key] = [parent[key]]
    elif how == "swap":
        holder = container(node, other)
        parent[key], holder[other[-1]] = holder[other[-1]], parent[key]
    elif isinstance(parent, dict):
        if how == "rename":
            parent[f"{key}x"] = parent.pop(key)
        parent["added"] = value
    else:
        parent.append(value)
    try:
        path.write_text(yaml.safe_dump(node, allow_unicode=chance.random() < 0.5))
    except (yaml.YAMLError, RecursionError):  # a swap with what it is in
        path.write_text("a: &a [*a]\n")
    return f"{how} {'.'.join(map(str, place))} {str(value)[:40]!r}"


def change_text(chance: random.Random, path: Path) -> str:
    """Damage the bytes of a text file."""
    data = bytearray(path.read_bytes())
    place, length = chance.randrange(len(data)), chance.choice([1, 1, 3, 100])
    how = chance.choice(["flip", "flip", "cut", "delete", "insert", "repeat", "replace"])
    if how == "flip":
        data[place] ^= 1 << chance.randrange(8)
    elif how == "cut":
        del data[place:]
    elif how == "delete":
        del data[place : place + length]
    elif how == "insert":
        data[place:place] = chance.choice(
            [b"\x00", b"\xff\xfe", b"\t", b"\n", b"&a ", b"*a", b"!!python/name:os.system ", b"{" * 500, b"- " * 50_000]
        )
    elif how == "repeat":
        data[place:place] = data[place : place + 200]
    else:
        data[place : place + length] = chance.randbytes(length)
    path.write_bytes(data)
    return f"{how} at {place}"


def change_file(chance: random.Random, path: Path, others: list[Path]) -> str:
    """Damage the file of a checkpoint."""
    how = chance.choice(
        ["flip"] * 6 + ["cut", "zero", "append", "swap", "rename", "drop", "twice", "other", "older", "empty"]
    )
    data = bytearray(path.read_bytes())
    place = chance.choice([chance.randrange(len(data)), len(data) - 1 - chance.randrange(min(len(data), 2000))])
    if how == "flip":
        for _ in range(chance.choice([1, 1, 1, 4])):
            data[place] ^= 1 << chance.randrange(8)
            place = chance.randrange(len(data))
    elif how == "cut":
        del data[place:]
    elif how == "zero":
        data[place : place + 500] = bytes(len(data[place : place + 500]))
    elif how == "append":
        data += chance.randbytes(chance.choice([1, 22, 1000]))
    elif how in ("swap", "rename", "drop", "twice"):
        data = bytearray(changed_archive(chance, bytes(data), how))
    elif how == "other":
        data = bytearray((chance.choice(others) / "checkpoints" / "epoch-0002.pt").read_bytes())
    elif how == "older":
        data = bytearray(path.with_name("epoch-0001.pt").read_bytes())
    else:
        data.clear()
    path.write_bytes(data)
    return f"{how} at {place} of {len(data)}"


def changed_archive(chance: random.Random, data: bytes, how: str) -> bytes:
    """A checkpoint's archive with sound checksums and other entries."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    first, second = chance.randrange(len(entries)), chance.randrange(len(entries))
    (name, content), (other_name, other) = entries[first], entries[second]
    if how == "swap":
        entries[first], entries[second] = (name, other), (other_name, content)
    elif how == "rename":
        entries[first] = (f"{name}x", content)
    elif how == "drop":
        del entries[first]
    else:
        entries.append((name, other))
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return target.getvalue()


def change_content(chance: random.Random, path: Path) -> str:
    """Change one value of a checkpoint, and the digest with it: what is behind the digest has to hold too."""
    content = load_checkpoint(path)
    found = [*places(content)]
    tensors = [place for place in found if isinstance(container(content, place)[place[-1]], torch.Tensor)]
    place = chance.choice(tensors if chance.random() < 0.5 else found)
    parent, key = container(content, place), place[-1]
    value, how = parent[key], chance.choice(["replace", "replace", "replace", "delete", "add", "swap", "wrap"])
    if isinstance(parent, tuple):
        return "nothing"
    if how == "replace":
        parent[key] = changed_tensor(chance, value) if isinstance(value, torch.Tensor) else chance.choice(PLAIN)
    elif how == "delete":
        del parent[key]
    elif how == "add" and isinstance(parent, dict):
        parent[chance.choice(["added", 7, None, 2**70, ""])] = value
    elif how == "add":
        parent.append(value)
    elif how == "swap":
        parent[key] = container(content, other := chance.choice(tensors))[other[-1]]
    else:
        parent[key] = [value]
    write_checkpoint(path, content)
    return f"{how} {'.'.join(map(str, place))} with {str(parent.get(key) if isinstance(parent, dict) else '')[:60]!r}"


def changed_tensor(chance: random.Random, tensor: torch.Tensor) -> Any:
    """Another tensor in the place of one."""
    size = (chance.randint(0, 5),)
    changes: list[Callable[[], Any]] = [
        lambda: torch.zeros_like(tensor),
        lambda: torch.ones_like(tensor),
        lambda: torch.full_like(tensor.float(), chance.choice([math.nan, math.inf, -1e38, 1e-42])),
        *(lambda d=d: tensor.to(d) for d in (torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64)),
        lambda: tensor.flatten(),
        lambda: tensor[None],
        lambda: tensor.reshape(*tensor.shape, 1),
        lambda: tensor.mT.contiguous() if tensor.ndim > 1 else tensor.flatten()[:1],
        lambda: tensor.flatten()[:0],
        lambda: torch.zeros(size, dtype=tensor.dtype),
        lambda: torch.zeros((1,) * tensor.ndim, dtype=tensor.dtype),
        lambda: torch.zeros((), dtype=tensor.dtype),
        lambda: torch.cat([tensor, tensor]) if tensor.ndim else tensor[None],
        lambda: torch.empty(1000, 1000),
        lambda: tensor.tolist(),
        lambda: torch.full_like(tensor, 2**62) if tensor.dtype == torch.int64 else tensor * -1e30,
    ]
    return chance.choice(changes)()


# Running a case


class Case(NamedTuple):
    """part: commands, trained or folders."""

    part: str
    seed: int
    number: int


def run(case: Case, place: Path) -> Outcome:
    """One case in a folder of its own."""
    shutil.rmtree(place / "case", ignore_errors=True)
    (place / "case").mkdir()
    os.chdir(place / "case")
    return run_folder(case, place) if case.part == "folders" else run_command(case)


def run_command(case: Case) -> Outcome:
    script, words = command(case.seed, case.number)
    if case.part == "trained":
        words += [*SCRIPTS[script], "engine=auto"]
    else:
        projectlib.cli.job.train = lambda *arguments: None
    code, output = printed(script, [*words, "hydra.run.dir=run"])
    outcome = verdict(code, output, f"{script} {words}")
    return Outcome("accepted" if case.part == "commands" else "finished") if outcome is None else outcome


def run_folder(case: Case, place: Path) -> Outcome:
    chance = random.Random(f"folder {case.seed} {case.number}")
    bases = [path for path in sorted(place.glob("base-*")) if path.is_dir()]
    base = chance.choice(bases)
    folder = Path(shutil.copytree(base, place / "case" / "run"))
    done = damage(chance, folder, bases)
    script = json.loads((base / "script.json").read_text())
    code, output = printed(script, [f"resume={folder}", "training.nepochs=3"])
    told = f"{base.name} {done.kind}: {done.what}"
    if outcome := verdict(code, output, told):
        return outcome._replace(name=f"{done.kind}: {outcome.name}")
    reference = place / f"whole-{base.name}"
    found = differences(folder, reference) if (folder / "checkpoints" / "epoch-0003.pt").exists() else []
    found += ["metrics"] if (folder / "metrics.csv").read_bytes() != (reference / "metrics.csv").read_bytes() else []
    if not found:
        again = "falling back" in output or "starting over" in output
        return Outcome(f"{done.kind}: same{', from an earlier checkpoint' if again else ''}")
    if done.keeps_numbers:
        return Outcome(f"{done.kind}: other numbers", fell=True, detail=f"{told}: {found[:3]}\n{output[-2000:]}")
    return Outcome(f"{done.kind}: accepted with what it says")


def printed(script: str, words: list[str]) -> tuple[int, str]:
    """The exit code of an entry script in this process, and what it printed."""
    path = Path("printed.txt")
    with open(path, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    message = ""
    try:
        launch(script, words)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        message = "" if isinstance(error.code, int) else f"{error.code}\n"
    except BaseException:
        code, message = -1, traceback.format_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    with open(path, "a", errors="backslashreplace") as file:
        file.write(message)
    return code, path.read_text(errors="backslashreplace")


def verdict(code: int, output: str, told: str) -> Outcome | None:
    """What an end that is no success is; None for a success."""
    errors = [line for line in output.splitlines() if "[ERROR]" in line or line.startswith("error: ")]
    last = errors[-1] if errors else output[-300:]
    detail = f"{told[:1500]}: exit code {code}\n{output[-3000:]}"
    if "Traceback" in output or "(unforeseen" in output or code < 0:
        return Outcome("traceback", fell=True, detail=detail)
    if code == 0 and not errors:
        return None
    if code == 2 and "usage:" in output:
        return Outcome("refused by the parser of arguments")
    if code != 1 or len(errors) != 1 or not output.rstrip("\n").endswith(last):
        return Outcome("not one line", fell=True, detail=detail)
    return Outcome("diverged, in one line" if "expected finite numbers" in last else "refused in one line")


def serve(connection: Any, place: Path) -> None:
    """What a forked process does: one case after the other, until it is told to stop."""
    resource.setrlimit(resource.RLIMIT_AS, (16 * 10**9, 16 * 10**9))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for module in (projectlib.training.allocation, projectlib.data.loaders):
        module.total_memory = lambda device: MEMORY
    projectlib.plotting.save_run_figure = lambda folder: folder  # takes half of the time of a small run
    projectlib.runs.recorder.commit = lambda: {}
    omegaconf._utils.get_yaml_loader = lambda: Loader
    train = projectlib.cli.job.train
    while (case := connection.recv()) is not None:
        projectlib.cli.job.train = train
        try:
            outcome = run(case, place)
        except Exception:
            outcome = Outcome("the fuzzer failed", fell=True, detail=traceback.format_exc())
        connection.send(outcome)
    os._exit(0)


class Worker:
    """A forked process for cases."""

    def __init__(self, place: Path):
        self.connection, theirs = fork.Pipe()
        self.process = fork.Process(target=serve, args=(theirs, place), daemon=True)
        self.process.start()
        theirs.close()
        self.cases = 0

    def run(self, case: Case) -> Outcome:
        self.cases += 1
        self.connection.send(case)
        if not self.connection.poll(PATIENCE):
            self.end()
            return Outcome("hang", fell=True, detail=str(case))
        try:
            return self.connection.recv()
        except EOFError:
            self.process.join()
            number = -(self.process.exitcode or 0)
            name = signal.Signals(number).name if number > 0 else f"exit {number}"
            return Outcome(f"died of {name}", fell=True, detail=str(case))

    def end(self) -> None:
        self.process.kill()
        self.process.join()


class Workers:
    """One process at a time; a new one where the last has died, hung or grown old."""

    def __init__(self, place: Path):
        self.place, self.worker = place, Worker(place)

    def run(self, case: Case) -> Outcome:
        for attempt in range(2):
            if self.worker.cases >= LIFE or not self.worker.process.is_alive():
                self.worker.end()
                self.worker = Worker(self.place)
            outcome = self.worker.run(case)
            if outcome.name != "hang" or attempt:  # a busy machine may be slow once
                break
        return outcome


def make_bases(place: Path, number: int) -> None:
    """The run folders that are damaged, and what becomes of them where they are not."""
    os.chdir(place)
    for name, line in [*BASES.items()][:number]:
        script, *words = line.split()
        base = place / f"base-{name.replace(' ', '-')}"
        assert printed(script, [*words, "training.nepochs=2", f"hydra.run.dir={base}"])[0] == 0, name
        (base / "summary.json").unlink()
        (base / "script.json").write_text(json.dumps(script))
        whole = Path(shutil.copytree(base, place / f"whole-{base.name}"))
        assert printed(script, [f"resume={whole}", "training.nepochs=3"])[0] == 0, name


def table(counts: dict[str, Counter]) -> str:
    lines = [
        f"{part:10}{number:6}  {outcome}"
        for part, outcomes in counts.items()
        for outcome, number in [*sorted(outcomes.items(), key=lambda item: item[0]), ("in all", outcomes.total())]
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", type=int, default=2000, help="command lines that are composed and checked")
    parser.add_argument("--trained", type=int, default=200, help="of those that are accepted, trained for an epoch")
    parser.add_argument("--folders", type=int, default=2000, help="run folders that are damaged and resumed")
    parser.add_argument("--bases", type=int, default=len(BASES), help="kinds of run folders")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each kind")
    parser.add_argument("--only", metavar="PART:NUMBER", help="one case, e.g. folders:17")
    options = parser.parse_args(arguments)
    began, counts, fallen = time.monotonic(), {}, []
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as temporary:
        place = Path(temporary)
        if options.folders and (options.only or "folders").startswith("folders"):
            maker = fork.Process(target=make_bases, args=(place, options.bases))
            maker.start()
            maker.join()
            assert maker.exitcode == 0, (place / "printed.txt").read_text()
        workers = Workers(place)
        if options.only:
            part, number = options.only.split(":")
            outcome = workers.run(Case(part, options.seed, int(number)))
            workers.worker.end()
            print(outcome.name, outcome.detail, (place / "case" / "printed.txt").read_text(errors="replace"), sep="\n")
            return int(outcome.fell)

        def note(part: str, number: int) -> Outcome:
            outcome = workers.run(Case(part, options.seed, number))
            counts.setdefault(part, Counter())[outcome.name] += 1
            if outcome.fell:
                fallen.append(f"{part}:{number} {outcome.name}")
                print(
                    f"FELL --seed {options.seed} --only {part}:{number}: {outcome.name}\n{outcome.detail}", flush=True
                )
            done = counts[part].total()
            if done % 100 == 0:
                print(f"{part} {done}, {len(fallen)} fell, {time.monotonic() - began:.0f} s", flush=True)
            return outcome

        numbers = range(options.first, options.first + options.commands)
        accepted = [number for number in numbers if note("commands", number).name == "accepted"]
        for number in [number for number in accepted if is_local(*command(options.seed, number))][: options.trained]:
            note("trained", number)
        for number in range(options.first, options.first + options.folders):
            note("folders", number)
        workers.worker.end()
    print(f"\nseed {options.seed}, {time.monotonic() - began:.0f} s\n{table(counts)}")
    print("\n".join(["", *fallen, f"{len(fallen)} fell"]))
    return int(bool(fallen))


def is_local(script: str, words: list[str]) -> bool:
    """Whether a command trains on data that is here, and once."""
    return not any(
        word.lstrip("+").startswith(("experiment=", "search=", "data=m", "data=f", "data=c")) for word in words
    )


if __name__ == "__main__":
    sys.exit(main())
