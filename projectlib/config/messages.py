"""What Hydra says of a mistake, told in one line that says what to do."""

import difflib
import re

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from projectlib.config.compose import compose
from projectlib.config.settings import flatten, plain
from projectlib.errors import UserError

MISTAKES = (UserError, HydraException, OmegaConfBaseException)
"""Mistakes in what was typed or in a config, which ``explained`` puts on one line."""

QUOTES = "; values with blanks or signs need quotes within quotes: \"key='a value'\""


def explained(error: BaseException, config_name: str) -> str:
    """An error and what caused it, on one line.  config_name: whose settings a mistyped key is compared with."""
    causes = [error.__cause__] if isinstance(error.__cause__, OmegaConfBaseException) else []
    text = " ".join(" ".join(str(part) for part in (error, *causes)).split())
    if found := re.match(r"Could not override '([^']+)'\. To append", text):
        return unknown_key(getattr(error.__cause__, "full_key", None) or found[1].split("@")[0], config_name)
    text = re.sub(r" Config search path:.*| Search path:.*| See https://hydra.cc\S*( for details)?", "", text)
    return text + (QUOTES if isinstance(error, OverrideParseException) else "")


def unknown_key(name: str, config_name: str) -> str:
    """That a key does not exist, and those that it may have been."""
    if name.startswith("search.space."):
        return f"{name} is not among what is searched; expected +search.space={{...}}, which adds to it"
    try:
        config = compose(config_name, ["data=mnist"])
    except Exception:  # a config of the user's own may need more than a data set; the advice can do without it
        config = compose("train-biohsic", ["data=mnist"])
    settings = [key for key in flatten(plain(config)) if not key.startswith("hydra.")]
    if name in settings:
        return f"{name} is a setting of {config_name} with other choices than these; expected one that --help lists"
    near = difflib.get_close_matches(name, [*{*settings, *plain(config), *config.hydra.runtime.choices}], 2)
    advice = f"did you mean {' or '.join(near)}?" if near else "expected one that --help lists"
    return f"{name} is no setting of {config_name}: {advice}"
