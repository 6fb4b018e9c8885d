"""What Hydra says of a mistake, told in one line that says what to do."""

import difflib
import re

from hydra import compose, initialize_config_dir
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from projectlib.runs.folder import flatten
from projectlib.runs.resume import CONFIGS

QUOTES = "; values with blanks or signs need quotes within quotes: \"key='a value'\""


def one_line(error: BaseException, script: str) -> str:
    """An error and what caused it, on one line.  script: whose settings a mistyped key is compared with."""
    causes = [error.__cause__] if isinstance(error.__cause__, OmegaConfBaseException) else []
    text = " ".join(" ".join(str(part) for part in (error, *causes)).split())
    if found := re.match(r"Could not override '([^']+)'\. To append", text):
        return unknown_key(found[1].split("@")[0], script)
    text = re.sub(r" Config search path:.*| See https://hydra.cc\S*( for details)?", "", text)
    return text + (QUOTES if isinstance(error, OverrideParseException) else "")


def unknown_key(name: str, script: str) -> str:
    """That a key does not exist, and those that it may have been."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose(script, ["data=mnist"], return_hydra_config=True)
    plain = OmegaConf.to_container(config, resolve=False)
    settings = [key for key, _ in flatten(plain) if not key.startswith("hydra.")]
    near = difflib.get_close_matches(name, {*settings, *plain, *config.hydra.runtime.choices}, 2)
    advice = f"did you mean {' or '.join(near)}?" if near else "expected one that --help lists"
    return f"{name} is no setting of {script}.py: {advice}"
