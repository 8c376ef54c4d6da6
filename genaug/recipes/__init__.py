"""One file a table or figure of the papers, and the list of them: needs, cost, the paper's figures and ours.

A new recipe is one file here and one row of `RECIPES`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """One table or figure that can be made again.

    Attributes:
        what: which table or figure it is.
        command: the command that makes it.
        needs: data that the user has to bring.
        cost: time and hardware.
        paper: the paper's figures.
        ours: where what this project measured stands, or "not run".
    """

    what: str
    command: str
    needs: str
    cost: str
    paper: str
    ours: str = "not run"


RECIPES = {
    "cgn-table2": Recipe(
        what="CGN, Table 2, rows Original and Original + CGN: test accuracy in percent on colored / double-colored / "
        "wildlife MNIST",
        command="genaug reproduce cgn-table2 --root DIR --textures DIR",
        needs="MNIST (--download fetches it); for wildlife a folder of textures: DTD's striped and veined",
        cost="not run",
        paper="original 35.9 / 10.3 / 10.1; cgn 95.1 / 89.0 / 85.7",
        ours="the table in the README, from benchmarks/results/cgn-table2",
    )
}
