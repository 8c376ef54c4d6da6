"""Load a user's own files and folders. The authors' checkpoints are converted once into the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from genaug.assets import cache
from genaug.assets.convert import main_files, write_converted
from genaug.assets.registry import AssetError, Source
from genaug.assets.trust import FIRST_USE


def converted(path: Path) -> Path:
    """Return the converted weights of a user's checkpoint: an author's file, or a folder as downloaded from the Hub.

    The checkpoint is converted again if the size or time of a file has changed.

    Raises:
        AssetError: there are no weights, or they are of no known kind.
        UnavailableAssetError: the cache cannot be written.
    """
    path = path.resolve()
    if path.is_dir():
        names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
        try:
            files = [path / name for name in main_files(names)]
        except ValueError as error:
            raise AssetError(f"{path} {error}") from None
    else:
        files = [path]
    name = f"local-{hashlib.sha256(str(path).encode()).hexdigest()[:32]}"
    stats = [file.stat() for file in files]
    # Size and time replace the digest of a local file, because hashing 500 MB at each use would be slow.
    marks = tuple(
        Source(str(file), str(file), f"{stat.st_size}-{stat.st_mtime_ns}", stat.st_size)
        for file, stat in zip(files, stats, strict=True)
    )

    def ready() -> bool:
        record = cache.read_record(name)
        target = cache.weights(name)
        if record is None or record.sources != marks or not target.is_file():
            return False
        stat = target.stat()
        return (stat.st_size, stat.st_mtime_ns) == (record.size, record.mtime_ns)

    try:
        if not ready():
            with cache.exclusive(cache.home(name)):
                if not ready():
                    write_converted(files, cache.weights(name))
                    cache.write_record(name, marks, FIRST_USE)
    except OSError as error:
        raise cache.unwritable(error) from error
    return cache.weights(name)
