"""Tables and figures of the papers, one file each, and their list: requirements, cost, the papers' results and ours.

To add a table or figure, add a file here that declares `RECIPE = Recipe(...)`. Its name in `genaug reproduce` is that
of the file. Files without a recipe have code that several tables share. Figures that draw an idea or a network are left
out: CGN's Figures 1 and 2, GenInt's Figure 4. `python tools/readme_tables.py` writes the measured results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Option:
    """A command-line option of one recipe. Its value becomes an argument of the recipe's `run`.

    Attributes:
        flag: Name on the command line, such as "--num".
        default: Default value. Its type is that of the option. A tuple makes a comma-separated list. True or False
            makes a flag that inverts it.
        help: Help text.
        argument: Argument of `run` (default: as the flag).
        type: Type of the value if the default is None: `int`, `str`, or `tuple` for a list of strings.
        panel: Heading in `--help`.
    """

    flag: str
    default: Any
    help: str
    argument: str = ""
    type: type = str
    panel: str = "Data"

    def __post_init__(self) -> None:
        object.__setattr__(self, "argument", self.argument or self.name)
        object.__setattr__(self, "type", self.type if self.default is None else type(self.default))

    @property
    def name(self) -> str:
        """Return the flag as a Python name."""
        return self.flag.strip("-").replace("-", "_")


@dataclass(frozen=True)
class Recipe:
    """One table or figure of the papers.

    A file may have a function `run(out, ...)`, which takes `options`, or a `SMALL_SCALE` reproduction, or neither.

    Attributes:
        what: which table or figure it is.
        paper: the paper's figures.
        command: the command that reproduces it, at least in part; "" if there is none.
        then: the command that measures the models that `command` trains; "" if `command` measures them itself.
        missing: what the package cannot do yet; "" if nothing is missing.
        small_scale: whether it has a small-scale reproduction, `genaug reproduce NAME --small-scale`.
        needs: data that the user must provide.
        cost: time and hardware (default: "not run", or the time of a small-scale reproduction).
        options: options of `genaug reproduce NAME`: names of shared options (`cli.reproduction.SHARED`), and its own.
        dtype: default of the shared option `--dtype`.
        out: help text of `--out`.
        example: arguments of the example in the help of `genaug reproduce NAME`.
    """

    what: str
    paper: str
    command: str = ""
    then: str = ""
    missing: str = ""
    small_scale: bool = False
    needs: str = "nothing"
    cost: str = ""
    options: tuple[str | Option, ...] = ()
    dtype: str = "auto"
    out: str = "Folder for results.json."
    example: str = ""

    def __post_init__(self) -> None:
        cost = "small-scale reproduction: minutes per seed, one CPU core" if self.small_scale else "not run"
        object.__setattr__(self, "cost", self.cost or cost)


# Matches a declaration up to the next line that is not indented. Importing or parsing whole files would be too slow.
_DECLARATION = re.compile(r"^RECIPE = (.*?)(?=^[^\s)]|\Z)", re.MULTILINE | re.DOTALL)


def _declared() -> Iterator[tuple[str, Recipe]]:
    """Yield the name and the recipe of each file that declares one."""
    for file in (file for folder in __path__ for file in Path(folder).glob("*.py")):
        if found := _DECLARATION.search(file.read_text(encoding="utf-8")):
            declaration = compile(found[1].strip(), str(file), "eval")
            yield file.stem.replace("_", "-"), eval(declaration, {"Recipe": Recipe, "Option": Option})


def _place(name: str) -> tuple[str, bool, bool, int]:
    """Return the sort key of a recipe: the paper, tables before figures, the number."""
    paper, _, rest = name.partition("-")
    return paper, not rest.startswith("table"), rest.startswith("figure"), int(re.sub(r"\D", "", rest) or 0)


RECIPES = dict(sorted(_declared(), key=lambda declared: _place(declared[0])))


def measured() -> dict[str, dict[str, str]]:
    """Return the measured results in words, by recipe: "full" and "small_scale", if each was run."""
    return json.loads((Path(__file__).parent / "measured.json").read_text(encoding="utf-8"))
