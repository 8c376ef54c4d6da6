"""Pages of the documentation site that are written from the code: the Python API, commands and the notebook."""

from __future__ import annotations

import base64
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

# methods of these bases are not genaug's
FOREIGN = "Module, Dataset, Transform, Sampler, Exception, dict, object"
HOOKS = "extra_repr, training, dump_patches, call_super_init"  # torch calls these, users do not


def api_names(page: str) -> dict[str, str]:
    """Return the dotted names in the tables of docs/api.md, with their purposes."""
    return dict(re.findall(r"^\| `(genaug\.[\w.]+)` \| (.*?) \|$", page, flags=re.MULTILINE))


def api_object(name: str) -> Any:
    """Return what a dotted name stands for."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def api_pages(page: str) -> dict[str, str]:
    """Return a page for each name of docs/api.md, by name of file."""
    pages = {}
    for name, purpose in api_names(page).items():
        found = api_object(name)
        if inspect.isclass(found):
            # of overloads, Sphinx would show each: the signature behind them says it all
            signature = _signature(found) if "@overload" in inspect.getsource(found) else ""
            directive = (
                f".. autoclass:: {name}{signature}\n   :inherited-members: {FOREIGN}\n   :exclude-members: {HOOKS}"
            )
        elif callable(found):
            directive = f".. autofunction:: {name}"
        else:  # a constant has no docstring of its own
            directive = f".. py:data:: {name}\n\n   {purpose}."
        pages[f"api-{name}"] = f"# {name.rpartition('.')[2]}\n\n```{{eval-rst}}\n{directive}\n```\n"
    return pages


def _signature(found: type) -> str:
    """The arguments of a class with their types and defaults, without the quotes of delayed annotations."""
    parameters = list(inspect.signature(found.__init__).parameters.values())[1:]  # type: ignore[misc]
    shown = []
    for each in parameters:
        stars = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        default = "" if each.default is each.empty else f" = {each.default!r}"
        shown.append(f"{stars}{each.name}: {each.annotation}{default}")
    return f"({', '.join(shown)})"


def command_pages() -> dict[str, str]:
    """Return a page for each command of `genaug`, by name of file."""
    import typer

    from genaug.cli import app

    group = typer.main.get_command(app)
    pages = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        commands = getattr(command, "commands", None)
        parts = [f"# genaug {name}", _text(command.help)]
        if commands is None:
            parts += _command(f"genaug {name}", command)[1:]
        else:
            for below, each in commands.items():
                if not each.hidden:
                    parts += _command(f"genaug {name} {below}", each)
        pages[f"command-{name}"] = "\n\n".join(part for part in parts if part) + "\n"
    return pages


def _command(name: str, command: Any) -> list[str]:
    """A heading, the help, the example, and a table for each panel of options."""
    example = _text(command.epilog).removeprefix("Example: ")
    parts = [f"## {name}", _text(command.help)] if name.count(" ") > 1 else [f"## {name}"]
    if example:
        parts.append(f"```bash\n{example}\n```")
    panels: dict[str, list[str]] = {}
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        argument = parameter.param_type_name == "argument"
        panel = getattr(parameter, "rich_help_panel", None) or ("Arguments" if argument else "Options")
        shown = parameter.metavar or parameter.name.upper() if argument else ", ".join(parameter.opts)
        default = _default(parameter)
        text = _text(parameter.help) + (f" (default: {default})" if default else "")
        if parameter.required and not argument:
            text += " **Required.**"
        panels.setdefault(panel, []).append(f"| `{shown}` | {text} |".replace("<", "&lt;"))
    first, last = ["Arguments", "Options"], ["Runtime"]
    for panel in sorted(panels, key=lambda panel: (panel in last, panel not in first)):
        parts.append("\n".join([f"| {panel} | |", "|---|---|", *panels[panel]]))
    return parts


def _default(parameter: Any) -> str:
    value = parameter.default
    if value is None or value is False or value == [] or parameter.required or callable(value):
        return ""
    if "(default:" in (parameter.help or ""):
        return ""
    value = getattr(value, "value", value)
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _text(text: str | None) -> str:
    return " ".join((text or "").split())


def notebook_page(path: Path, pictures: Path) -> str:
    """Return a page with the cells of a notebook and their stored outputs; its pictures are written to a folder."""
    parts = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            if output["output_type"] == "stream":
                parts.append(f"```text\n{''.join(output['text'])}```")
            else:
                picture = pictures / f"{path.stem}-{number}.png"
                picture.write_bytes(base64.b64decode(output["data"]["image/png"]))
                parts.append(f"![Output of the cell above]({picture.name})")
    return "\n\n".join(parts) + "\n"
