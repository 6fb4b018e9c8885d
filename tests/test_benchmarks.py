"""The speed table's own arithmetic on made-up numbers, and one row measured; no timing is asserted."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from benchmarks import growth, profile_step
from benchmarks.commands import Bench, Failed, Finished, Trained, floor_microseconds
from benchmarks.growth import Point, Size
from benchmarks.measurements import MEASUREMENTS, fastest, step_result
from benchmarks.own_time_steps import NUM_TIMESTEPS, HeldDelta
from benchmarks.results import Limit, Result, Row, cells, compilation, markdown, number, plain, spread
from projectlib.modulators import DeltaModulator, Sample

STEP = Row("a step", "us", (Limit(1.0, "stick"), Limit(1 / 14, "published")), published=2100, stick="floor")


def test_a_row_says_what_was_measured_and_what_had_to_be_reached():
    result = Result(STEP, [90, 110, 100], [150, 100, 200], [6.04, 0.3, 0.5])
    assert result.ratios == [0.6, 1.1, 0.5]
    assert cells(result) == [
        "a step",
        "100 us (90 to 110)",
        "floor 150 us (100 to 200)",
        "0.6 (0.5 to 1.1)",
        "2100 us",
        "1 x floor, 1/14 of published",
        "yes",
        "6.0 s, then 0.4 s",
    ]


@pytest.mark.parametrize(
    ("measured", "sticks", "reached"),
    [
        ([150], [150], True),
        ([151], [150], False),  # above the floor
        ([151], [200], False),  # above 1/14 of published
        ([100], [], None),  # within one limit, and nothing to hold the other against
        ([151], [], False),
        ([], [], None),
    ],
)
def test_all_limits_must_hold(measured, sticks, reached):
    assert Result(STEP, measured, sticks).reached is reached


def test_nothing_is_reached_where_nothing_was_asked_or_measured():
    assert Result(Row("lif-xor", "", ()), note="failed: it ended with 1").reached is None


def test_ratios_are_paired_and_their_median_decides():
    ours, floor = [100, 200, 300], [110, 210, 100]  # the machine was slow for a while, and once the floor was not
    assert Result(Row("a step", "us", (Limit(1.0, "stick"),)), ours, floor).reached
    with pytest.raises(ValueError, match="zip"):
        _ = Result(STEP, [1, 2], [1]).ratios


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "0.0123"), (1.5, "1.5"), (94.26, "94.3"), (123.4, "123"), (3180, "3180")]
)
def test_numbers_have_three_digits_and_no_exponent(value, text):
    assert number(value) == text


def test_nothing_measured_leaves_cells_empty():
    assert spread([]) == compilation([]) == compilation([1e-6]) == ""
    line = cells(Result(STEP, note="not measured: no CUDA device"))
    assert line[0] == "a step (not measured: no CUDA device)"
    assert line[1:4] == ["", "", ""]
    assert line[6] == "?"


def test_the_report_has_machine_table_and_sections():
    text = markdown({"cores": 2}, [Result(STEP, [1.0])], ["## Growth"])
    assert text.startswith("# Speed\n\n- cores: 2\n\n| row |")
    assert text.endswith(" |\n\n## Growth\n")
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
    assert "|" not in markdown({"cores": 2}, [], ["## Growth"])


def test_json_has_every_repetition():
    record = json.loads(json.dumps(plain(Result(STEP, [3.0, 1.0, 2.0], [2.0, 2.0, 2.0]))))
    assert record["measured"] == {"median": 2.0, "min": 1.0, "max": 3.0, "all": [3.0, 1.0, 2.0]}
    assert record["ratio"]["median"] == 1.0
    assert record["limits"][1] == {"factor": 1 / 14, "of": "published"}
    assert record["reached"] is True


def test_the_floor_program_is_read():
    assert floor_microseconds("epoch 0  test 7.83 %\nepoch 1  test 60.29 %  148.2 us/step\n") == 148.2
    with pytest.raises(Failed, match="cannot read"):
        floor_microseconds("cannot read train-images-idx3-ubyte\n")


def test_steps_per_second_of_an_ensemble_become_microseconds_a_model():
    run = Trained(Finished(10.0, 1.0, ""), {"steps_per_second": 500.0, "compile_seconds": 2.0})
    result = step_result(STEP, [run], [], num_models=20)
    assert result.measured == [100.0]
    assert result.compile_seconds == [2.0]


def test_the_faster_memory_format_is_the_stick():
    assert fastest([{"a": 1.0, "b": 9.0}, {"a": 3.0, "b": 2.0}, {"a": 4.0, "b": 2.5}]) == ("b", [9.0, 2.0, 2.5])


def points(ratios, floor=100.0):
    return [Point(2**i, [floor * ratio], [], [floor]) for i, ratio in enumerate(ratios)]


@pytest.mark.parametrize(
    ("ratios", "left"),
    [([0.6, 0.4, 0.4], None), ([0.6, 0.4, 0.49], None), ([0.6, 0.4, 0.51, 0.4], 4), ([0.5, 0.7, 0.9], 2)],
)
def test_a_curve_leaves_the_floor_where_it_grows_faster(ratios, left):
    assert growth.leaves(points(ratios)) == left
    assert ("leaves" in growth.verdict("window", points(ratios))) == (left is not None)


def test_without_a_floor_there_is_no_line_to_leave():
    alone = [point._replace(floor=[]) for point in points([1, 9])]
    assert growth.leaves(alone) is None
    assert "no floor program" in growth.verdict("window", alone)


def test_growth_is_drawn_and_told(tmp_path):
    curves = {"nmodels": points([0.6, 0.3, 0.9]), "window": [Point(2, [1.0], [2.0], [])]}
    growth.draw(curves, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 1000
    text = growth.section(curves, "growth.png")
    assert "| nmodels | 4 | 90 us |" in text
    assert "leaves the floor's line at 4, 0.9 x the floor after 0.3 x (0.6 x the floor at 1 and 0.9 x" in text


def test_the_floor_has_the_weights_of_the_default_size():
    assert Size().num_weights == 784 * 128 + 128 * 64 + 64 * 10


def test_a_failing_command_says_how_it_ended(tmp_path):
    bench = Bench(tmp_path, tmp_path, None, repetitions=1, quick=True)
    with pytest.raises(Failed, match="ended with 3: gone wrong"):
        bench.command(sys.executable, "-c", "print('gone wrong'); raise SystemExit(3)")
    assert bench.floor_step(10) == []


def test_the_profile_names_every_part_of_a_step(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["profile_step", "train-lif-biohsic", "data=linear"])
    monkeypatch.setattr(profile_step, "SECONDS", 0.01)
    profile_step.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" us  ")[1] for line in lines if line.startswith(" ")] == [
        "a time step in all",
        "kernels of the inputs, shared by all models",
        "forward",
        "loss and signal of the readout",
        "signals, gradients and optimizer",
        "HSIC of all layers, logged",
    ]


def test_a_held_memory_is_read_as_it_was_when_the_sample_began():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(3 * NUM_TIMESTEPS, 5, generator=generator)
    samples = [Sample(z[i], torch.eye(2)[i // NUM_TIMESTEPS % 2], z[i]) for i in range(len(z))]
    held, plain_memory = HeldDelta(0.1), DeltaModulator(0.1)
    state, written = held.empty(samples[0]), plain_memory.empty(samples[0])
    for index, sample in enumerate(samples):
        if index % NUM_TIMESTEPS == 0:
            at_the_beginning = written
        xi, state = held.supply(sample, state)
        torch.testing.assert_close(xi, plain_memory.supply(sample, at_the_beginning)[0], rtol=0, atol=0)
        _, written = plain_memory.supply(sample, written)
    assert xi.abs().max() > 0


def test_one_row_end_to_end(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "help", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["rows"][0]["measured"]["median"] > 0
    assert {"processor", "cores", "memory", "versions", "commit", "load"} <= record["machine"].keys()
    assert "`--help` of a script" in (tmp_path / "results.md").read_text()
    assert "help" in MEASUREMENTS
