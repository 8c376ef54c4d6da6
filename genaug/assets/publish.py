"""Publish an asset as a Hub repository: its weights, and a card from the registered information."""

from __future__ import annotations

import os
from textwrap import dedent

from genaug._common.files import DIGEST, atomic_path, writable_folder
from genaug.assets.cache import sha256
from genaug.assets.formats import SUFFIX
from genaug.assets.hub import check_repository, upload
from genaug.assets.registry import ASSETS, KINDS, NAMESPACE, Asset, AssetError
from genaug.assets.store import EMBEDDED, asset_path, load_asset, save_asset

_ANY_EXAMPLE = """
    from genaug.assets import load_asset

    state, metadata = load_asset("{file}")
    """


def publish(name: str, repository: str, *, folder: str | os.PathLike[str], dry_run: bool = False) -> str:
    """Upload an asset with its model card, or only write both to a folder.

    Args:
        name: a registered asset. Its file is fetched if it is not on this machine.
        repository: "OWNER/NAME" on the Hub; "NAME" alone uses the project's owner (`NAMESPACE`). It is created if it
            does not exist.
        folder: the folder for the safetensors file and README.md.
        dry_run: write the files but do not upload them.

    Returns:
        After an upload, the lines of the registry that pin it: repository, revision, file, sha256 and size. After a dry
        run, the folder.

    Raises:
        AssetError: there is no such asset, its file differs from the registered one, its license is unknown, or the Hub
            refuses.
        ValueError: the repository's name is not valid.
        OSError: the folder cannot be written.
    """
    repository = repository if "/" in repository else f"{NAMESPACE}/{repository}"
    check_repository(repository)
    if name not in ASSETS:
        asset_path(name)  # for an unknown name, this raises an error that names similar assets
        raise AssetError(f"{name} is not a registered asset, so there is no card for it")
    row = ASSETS[name]
    state, metadata = load_asset(name)
    path = asset_path(name)
    digests = sha256(path), metadata.get("source_sha256", "")
    if row.sha256 is None or not any(digest.startswith(row.sha256) for digest in digests):
        raise AssetError(f"cannot publish {name}: {path} differs from the registered file that the card describes")
    if (licence := metadata.get("licence", row.licence)) == "unknown":
        raise AssetError(f"cannot publish {name}: its license is unknown")
    target = writable_folder(folder) / f"{name}{SUFFIX}"
    rest = {key: value for key, value in metadata.items() if key not in ("kind", "format_version", DIGEST)}
    save_asset(target, state, metadata["kind"], **rest)
    with atomic_path(target.with_name("README.md")) as temporary:
        temporary.write_text(_card(row, licence, repository))
    if dry_run:
        return str(target.parent)
    revision = upload(repository, target.parent, [target.name, "README.md"], message=f"Publish {target.name}")
    return dedent(f"""\
        repository="{repository}",
        revision="{revision}",
        file="{target.name}",
        sha256="{sha256(target)}",
        size={target.stat().st_size:_},""")


def _card(row: Asset, licence: str, repository: str) -> str:
    """Return the model card: the Hub's metadata, then description, data, recipe, figures, license and an example."""
    own = EMBEDDED / f"{row.name}.md"
    if own.is_file():
        body = own.read_text().rstrip()
    else:
        body = dedent(f"""\
            # {row.name}

            {row.what[0].upper() + row.what[1:]}. {row.paper}.

            | | |
            |---|---|
            | source | {row.source} |
            | measured | {row.figures} |
            | licence | {licence} |""")
    file = f"{row.name}{SUFFIX}"
    example = dedent(KINDS[row.kind].example or _ANY_EXAMPLE).strip().format(file=file)
    return (
        f"---\nlicense: {licence.lower()}\nlibrary_name: genaug\ntags:\n- genaug\n- {row.kind}\n---\n\n{body}\n\n"
        f"## Use\n\n```bash\npip install genaug\nhf download {repository} {file} --local-dir .\n```\n\n"
        f"```python\n{example}\n```\n"
    )
