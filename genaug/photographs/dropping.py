"""Exclude single cutouts from a bank by hand."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from genaug._common.arguments import near
from genaug._common.files import tell
from genaug.photographs import format as layout
from genaug.photographs.build import is_usable, locked, read_summary, with_sheets


def drop_cutouts(
    path: str | os.PathLike[str], files: Sequence[str | os.PathLike[str]], *, restore: bool = False
) -> layout.BankFiles:
    """Exclude single cutouts from a bank, such as those with wrong masks. Nothing is deleted.

    The bank's summary.json keeps their names, even if the bank is built again, repaired or copied. Dropping a cutout
    twice changes nothing. If a cutout is not used in any case, for example because it is doubtful, a message says so.

    Args:
        path: the bank's folder.
        files: the photographs, each as a path from the contact sheets ("dog/3.jpg"), its end if that is unique
            ("3.jpg"), or a path that ends with it ("photos/train/dog/3.jpg").
        restore: include them again instead.

    Returns:
        The bank without them.

    Raises:
        FileNotFoundError: the folder is not a bank.
        ValueError: a name matches no photograph or several, or a class would be left without a cutout.
    """
    path = Path(path)
    layout.read_settings(path)
    with locked(path):  # another process may drop other cutouts, or complete the bank
        bank = layout.BankFiles(path)
        known = [entry.file for entry in (*bank.entries, *bank.excluded)]
        chosen = {_photograph(os.fspath(file), known, path) for file in files}
        summary = read_summary(path)
        before = set(summary.get(layout.DROPPED, ()))
        dropped = before - chosen if restore else before | chosen
        records = [
            record for shard in range(layout.shards_of(bank.settings)) for record in layout.read_shard(path, shard)
        ]
        counts = Counter(record.of_class for record in records if is_usable(record, bank.settings, dropped))
        if empty := [name for name in bank.classes if not counts[name]]:
            raise ValueError(f"class {empty[0]!r} must keep a cutout: drop fewer, or build a bank without the class")
        summary |= {
            "usable": counts.total(),
            "per_class": {name: counts[name] for name in bank.classes},
            layout.DROPPED: sorted(dropped),
        }
        layout.write_summary(path, summary)
        for record in records:
            if record.file in chosen and (why := _left_out(record, bank)):
                tell(f"{record.file} {'stays left out' if restore else 'was left out already'}: {why}")
        return with_sheets(path)


def _left_out(record: layout.Record, bank: layout.BankFiles) -> str:
    """Return why a cutout is not used even if it is not dropped by hand, or "" if it is used."""
    if record.of_class not in bank.classes:
        return "its class has no usable cutout"
    return "" if is_usable(record, bank.settings, ()) else ", ".join(record.warnings)


def _photograph(name: str, known: Sequence[str], path: Path) -> str:
    """Return the photograph of a bank that a user's name matches."""
    name = Path(name).as_posix()
    if name in known:
        return name
    found = [file for file in known if name.endswith(f"/{file}") or file.endswith(f"/{name}")]
    if len(found) != 1:
        which = f"{', '.join(found[:3])} are all called so" if found else f"{path} has none{near(name, known)}"
        raise ValueError(f"files must be photographs of the bank, got {name!r}: {which}")
    return found[0]
