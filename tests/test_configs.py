"""Every config composes, says what was published, and builds only what is registered."""

import re
from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from projectlib.config.compose import compose, parse, quote, without_hydra
from projectlib.config.experiments import SIZES, experiment_names, read_experiment, with_size
from projectlib.config.plugins import TARGETS
from projectlib.config.settings import flatten, plain
from projectlib.config.validation import validate
from projectlib.errors import UserError
from projectlib.sweeps.experiments import plan

CONFIGS = Path(__file__).parents[1] / "configs"
SCRIPTS = {
    "train-biohsic": ("cnn", "divisive-mlp", "lif-mlp", "linear", "mlp"),
    "train-bp": ("cnn", "divisive-mlp", "linear", "mlp"),
    "train-lif-biohsic": ("lif-mlp", "spiking-mlp"),
    "train-reservoir": ("reservoir",),
}
BASELINES = ("direct-feedback-alignment", "feedback-alignment", "local-classifier", "phsic", "similarity-matching")
MEMORIES = ("class-means", "covariance", "delta", "remembered")
TIMES = ("+training.time_step=1e-3", "+training.sample_timesteps=20")  # what a LIF model needs elsewhere


def choices(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml") if not path.stem.startswith("_"))


def composed(script, *overrides):
    return without_hydra(compose(script, list(overrides)))


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_data_set_with_every_model(script):
    for data in choices("data"):
        for model in SCRIPTS[script]:
            settings = [f"data={data}", f"model={model}"] + ["data.shape=[1,8,8]"] * (data == "folder")
            extra = TIMES if model == "lif-mlp" and script != "train-lif-biohsic" else ()
            config = composed(script, *settings, *extra)
            validate(config)
            assert config.data.name == data


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("group", ["rule", "optimizer", "lr_schedule", "logger"])
def test_every_choice(script, group):
    reservoir = script == "train-reservoir"
    for choice in choices(group):
        if group == "rule" and reservoir != (choice == "delta"):
            continue  # rules of networks and the reservoir's read other keys
        config = composed(script, "data=digits", f"{group}={choice}")
        validate(config)
        assert config[group]._target_ in TARGETS


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", experiment_names())
def test_every_run_of_every_experiment_composes(name, size):
    for run in plan(name, size):
        validate(run.config)
        assert (run.config.size, run.script in SCRIPTS) == (size, True)


@pytest.mark.parametrize("name", experiment_names())
def test_an_experiment_opens_with_a_command_that_runs_it(name):
    """For people: nothing reads it."""
    lines = (CONFIGS / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert any(lines[1].startswith(f"# {run.command}: ") for run in plan(name))


@pytest.fixture
def mine(tmp_path):
    """Write an experiment of one's own; the folder of configs that has it."""
    (tmp_path / "experiment").mkdir()

    def write(text):
        (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}")
        return tmp_path

    return write


def test_quick_overrides_come_before_ones_own(mine):
    folder = mine("figure: {quick: [data=digits, nmodels=2]}")
    overrides = ["experiment=mine", "size=quick", "nmodels=9"]
    assert with_size(overrides, folder) == ["data=digits", "nmodels=2", *overrides]
    for same in (["experiment=mine"], ["experiment=mine", "size=paper"], ["size=quick", "size=paper"], []):
        assert with_size(same, folder) == same


def test_an_experiment_can_have_the_runs_of_another(mine):
    own = read_experiment("mine", mine("figure: {runs_of: mnist, quick: [nmodels=2]}"))
    assert own.runs == read_experiment("mnist").runs
    assert own.quick == ["nmodels=2"]
    name = next(iter(own.runs))
    some = read_experiment("mine", mine(f"figure: {{runs_of: mnist, runs: {{{name}: [train-bp]}}}}"))
    assert some.runs == {**own.runs, name: ["train-bp"]}
    assert some.quick == read_experiment("mnist").quick


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("", ["size=small", "experiment=mine"], "expected paper or quick"),
        ("", ["size=quick"], "expected one experiment"),
        ("", ["size=quick", "experiment=mine,mnist"], "expected one experiment"),
        ("", ["size=quick", "experiment=nobody"], "does not exist; expected one of .*mine.*mnist"),
        ("", ["size=quick", "experiment=mine"], "has no quick size"),
        ("figure: {quick: [hydra.run.dir=/]}", ["size=quick", "experiment=mine"], "expected nothing of hydra"),
        ("figure: {quick: [hydra/launcher=x]}", ["size=quick", "experiment=mine"], "expected nothing of hydra"),
        ("figure: {quick: [+data@hydra.job=x]}", ["size=quick", "experiment=mine"], "expected nothing of hydra"),
        ("figure: {quick: data=digits}", ["size=quick", "experiment=mine"], "figure.quick is str, expected a list"),
        ("figure: {runs_of: nobody}", ["size=quick", "experiment=mine"], "'nobody' does not exist"),
        ("figure: {quick: ['plugins=[x]']}", ["size=quick", "experiment=mine"], "or plugins"),
        ("figure: {runs: {a: [train-bp, ~hydra.job]}}", ["size=quick", "experiment=mine"], "expected nothing of hydra"),
    ],
)
def test_a_size_that_cannot_be_is_refused(mine, text, arguments, message):
    with pytest.raises(UserError, match=message):
        with_size(arguments, mine(text))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_sweep_and_a_search_are_choices_like_any_other(script):
    plain = composed(script, "data=mnist")
    assert (plain.search, plain.sweep.skip_finished) == (None, False)
    chosen = composed(script, "search=digits", "sweep=window")
    assert (chosen.search.trials, chosen.data.validation, chosen.sweep.skip_finished) == (20, 0.2, False)


def test_the_groups_are_those_that_are_tested():
    assert choices("data") == ["cifar10", "digits", "fashion_mnist", "folder", "linear", "mnist", "mnist_5000", "xor"]
    assert choices("model") == ["cnn", "divisive-mlp", "lif-mlp", "linear", "mlp", "reservoir", "spiking-mlp"]
    assert choices("modulator") == ["class-means", "covariance", "delta", "remembered", "reservoir", "window"]
    assert choices("rule") == sorted(["backprop", "biohsic", "delta", "frozen", "hsic", *BASELINES])
    assert choices("optimizer") == ["adam", "adamw", "adamw-averaged", "sgd"]
    assert choices("lr_schedule") == ["constant", "cosine", "exponential", "piecewise", "smooth-cosine"]
    assert choices("logger") == ["print", "tensorboard", "wandb"]


def test_the_optional_pairs_are_those_that_exist():
    """A misnamed optional file would be skipped without a word."""
    assert choices("data_model") == [
        "cifar10-cnn",
        "cifar10-mlp",
        "linear-lif-mlp",
        "linear-mlp",
        "linear-spiking-mlp",
        "xor-lif-mlp",
        "xor-mlp",
        "xor-spiking-mlp",
    ]
    assert choices("data_task") == [
        "biohsic-cifar10",
        "biohsic-digits",
        "biohsic-fashion_mnist",
        "biohsic-mnist",
        "biohsic-mnist_5000",
        "biohsic-xor",
        "bp-cifar10",
        "bp-digits",
        "bp-xor",
        "lif-biohsic-linear",
        "lif-biohsic-xor",
    ]
    images = ("digits", "fashion_mnist", "mnist", "mnist_5000")
    assert choices("data_modulator") == sorted(
        [
            *(f"{data}-{memory}" for data in images for memory in MEMORIES),
            *(f"{data}-covariance" for data in ("linear", "xor")),
            *(f"lif-{data}-{memory}" for data in ("digits", "linear", "xor") for memory in ("covariance", "delta")),
            *("lif-xor-class-means", "lif-xor-remembered"),
            "cifar10-delta",
        ]
    )
    assert choices("data_optimizer_modulator") == sorted(
        [
            *(f"{data}-adamw-averaged-{memory}" for data in ("cifar10", "fashion_mnist") for memory in MEMORIES),
            *(f"digits-adamw-averaged-{memory}" for memory in ("class-means", "covariance")),
            *(f"mnist-sgd-{memory}" for memory in MEMORIES),
        ]
    )
    optimizers = ("adamw", "adamw-averaged")
    assert choices("optimizer_modulator") == sorted(f"{name}-{memory}" for name in optimizers for memory in MEMORIES)
    assert choices("search_modulator") == sorted(
        [*(f"{search}-{name}" for search in ("memory", "xor") for name in MEMORIES), "memory-window"]
    )
    assert choices("data_rule") == sorted(
        [
            *(f"{data}-{rule}" for data in images for rule in BASELINES),
            *(f"lif-xor-{rule}" for rule in BASELINES),
        ]
    )
    assert choices("optimizer_rule") == sorted(
        [*(f"adamw-averaged-{rule}" for rule in BASELINES), *(f"adamw-{rule}" for rule in BASELINES[:3])]
    )
    assert choices("data_optimizer_rule") == sorted(
        [
            *(f"cifar10-adamw-averaged-{rule}" for rule in BASELINES),
            *(f"fashion_mnist-adamw-averaged-{rule}" for rule in BASELINES),
            *(f"digits-adamw-averaged-{rule}" for rule in BASELINES if rule != "local-classifier"),
            "mnist-sgd-local-classifier",
        ]
    )
    assert choices("search_rule") == sorted(
        [
            *(f"baseline-{rule}" for rule in (*BASELINES, "frozen", "hsic")),
            *(f"xor-{rule}" for rule in (*BASELINES, "hsic")),
        ]
    )


@pytest.mark.parametrize("group", ["data_optimizer_modulator", "data_optimizer_rule"])
def test_what_suits_data_optimizer_and_rule_comes_with_them(group):
    for choice in choices(group):
        data, optimizer, name = re.fullmatch("(.+)-(adamw-averaged|sgd)-(.+)", choice).groups()
        words = [f"data={data}", f"optimizer={optimizer}", f"{group.removeprefix('data_optimizer_')}={name}"]
        settings = flatten(plain(composed("train-biohsic", *words)))
        wanted = flatten(plain(OmegaConf.load(CONFIGS / group / f"{choice}.yaml")))
        assert wanted.items() <= settings.items(), choice


@pytest.mark.parametrize(
    "choice", ["modulator=window", *(f"modulator={m}" for m in MEMORIES), *(f"rule={r}" for r in BASELINES)]
)
def test_what_suits_mnist_suits_a_part_of_it(choice):
    whole, part = (composed("train-biohsic", f"data={data}", choice) for data in ("mnist", "mnist_5000"))
    assert (part.data.name, part.data.scale) == ("mnist_5000", whole.data.scale)
    del whole.data, part.data
    assert part == whole


@pytest.mark.parametrize("rule", BASELINES)
def test_settings_that_suit_a_baseline_come_with_it(rule):
    config = composed("train-biohsic", "data=mnist", f"rule={rule}", "optimizer=adamw-averaged")
    validate(config)
    assert config.lr_schedule._target_ == "torch.optim.lr_scheduler.CosineAnnealingLR"
    assert (config.data.scale, config.rule.accumulate) == ("unit", 32)
    constant = composed("train-biohsic", "data=mnist", f"rule={rule}", "lr_schedule=constant")
    assert constant.lr_schedule._target_ == "torch.optim.lr_scheduler.ConstantLR"
    searched = composed("train-biohsic", "search=baseline", f"rule={rule}")
    assert searched.search.space["optimizer.lr"].low == 3e-5


@pytest.mark.parametrize("memory", MEMORIES)
def test_settings_that_suit_a_memory_come_with_it(memory):
    config = composed("train-biohsic", "data=mnist", f"modulator={memory}")
    validate(config)
    assert config.lr_schedule._target_ == "torch.optim.lr_scheduler.CosineAnnealingLR"
    assert (config.data.scale, config.optimizer.readout_lr, config.readout.window) == ("unit", 3e-4, 6)
    assert (config.rule.readout_window, config.rule.accumulate, config.optimizer.betas) == (6, 1, [0.99, 0.999])
    overridden = composed(
        "train-biohsic", "data=mnist", f"modulator={memory}", "lr_schedule=constant", "data.scale=symmetric"
    )
    assert (overridden.lr_schedule._target_, overridden.data.scale) == (
        "torch.optim.lr_scheduler.ConstantLR",
        "symmetric",
    )


@pytest.mark.parametrize(
    ("choice", "optimizer", "own", "lr", "readout_lr"),
    [
        ("modulator=delta", "adamw-averaged", {"learning_rate": 1.3, "horizon": 1e4}, 1.6e-3, 1e-3),
        ("modulator=class-means", "adamw-averaged", {"temperature": 0.08, "rate": 0.02}, 3e-3, 4e-3),
        ("modulator=covariance", "adamw-averaged", {"weight": 1.4, "horizon": 1e5}, 3e-3, 4e-3),
        ("modulator=remembered", "adamw-averaged", {"sigma": 0.265, "size": 64}, 1e-3, 5e-4),
        ("rule=local-classifier", "adamw-averaged", {"learning_rate": 0.73}, 1.9e-3, 1.6e-3),
        ("rule=direct-feedback-alignment", "adamw-averaged", {"scale": 0.58}, 3e-3, 1.1e-3),
        ("rule=feedback-alignment", "adamw-averaged", {"scale": 1.3}, 1.9e-3, 1.6e-3),
        ("rule=similarity-matching", "adamw-averaged", {}, 1e-3, 1.2e-3),
        ("rule=phsic", "adamw-averaged", {"groups": 32, "power": 1.3}, 8e-4, 7.3e-3),
        ("modulator=delta", "adamw", {"learning_rate": 0.3, "horizon": 1e4}, 1e-4, 3e-4),
        ("modulator=remembered", "adamw", {"sigma": 0.265, "size": 64}, 1e-4, 3e-4),
        ("modulator=delta", "sgd", {"learning_rate": 1.1, "horizon": 1e4}, 2.2e-2, 3.5e-3),
        ("modulator=class-means", "sgd", {"temperature": 0.07, "rate": 0.02}, 0.31, 2.2e-2),
        ("modulator=remembered", "sgd", {"sigma": 0.27, "size": 64}, 0.73, 4.5e-2),
        ("modulator=covariance", "sgd", {"weight": 1.5, "horizon": 1e5}, 1.9e-2, 1.2e-3),
        ("rule=local-classifier", "sgd", {"learning_rate": 0.34}, 6.6e-3, 4.5e-3),
    ],
)
def test_settings_that_were_found_for_mnist(choice, optimizer, own, lr, readout_lr):
    """Of the rows of README.md, docs/memories.md and docs/baselines.md, whose accuracies were measured with them."""
    group = choice.partition("=")[0]
    config = composed("train-biohsic", "data=mnist", choice, f"optimizer={optimizer}")
    usual = {"adamw-averaged": ([0.9, 0.99], 32), "adamw": ([0.99, 0.999], 1), "sgd": (None, 1)}
    assert {key: config[group][key] for key in own} == own
    assert (config.optimizer.lr, config.optimizer.readout_lr) == (lr, readout_lr)
    assert (config.optimizer.get("betas"), config.optimizer.accumulate) == usual[optimizer]
    assert config.optimizer.weight_decay == (0 if optimizer == "sgd" else 1e-4)
    assert (config.lr_schedule._target_, config.lr_schedule.eta_min) == (
        "torch.optim.lr_scheduler.CosineAnnealingLR",
        0,
    )
    assert (config.data.scale, config.readout.window) == ("unit", 6 if group == "modulator" else 1)


@pytest.mark.parametrize("script", ["train-biohsic", "train-lif-biohsic"])
def test_every_memory_with_every_data_set(script):
    """Of leaky integrators with the points, which have settings of their own, and with one of the images."""
    for data in choices("data") if script == "train-biohsic" else ("cifar10", "linear", "xor"):
        for memory in MEMORIES:
            settings = [f"data={data}", f"modulator={memory}"] + ["data.shape=[1,8,8]"] * (data == "folder")
            config = composed(script, *settings)
            validate(config)
            assert config.rule.modulator._target_ in TARGETS


ADAMW = {"betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 1e-4, "readout_lr": None, "accumulate": 1}


# script, data and model: lr, gamma, sigmas, window or batch, epochs, features; as published
@pytest.mark.parametrize(
    ("script", "overrides", "lr", "gamma", "sigmas", "size", "epochs", "features"),
    [
        ("train-biohsic", ["data=linear"], 1e-3, 2, [1, 0.5, 2], 10, 25, [4]),
        ("train-biohsic", ["data=mnist"], 1e-4, 2, [0.5, 0.1, 1], 6, 25, [128, 64]),
        ("train-biohsic", ["data=cifar10", "model=cnn"], 5e-5, 50, [1, 0.1, 0.5], 6, 50, [128, 256]),
        ("train-biohsic", ["data=cifar10"], 5e-5, 50, [1, 0.1, 0.5], 6, 50, [5120, 3072, 1024, 512]),
        ("train-biohsic", ["data=xor"], 1e-4, 10, [0.3, 0.25, 2], 64, 25, [10, 4]),
        ("train-biohsic", ["data=digits"], 1e-3, 2, [0.5, 0.1, 1], 6, 5, [128, 64]),
        ("train-biohsic", ["data=mnist", "model=cnn"], 1e-4, 2, [0.5, 0.1, 1], 6, 25, [16, 32]),
        ("train-lif-biohsic", ["data=linear"], 1e-4, 10, [0.5, 0.25, 1], 64, 25, [4]),
        ("train-lif-biohsic", ["data=xor"], 1e-4, 10, [0.3, 0.25, 2], 64, 25, [10, 4]),
        ("train-bp", ["data=cifar10", "model=cnn"], 5e-4, None, None, 16, 50, [128, 256]),
        ("train-bp", ["data=xor"], 1e-3, None, None, 256, 4, [10, 4]),
        ("train-bp", ["data=mnist"], 1e-3, None, None, 6, 25, [128, 64]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and value and isinstance(value[0], str) else None,
)
def test_published_settings(script, overrides, lr, gamma, sigmas, size, epochs, features):
    config = composed(script, *overrides)
    assert (config.seed, config.nmodels) == (42, 30)
    assert OmegaConf.to_container(config.optimizer) == {"_target_": "torch.optim.AdamW", "lr": lr, **ADAMW}
    assert config.lr_schedule._target_ == "torch.optim.lr_scheduler.ConstantLR"
    assert (config.data.batchsize, config.training.nepochs, config.model.features) == (size, epochs, features)
    assert config.data.test_batchsize == (100 if config.data.name in ("linear", "xor") else 256)
    if gamma is not None:
        assert (config.rule.gamma, config.rule.sigmas, config.rule.form) == (gamma, sigmas, "published")
    if script == "train-lif-biohsic":
        assert (config.model.time_constant, config.model.time_step, config.model.num_timesteps) == (5e-3, 1e-3, 20)


def test_published_reservoir_settings():
    config = composed("train-reservoir")
    assert OmegaConf.to_container(config.optimizer)["_target_"] == "torch.optim.SGD"
    assert (config.optimizer.lr, config.optimizer.momentum, config.optimizer.weight_decay) == (5e-4, 0, 0)
    data, model = config.data, config.model
    assert (data.name, data.batchsize, data.nsamples, data.ntimesteps, data.zdim) == ("mnist", 10, 100, 20, 10)
    assert (model.nhidden, model.recurrent_strength, model.time_constant, model.noise) == (2000, 1.2, 5e-3, 0)
    assert (config.rule.gamma, config.rule.sigma, config.training.nepochs) == (2, 0.5, 10)


def test_every_target_is_registered_and_there():
    named = {name for path in CONFIGS.glob("**/*.yaml") for name in re.findall(r"_target_: ([\w.]+)", path.read_text())}
    assert named <= TARGETS
    for name in TARGETS:
        assert callable(get_object(name))


@pytest.mark.parametrize("path", ["a b", "it's", "a\\b", "a\\'b", "end\\", "${seed}", "a,b", "[1]", "\\\\host\\share"])
def test_a_quoted_path_is_read_as_it_is(path):
    (override,) = parse([f"hydra.run.dir={quote(Path(path))}"])
    assert override.value() == path
