"""Measure every row of the speed table, in one go.

    make bench FLOOR=path/to/floor DATA=path/to/data

FLOOR is a compiled floor program, timed in turn with our runs; without it its column stays empty.  DATA holds
MNIST/raw; without it random pixels of the same size are used.  Writes results.md, results.json and growth.png.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from benchmarks import growth
from benchmarks.commands import Bench, Failed
from benchmarks.machine import ROOT, busy_elsewhere, describe
from benchmarks.made_up import write_mnist
from benchmarks.measurements import MEASUREMENTS
from benchmarks.results import Result, Row, markdown, plain


def main() -> int:
    options = arguments()
    machine, began, elsewhere = describe(), time.monotonic(), busy_elsewhere()
    if os.getloadavg()[0] > 0.5:
        print(f"warning: this machine is not quiet ({machine['load']}): do not trust these timings", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        data = options.data.resolve() if options.data else write_mnist(Path(folder, "data"))
        floor = options.floor.resolve() if options.floor else None
        bench = Bench(Path(folder), data, floor, 1 if options.quick else options.repetitions, options.quick)
        results = [result for name in options.only if name in MEASUREMENTS for result in measure(name, bench)]
        curves = {}
        if "growth" in options.only:  # last: it runs in this process, and brings all of torch into it
            print("growth", flush=True)
            try:
                curves = growth.measure(bench)
            except Failed as error:
                results.append(failed("growth", error))
    others = busy_elsewhere() - elsewhere
    machine["took"] = f"{time.monotonic() - began:.0f} s, in which other processes used {others:.0f} CPU seconds"
    if options.quick:
        machine["sizes"] = "quick: far too small for any of these numbers to mean anything"
    write(options.out, machine, results, curves)
    return 1 if any(result.note.startswith("failed") for result in results) else 0


def arguments() -> argparse.Namespace:
    names = [*MEASUREMENTS, "growth"]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("--floor", type=Path, help="a compiled floor program, timed in turn with ours")
    parser.add_argument("--data", type=Path, help="holds MNIST/raw; random pixels without it")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="ROW", help=", ".join(names))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--out", type=Path, help="where results go: build/bench, or build/bench-part of a part")
    options = parser.parse_args()
    if options.floor and not options.floor.is_file():
        parser.error(f"--floor {options.floor} is no file")
    if options.data and not (options.data / "MNIST" / "raw").is_dir():
        parser.error(f"--data {options.data} has no folder MNIST/raw")
    if options.repetitions < 1:
        parser.error(f"--repetitions {options.repetitions} is less than 1")
    if options.out is None:  # a part never writes over the whole table
        whole = options.only == names and not options.quick
        options.out = ROOT / "build" / ("bench" if whole else "bench-part")
    return options


def measure(name: str, bench: Bench) -> list[Result]:
    """One measurement's rows; one row that says why where a command of it fails, so that the others are measured."""
    print(name, flush=True)
    try:
        return MEASUREMENTS[name](bench)
    except Failed as error:
        return [failed(name, error)]


def failed(name: str, error: Failed) -> Result:
    print(f"\n    {error}", flush=True)
    return Result(Row(name, "", ()), note=f"failed: {' '.join(str(error).split())[-200:]}")


def write(folder: Path, machine: dict, results: list[Result], curves: dict[str, list[growth.Point]]) -> None:
    """The report as Markdown, also printed, and as JSON."""
    sections = []
    if curves:
        growth.draw(curves, folder / "growth.png")
        sections.append(growth.section(curves, "growth.png"))
    text = markdown(machine, results, sections)
    (folder / "results.md").write_text(text)
    record = {"machine": machine, "rows": [plain(result) for result in results], "growth": growth.plain(curves)}
    (folder / "results.json").write_text(json.dumps(record, indent=2) + "\n")
    print(f"\n{text}\nwritten to {folder}/results.md and results.json")


if __name__ == "__main__":
    raise SystemExit(main())
