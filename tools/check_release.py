"""Build the wheel and the source distribution, and check what is in them.

    python tools/check_release.py             # in a temporary folder
    python tools/check_release.py --out dist  # keep the two files, for an upload

Checks: `twine check --strict`, at most 15 MB each, every file of the package is in both, and nothing else that git
does not have.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 15 * 10**6  # bytes


def package_files(root: Path) -> set[str]:
    """Return the files of the package that git has, by path from `root`."""
    listed = subprocess.run(["git", "ls-files", "genaug"], cwd=root, check=True, capture_output=True, text=True)
    return set(listed.stdout.split("\n")) - {""}


def contents(path: Path) -> set[str]:
    """Return the names of the files in a wheel, or in a source distribution without its top folder."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return set(wheel.namelist())
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2] for member in archive if member.isfile()}


def problems(path: Path, expected: set[str]) -> list[str]:
    """Return what is wrong with a wheel or a source distribution."""
    found, size = contents(path), path.stat().st_size
    wrong = [f"{path.name}: missing {name}" for name in sorted(expected - found)]
    surplus = {name for name in found if name.startswith(("genaug/", "tests/"))} - expected
    wrong += [f"{path.name}: should not have {name}" for name in sorted(surplus)]
    for name in ("LICENSE", "NOTICE"):
        if not any(each.endswith(f"/{name}") or each == name for each in found):
            wrong.append(f"{path.name}: missing {name}")
    if size > LARGEST:
        wrong.append(f"{path.name}: {size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f} MB")
    return wrong


def main() -> int:
    """Build and check; the exit code is 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="keep the files in this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = arguments.out or Path(temporary) / "dist"
        # from a clean copy: a build folder of an earlier install would be packed, too
        source = Path(temporary) / "source"
        subprocess.run(["git", "checkout-index", "--all", f"--prefix={source}/"], cwd=ROOT, check=True)
        subprocess.run([sys.executable, "-m", "build", "--outdir", out, source], check=True, stdout=subprocess.DEVNULL)
        files = sorted([*out.glob("genaug-*.whl"), *out.glob("genaug-*.tar.gz")])
        wrong = [problem for path in files for problem in problems(path, package_files(ROOT))]
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=True)
        for path in files:
            print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {len(contents(path))} files")
    print("\n".join(wrong) or "nothing is missing or surplus")
    return int(bool(wrong) or len(files) != 2)


if __name__ == "__main__":
    sys.exit(main())
