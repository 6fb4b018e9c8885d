"""On a GPU: the captured graph does eager's steps, and a run there comes to what the same run comes to on a CPU."""

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

SMALL = ("nmodels=2", "data.limit=80", "training.nepochs=1", "training.log_interval=20", "optimizer.lr=1e-4")
XOR = ("data=xor", "data.limit=40")
IMAGES = ("data=digits", "model=cnn", "model.features=[4,6]")
AVERAGED = ("optimizer=adamw-averaged", "optimizer.accumulate=8")
RUNS = {
    "window": ("train-biohsic", "data=digits"),
    "exact window": ("train-biohsic", "data=digits", "hsic.form=exact", "training.log_hsic=true"),
    "back-propagation": ("train-bp", "data=digits"),
    "leaky integrators": ("train-lif-biohsic", *XOR),
    "reservoir": ("train-lif-biohsic", *XOR, "modulator=reservoir"),
    "images": ("train-biohsic", *IMAGES),
    "delta": ("train-biohsic", "data=digits", "modulator=delta"),
    "delta of leaky integrators": ("train-lif-biohsic", *XOR, "modulator=delta"),
    "remembered": ("train-biohsic", "data=digits", "modulator=remembered", "modulator.size=6", *AVERAGED),
    "covariance": ("train-biohsic", "data=digits", "modulator=covariance", *AVERAGED),
    "class means of images": ("train-biohsic", *IMAGES, "modulator=class-means", *AVERAGED),
    "local classifiers": ("train-biohsic", "data=digits", "rule=local-classifier", *AVERAGED),
    "feedback alignment": ("train-biohsic", "data=digits", "rule=feedback-alignment", *AVERAGED),
    "direct feedback alignment of images": ("train-biohsic", *IMAGES, "rule=direct-feedback-alignment", *AVERAGED),
    "similarity matching": ("train-biohsic", "data=digits", "rule=similarity-matching", *AVERAGED),
    "momentum and a schedule within the epoch": (
        *("train-bp", "data=digits", "data.batchsize=8", "optimizer=sgd", "optimizer.momentum=0.9"),
        "lr_schedule=smooth-cosine",
    ),
}


@pytest.mark.parametrize("case", RUNS)
def test_a_run_is_the_same_captured_in_eager_and_on_a_cpu(case, script, tmp_path):
    """Weights after an epoch, relative to how far they came; torch's own kernels sum in another order on each."""
    name, *arguments = RUNS[case]
    places = {
        "captured": ("device=cuda", "engine=compiled"),
        "eager": ("device=cuda", "engine=eager"),
        "cpu": ("device=cpu", "engine=eager"),
        "begin": ("device=cpu", "engine=eager", "optimizer.lr=1e-20", "optimizer.readout_lr=1e-20"),
    }
    weights = {}
    for place, chosen in places.items():
        ended = script(name, *arguments, *SMALL, *chosen, f"hydra.run.dir={place}")
        assert ended.code == 0, ended.output
        (checkpoint,) = sorted((tmp_path / place / "checkpoints").glob("epoch-*.pt"))[-1:]
        saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
        assert saved["engine_name"] == ("compiled" if place == "captured" else "eager")
        layers = saved["engine"]["parameters"]
        weights[place] = torch.cat([tensor.flatten() for layer in layers for tensor in layer.values()])
    came = (weights["cpu"] - weights["begin"]).norm()
    assert came > 0
    for place in ("captured", "eager"):
        assert (weights[place] - weights["cpu"]).norm() < 0.02 * came, place
