"""Our defaults for the launchers that Hydra's plugins bring, and the share of the machine that a job gets."""

import os

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from projectlib.config.compose import CONFIGS


def set_launcher_defaults() -> None:
    """Put the values of ``configs/launchers.yaml`` into the plugins' own configs, where these are installed.

    ``hydra/launcher=<name>`` then starts from them, and the plugin still names every other setting and checks types.
    (A yaml of the same name in ``configs/hydra/launcher/`` would replace the plugin's config and make Hydra warn.)
    """
    Plugins.instance()  # the plugins store theirs as they are found; ours have to come after
    store = ConfigStore.instance()
    installed = set(store.list("hydra/launcher"))
    for name, values in OmegaConf.load(CONFIGS / "launchers.yaml").items():
        if f"{name}.yaml" in installed:
            plugin = store.load(f"hydra/launcher/{name}.yaml")
            node = OmegaConf.merge(plugin.node, values)
            store.store(str(name), node, group="hydra/launcher", provider=plugin.provider)


def limit_threads(launcher: DictConfig) -> None:
    """Hold a job to the cores that its launcher asked for, before any library counts those of the machine.

    submitit's launchers name them; joblib limits the threads of its processes by itself.
    """
    threads = launcher.get("cpus_per_task")
    if threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def is_joblib(launcher: DictConfig) -> bool:
    """Whether a launcher's jobs run in joblib's workers, which one process waits for."""
    return str(launcher.get("_target_", "")).endswith(".JoblibLauncher")


def job_device(num_devices: int, job_number: int) -> str:
    """The device of one job among several: its own GPU of those it can see, the CPU where there is none.

    A scheduler that hands out GPUs lets each job see its own only (CUDA_VISIBLE_DEVICES); elsewhere all jobs see
    all, and take turns.
    """
    return f"cuda:{job_number % num_devices}" if num_devices else "cpu"
