"""The layout of the page, and the function that each event calls."""

from __future__ import annotations

from importlib import resources
from typing import Any

from genaug.datasets.factors import FACTORS
from genaug.explorer import html
from genaug.explorer.page import ANY, AS_DRAWN, Page
from genaug.explorer.sources import COMPONENTS
from genaug.explorer.views import ANY_BLEND, DRAWS, MOST_FIRST, MOST_SAMPLES, MOST_SEED, REACH, TABS
from genaug.interventions.blending import BLENDS

_TIES = [
    ("None", ""),
    ("Shape and texture: whole objects", "shape,texture"),
    ("Shape and background", "shape,background"),
    ("Texture and background", "texture,background"),
    ("All three", "shape,texture,background"),
]
# if a slider moves again before its picture is ready, the moves in between are dropped
_LATEST = {"trigger_mode": "always_last", "show_progress": "hidden", "queue": False, "api_visibility": "private"}


def style() -> str:
    """Return the page's style sheet."""
    return _static("page.css")


def head() -> str:
    """Return the script for the page's head."""
    return f"<script>\n{_static('page.js')}</script>"


def _static(name: str) -> str:
    return resources.files("genaug.explorer").joinpath("static").joinpath(name).read_text(encoding="utf-8")


def theme(gr: Any) -> Any:
    """Return a theme with the page's colors and the system's own fonts, which are not requested from another host."""
    sans = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    mono = ["ui-monospace", "Cascadia Code", "Menlo", "Consolas", "monospace"]
    base = gr.themes.Base(primary_hue="blue", neutral_hue="slate", radius_size="md", font=sans, font_mono=mono)
    # white text on this color has enough contrast, 5.2 to 1
    return base.set(button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700")


def build(page: Page) -> Any:
    """Lay the page out, and return gradio's `Blocks`."""
    gr = page.gr
    with gr.Blocks(title="genaug explore", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(html.header())
        message = gr.HTML("", elem_id="ga-message")
        address = gr.Textbox(visible=False)
        with gr.Row(elem_id="ga-main"):
            with gr.Column(scale=3, min_width=0, elem_id="ga-pictures"):
                with gr.Tabs(selected=page.view.tab, overflow_behavior="wrap") as page.groups["tabs"]:
                    tabs = {}
                    for tab, name in TABS.items():
                        with gr.Tab(name, id=tab) as tabs[tab]:
                            page.pictures[tab] = gr.HTML("", elem_id=f"{tab}-picture")
                page.groups["walk tab"] = tabs["walk"]
            with gr.Column(scale=2, min_width=0, elem_id="ga-panel") as page.groups["panel"]:
                shuffle, reset = _panel(page)
            with gr.Column(elem_id="ga-code") as page.groups["code"]:
                page.pictures["code"] = gr.HTML("")
        _start(page)
        inputs, pictures = list(page.controls.values()), [message, *page.pictures.values()]
        outputs = [*pictures, *inputs, *page.groups.values()]
        special = {"generator", "tab", "tie"}
        moved = [control.input for name, control in page.controls.items() if name not in special]
        gr.on(moved, page.moved, inputs, pictures, **_LATEST)
        page.controls["tie"].input(page.tied, inputs, outputs, **_LATEST)
        generator = page.controls["generator"]
        generator.input(page.chosen, [generator, page.controls["tab"]], outputs, **_LATEST)
        for tab, component in tabs.items():
            component.select(page.opened(tab), inputs, outputs, **_LATEST)
        shuffle.click(page.shuffled, inputs, outputs, **_LATEST)
        reset.click(page.reset, inputs, outputs, **_LATEST)

        # the browser has to pass the page's address, since the server sees only requests for data
        loaded = blocks.load(page.linked, address, outputs, js="() => window.genaug.linked()", **_LATEST)
        loaded.then(None, None, None, js="() => window.genaug.opened()")
    return blocks


def _panel(page: Page) -> tuple[Any, Any]:
    """Create the controls of all generators. Those that do not apply are hidden."""
    gr, controls, groups = page.gr, page.controls, page.groups
    names = [(name.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1], name) for name in page.studio.sources.names]
    controls["generator"] = gr.Dropdown(names, label="Generator")
    controls["tab"] = gr.Textbox(visible=False)
    with gr.Row():
        shuffle = gr.Button("Shuffle", variant="primary", min_width=100)
        reset = gr.Button("Reset", min_width=100)
    with gr.Column(elem_classes="ga-group") as groups["grid"]:
        controls["count"] = gr.Slider(1, MOST_SAMPLES, step=1, label="Number of samples", buttons=[])
        controls["first"] = gr.Number(label="First sample", precision=0, minimum=0, maximum=MOST_FIRST)
    with gr.Column(elem_classes="ga-group") as groups["factors"]:
        for name in FACTORS:
            _choice(page, name, name.capitalize())
        controls["tie"] = gr.Dropdown(_TIES, label="Tie", info="Tied factors share class and draw.")
        controls["blend"] = gr.Dropdown([("All, drawn at random", ANY_BLEND), *BLENDS], label="Blend")
        controls["placement"] = gr.Slider(
            0, 1, step=0.05, label="Placement", info="How far objects move, 0 to 1.", buttons=[]
        )
    with gr.Column(elem_classes="ga-group") as groups["subject"]:
        _choice(page, "subject", "Subject")
        for i in range(COMPONENTS):
            controls[f"move {i}"] = gr.Slider(-REACH, REACH, step=0.1, label=f"Direction {i + 1}", buttons=[])
        for i in range(page.nuisances):
            controls[f"do {i}"] = gr.Dropdown([("As drawn", AS_DRAWN)], label="Nuisance")
        controls["walk"] = gr.Dropdown([("None", "0")], label="Walk along")
    controls["truncation"] = gr.Slider(
        0.05, 1, step=0.05, label="Truncation", info="Lower: less variety, more typical images.", buttons=[]
    )
    controls["seed"] = gr.Number(label="Seed", precision=0, minimum=0, maximum=MOST_SEED)
    return shuffle, reset


def _choice(page: Page, name: str, title: str) -> None:
    """Create the controls of a factor: class, draw and lock."""
    gr, controls = page.gr, page.controls
    with gr.Group(elem_classes="ga-choice"):
        controls[f"{name} class"] = gr.Dropdown([("Any", ANY)], label=f"{title} class", min_width=110)
        controls[f"{name} draw"] = gr.Slider(0, DRAWS - 1, step=1, label=f"{title} draw", buttons=[])
        controls[f"{name} lock"] = gr.Checkbox(label=f"Lock {title.lower()}")


def _start(page: Page) -> None:
    """Give every control and picture its first state, so that the page shows a picture as soon as it loads."""
    for known, settings in ((page.controls, page.settings_of(page.view)), (page.groups, page.groups_of(page.view))):
        for name, values in settings.items():
            for key, value in values.items():
                setattr(known[name], key, _choices(value) if key == "choices" else value)
    for name, text in page.shown(page.view).items():
        page.pictures[name].value = text


def _choices(choices: list[Any]) -> list[tuple[str, str]]:
    return [choice if isinstance(choice, tuple) else (choice, choice) for choice in choices]
