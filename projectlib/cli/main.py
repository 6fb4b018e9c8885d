"""The command line: arguments, resuming, one line for a mistake, and exit codes.

Nothing heavy is imported before the arguments are known to be sound.
"""

import argparse
import logging
import os
import re
import shlex
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import hydra._internal.hydra
from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, run_job
from hydra.types import HydraContext, RunMode

from projectlib.cli.hydra_job import CommandLineJob, FailedJob, Job, unforeseen, with_new_folders
from projectlib.cli.interrupts import SweepInterrupts
from projectlib.config.compose import CONFIGS, CheckedLoader, HelpLoader, check_choices, make_loader, parse
from projectlib.config.experiments import with_size
from projectlib.config.messages import MISTAKES, explained
from projectlib.config.plugins import plugin_folders
from projectlib.errors import EXIT_RESUME, UserError, one_line, system_problem
from projectlib.garbage import skip_final_collection
from projectlib.runs.folder import is_finished, refuse_links
from projectlib.runs.resume import check_unchanged, extends, newest_unfinished, resumed_overrides, split_resume
from projectlib.sweeps.launchers import is_joblib, set_launcher_defaults


def launch(config_name: str, arguments: list[str] | None = None) -> None:
    """Run a config on the command line.

    config_name: of ``configs/``, or of the folder in ``--config-dir``; ``--config-name`` overrides it.
    arguments: those of the process by default.
    Exit codes: 0 finished, 1 a mistake in the input or a failed run, 75 stopped by a signal after a checkpoint,
    128 + the signal's number stopped at once.
    """
    open_closed_streams()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra's own mistakes come here, to be told in one line
    logging.raiseExceptions = False  # on a full disk the log would bury the reason under tracebacks of its own
    version.setbase("1.3")
    set_launcher_defaults()
    skip_final_collection()
    parser = get_args_parser()
    options = parser.parse_intermixed_args(arguments)
    name, loader = "ConfigLoaderImpl", HelpLoader if options.help else CheckedLoader
    setattr(hydra._internal.hydra, name, loader)  # for what it shows
    options.config_name = (options.config_name or config_name).removesuffix(".yaml")
    try:
        run_command(parser, options)
    except FailedJob:
        sys.exit(1)  # its line is in the log
    except MISTAKES as error:
        sys.exit(f"error: {explained(error, options.config_name)}")
    except OSError as error:
        sys.exit(f"error: {system_problem(error, 'cannot write what is printed')}")
    except KeyboardInterrupt:
        if options.multirun:
            print("stopped: the same command with the same hydra.sweep.dir resumes its jobs", file=sys.stderr)
            sys.exit(EXIT_RESUME)
        scores = any(word.startswith("evaluate=") for word in options.overrides)
        sys.exit("stopped before all was scored" if scores else "stopped before training began")
    except Exception as error:
        typed = [word for word in options.overrides if re.match(r"[+~]*hydra(?!\.(run|sweep)\.dir=)", word)]
        if typed and isinstance(error, ValueError | TypeError | AttributeError | AssertionError):
            sys.exit(f"error: {' '.join(typed)} is refused by Hydra: {one_line(error)}")
        sys.exit(f"error: {unforeseen(error)}")


biohsic, biohsic_bp, biohsic_lif, biohsic_reservoir = (
    partial(launch, f"train-{name}") for name in ("biohsic", "bp", "lif-biohsic", "reservoir")
)
"""The console scripts."""


def run_command(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Show what is asked for, or do it: one run, or many."""
    if options.config_path or options.experimental_rerun:
        raise UserError("--config-path and --experimental-rerun are not supported; expected --config-dir, or resume=")
    shows_settings = options.help or options.cfg or options.info
    if shows_settings:
        options.overrides = with_size(options.overrides, options.config_dir)
    if options.help:
        options.overrides += for_help(options.overrides)
    if shows_settings or options.hydra_help or options.shell_completion:
        _run_hydra(options, parser, CommandLineJob(), str(CONFIGS), options.config_name)
        return
    if any(word.startswith("hydra.mode=") for word in options.overrides):
        raise UserError("hydra.mode is what --multirun says; expected --multirun for many runs, and nothing for one")
    if options.multirun and split_resume(options.overrides)[0]:
        raise UserError("resume= is for one run; a sweep is resumed by its own command with hydra.sweep.dir=FOLDER")
    job, overrides, finished = plan(CommandLineJob, options.config_name, options.overrides, options.config_dir)
    if finished is not None:
        print(f"{finished} is finished: nothing to resume")
        return
    mode, loader = RunMode.MULTIRUN if options.multirun else RunMode.RUN, make_loader(options.config_dir)
    config: Any = loader.load_configuration(options.config_name, [*overrides, f"hydra.mode={mode.name}"], mode)
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    context = HydraContext(loader, Callbacks())
    if mode == RunMode.RUN:
        run_job(with_new_folders(job, config), config, "hydra.run.dir", None, context)
        return
    sweeper = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=job, config=config)
    sweep = config.hydra.sweep.dir
    interrupts = SweepInterrupts() if is_joblib(config.hydra.launcher) else None
    try:
        with interrupts or nullcontext():
            sweeper.sweep(list(config.hydra.overrides.task))
    except Exception:
        if not (interrupts and interrupts.requested):  # else a worker was ended before its run could listen
            raise
    finally:
        if Path(sweep).is_dir():
            print(f"what the jobs have reached: python -m projectlib.sweeps.collect {shlex.quote(sweep)}")
    if interrupts and interrupts.requested:
        raise KeyboardInterrupt


def plan(
    make_job: type[Job], config_name: str, overrides: list[str], config_dir: str | Path | None
) -> tuple[Job, list[str], Path | None]:
    """What overrides ask for: a new run, or with ``resume=`` one that is resumed in its folder.

    Returns the job, the overrides that Hydra composes its config from, and the folder of a run where nothing is left
    to resume.  Raises UserError, or an exception of Hydra's, where they are no overrides or the run cannot be resumed
    with them.
    """
    wanted, overrides = split_resume(overrides)
    overrides = with_size(overrides, config_dir)
    parsed = parse(overrides)
    check_choices(parsed, config_dir)
    job = partial(make_job, named_plugins(parsed), plugin_folders(config_dir))
    if wanted is None:
        return job(), overrides, None
    if wanted == "auto":
        folder = newest_unfinished(config_name, overrides, config_dir)
        if folder is None:
            print(f"no unfinished run of this config in outputs/{config_name}: starting a new one", file=sys.stderr)
            return job(), overrides, None
    else:
        check_unchanged(folder := Path(wanted), config_name, parsed)
    refuse_links(folder)
    finished = folder if is_finished(folder) and not extends(folder, overrides) else None
    return job(tuple(overrides)), resumed_overrides(folder, overrides), finished


def named_plugins(overrides: list[Override]) -> tuple[str, ...]:
    """The modules in ``plugins=[...]`` among overrides; of what is no list the job's validation says so."""
    named: list[Any] = [override.value() for override in overrides if override.key_or_group == "plugins"]
    return tuple(named[-1]) if named and isinstance(named[-1], list) else ()


def for_help(overrides: list[str]) -> list[str]:
    """What ``--help`` shows: the command as given, and a data set, where nothing brings one, to list settings of."""
    script = Path(sys.argv[0])
    command = f"python {script.name}" if script.suffix == ".py" else script.name
    named = any(override.startswith(("data=", "experiment=", "search=")) for override in overrides)
    return [f"hydra.help.app_name='{command}'", *([] if named else ["data=mnist"])]


def open_closed_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr ones that lead nowhere.

    The next files that it opens would take their places, and what is printed would go into them.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (for as long as it lives)
