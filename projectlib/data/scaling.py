"""Settings with which one data set scales its images as another does."""

from collections.abc import Mapping, Sequence
from typing import Any

from projectlib.data.loaders import CIFAR10_MEAN, CIFAR10_SD
from projectlib.errors import UserError

MEAN_AND_SD = {"unit": (0.0, 1.0), "symmetric": (0.5, 0.5), "channels": (CIFAR10_MEAN, CIFAR10_SD)}
"""What each scale subtracts from pixels in [0, 1] and divides by; ``standardize`` has them of each image alone."""


def scaled_alike(source: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of ``source`` with which it scales images as ``other`` does: ``scale``, or ``mean`` and ``sd``.

    source, other: settings of two data sets by name.  Empty where one of them has none of these three.  Raises
    UserError where ``source`` has no setting that does it.
    """
    has_numbers = {"mean", "sd"} <= source.keys()
    named, numbers = other.get("scale"), (other["mean"], other["sd"]) if {"mean", "sd"} <= other.keys() else None
    if "scale" in source and named is not None:
        return {"scale": named}
    numbers = numbers or MEAN_AND_SD.get(str(named))
    if has_numbers and numbers:
        return dict(zip(("mean", "sd"), numbers, strict=True))
    if "scale" in source and numbers:
        names = [name for name, known in MEAN_AND_SD.items() if [*map(channels, known)] == [*map(channels, numbers)]]
        if names:
            return {"scale": names[0]}
    if ("scale" in source or has_numbers) and (named is not None or numbers):
        theirs = f"data.scale={named}" if named else f"data.mean={other['mean']} and data.sd={other['sd']}"
        raise UserError(
            f"the run was trained on images scaled by {theirs}, which {source.get('_target_')} cannot do; expected "
            "data that are scaled alike: train a run on images scaled as these are"
        )
    return {}


def channels(value: float | Sequence[float]) -> list[float]:
    """One number for each of three channels."""
    values: list[float] = [*value] if isinstance(value, Sequence) else [value]
    return values * 3 if len(values) == 1 else values
