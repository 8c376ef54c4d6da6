"""Commands that reproduce tables and figures of the papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from genaug._common.names import COLORED_VARIANTS, MNIST_VARIANTS
from genaug.cli.options import (
    DATA,
    DATA_PANEL,
    OPTIMIZATION,
    SEED,
    SEEDS,
    Accumulate,
    ArithmeticType,
    As,
    AtOnce,
    Device,
    Digits,
    Download,
    Dtype,
    Measured,
    MnistVariants,
    NoInception,
    Root,
    Seeds,
    Steps,
    Textures,
    Tiny,
    cgn_changes,
    integers,
    need_mnist,
    reproduce,
    split,
)
from genaug.papers import RECIPES, Recipe

# defaults of lists
ALL_VARIANTS, ALL_COLORED = list(MNIST_VARIANTS), list(COLORED_VARIANTS)
TABLE1_ROWS = ["all,without-shape,without-text,without-bg,without-rec,biggan"]
TABLE2_ROWS = ["original,cgn"]
FIGURE7_NUMBERS, FIGURE7_PER_NOISE = ["10000,100000,1000000"], ["1,5,10,20"]


@reproduce.command("list", epilog="Example: genaug reproduce list")
def reproduce_list() -> None:
    """List every table and figure of both papers: command, requirements, cost, the paper's figures and ours."""
    import shutil
    import textwrap

    from genaug.papers import measured

    columns = shutil.get_terminal_size((1000, 24)).columns  # in a file or a pipe no line is broken
    found = measured()
    for name, recipe in RECIPES.items():
        ours = found.get(name, {})
        lines = {
            "": recipe.what,
            "command": recipe.command,
            "then": recipe.then,
            "small-scale": f"genaug reproduce {name} --small-scale" if recipe.small_scale else "",
            "missing": recipe.missing,
            "needs": recipe.needs if recipe.command or recipe.small_scale else "",
            "cost": recipe.cost if recipe.command or recipe.small_scale else "",
            "paper": recipe.paper,
            "ours": ours.get("full", "not run"),
            "ours (small)": ours.get("small_scale", "not run") if recipe.small_scale else "",
        }
        for field, text in lines.items():
            if text:
                head = f"  {field:<14}" if field else f"{name}: "
                options: Any = {"break_on_hyphens": False, "break_long_words": False}
                typer.echo(textwrap.fill(head + text, columns, subsequent_indent=" " * 16, **options))
        typer.echo()


@reproduce.command(
    "cgn-table1", epilog="Example: genaug reproduce cgn-table1 --tiny --as released --out runs/cgn-table1"
)
def reproduce_cgn_table1(
    rows: Annotated[list[str], typer.Option(help="Comma-separated rows.", rich_help_panel=DATA_PANEL)] = TABLE1_ROWS,
    as_: As = "paper",
    tiny: Tiny = False,
    seeds: Seeds = SEED,
    steps: Steps = None,
    batch_size: AtOnce = None,
    accumulate: Accumulate = None,
    measured: Measured = None,
    no_inception: NoInception = False,
    out: Annotated[Path, typer.Option(help="Folder for results.json and one folder per row.")] = Path(
        "runs/cgn-table1"
    ),
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.float32,
) -> None:
    """CGN, Table 1: loss ablation of the CGN on ImageNet. Run the command again to resume."""
    chosen = integers(seeds, "--seeds") or ()
    from genaug.papers import cgn_table1

    cgn_table1.run(
        out,
        rows=split(rows, "--rows"),
        seeds=chosen,
        as_=as_,
        tiny=tiny,
        changes=cgn_changes(steps, batch_size, accumulate, measured, no_inception, dtype, device),
        device=device,
    )


@reproduce.command(
    "cgn-table2", epilog="Example: genaug reproduce cgn-table2 --variant colored --root data --seeds 0,1,2"
)
def reproduce_cgn_table2(
    rows: Annotated[
        list[str],
        typer.Option(
            help="Comma-separated rows: original, gan, irm-2, irm-5, lntl, cgn, mixed, best, best-original, or all.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = TABLE2_ROWS,
    variant: MnistVariants = ALL_VARIANTS,
    root: Root = DATA,
    textures: Textures = None,
    seeds: Seeds = SEED,
    num: Annotated[int, typer.Option(help="Number of training counterfactuals.", rich_help_panel=DATA_PANEL)] = 100_000,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Weights of the generator: a .safetensors file (default: the embedded weights).",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    pool: Annotated[
        int | None,
        typer.Option(help="Recombine a pool of this many masks, textures and backgrounds.", rich_help_panel=DATA_PANEL),
    ] = None,
    unclipped: Annotated[
        bool,
        typer.Option(
            "--unclipped",
            help="Use double-colored digits as the released code has them: colors are not clipped to 8 bits.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for results.json.")] = Path("runs/cgn-table2"),
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.auto,
    download: Download = False,
) -> None:
    """CGN, Table 2: accuracy on digits whose color and texture no longer predict the class."""
    chosen_seeds = integers(seeds, "--seeds") or ()
    if set(split(variant, "--variant")) <= set(MNIST_VARIANTS):
        need_mnist(root, download)
    from genaug.papers import cgn_table2

    cgn_table2.run(
        out,
        rows=split(rows, "--rows"),
        variants=split(variant, "--variant"),
        root=root,
        textures=textures,
        seeds=chosen_seeds,
        num_counterfactuals=num,
        checkpoint=checkpoint,
        pool=pool,
        clip=not unclipped,
        download=download,
        device=device,
        dtype=dtype.of_torch(device),
    )


@reproduce.command(
    "cgn-table5", epilog="Example: genaug reproduce cgn-table5 --root data --seeds 0,1,2 --out runs/cgn-table5"
)
def reproduce_cgn_table5(
    root: Root = DATA,
    seeds: Seeds = SEED,
    num: Annotated[int, typer.Option(help="Number of training counterfactuals.", rich_help_panel=DATA_PANEL)] = 30_000,
    out: Annotated[Path, typer.Option(help="Folder for results.json and the figure.")] = Path("runs/cgn-table5"),
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.auto,
    download: Download = False,
) -> None:
    """CGN, Table 5: which signal of double-colored MNIST is stable across environments."""
    chosen = integers(seeds, "--seeds") or ()
    need_mnist(root, download)
    from genaug.papers import cgn_table5

    cgn_table5.run(
        out,
        root=root,
        seeds=chosen,
        num_counterfactuals=num,
        download=download,
        device=device,
        dtype=dtype.of_torch(device),
    )


@reproduce.command("cgn-figure6", epilog="Example: genaug reproduce cgn-figure6 --root data --out runs/cgn-figure6")
def reproduce_cgn_figure6(
    root: Root = DATA,
    seeds: Seeds = SEED,
    out: Annotated[Path, typer.Option(help="Folder for results.json, weights and the figure.")] = Path(
        "runs/cgn-figure6"
    ),
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.auto,
    download: Download = False,
) -> None:
    """CGN, Figure 6: latent space of a beta-VAE on colored MNIST, and how much it mixes color and shape."""
    chosen = integers(seeds, "--seeds") or ()
    need_mnist(root, download)
    from genaug.papers import cgn_figure6

    cgn_figure6.run(out, root=root, seeds=chosen, download=download, device=device, dtype=dtype.of_torch(device))


@reproduce.command(
    "cgn-figure7", epilog="Example: genaug reproduce cgn-figure7 --variant colored --numbers 10000,100000 --root data"
)
def reproduce_cgn_figure7(
    variant: MnistVariants = ALL_VARIANTS,
    numbers: Annotated[
        list[str],
        typer.Option(help="Comma-separated numbers of training counterfactuals.", rich_help_panel=DATA_PANEL),
    ] = FIGURE7_NUMBERS,
    per_noise: Annotated[
        list[str],
        typer.Option(
            help="Comma-separated numbers of counterfactuals per shape noise (colored: at most 10).",
            rich_help_panel=DATA_PANEL,
        ),
    ] = FIGURE7_PER_NOISE,
    root: Root = DATA,
    textures: Textures = None,
    seeds: Seeds = SEED,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs for each dataset; the paper uses 10 (default: the same number of steps for all).",
            rich_help_panel=OPTIMIZATION,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for results.json and the figure.")] = Path("runs/cgn-figure7"),
    device: Device = "cpu",
    dtype: ArithmeticType = Dtype.auto,
    download: Download = False,
) -> None:
    """CGN, Figure 7: test accuracy over the number of counterfactuals, and over their number per shape noise."""
    counts, ratios = integers(numbers, "--numbers") or (), integers(per_noise, "--per-noise") or ()
    chosen = integers(seeds, "--seeds") or ()
    if set(split(variant, "--variant")) <= set(MNIST_VARIANTS):
        need_mnist(root, download)
    from genaug.papers import cgn_figure7

    cgn_figure7.run(
        out,
        variants=split(variant, "--variant"),
        numbers=counts,
        per_noise=ratios,
        root=root,
        textures=textures,
        seeds=chosen,
        epochs=epochs,
        download=download,
        device=device,
        dtype=dtype.of_torch(device),
    )


@reproduce.command(
    "genint-colored-mnist", epilog="Example: genaug reproduce genint-colored-mnist --root data --seeds 0,1,2"
)
def reproduce_genint_colored_mnist(
    variant: Annotated[
        list[str],
        typer.Option(help=f"Comma-separated datasets: {', '.join(COLORED_VARIANTS)}.", rich_help_panel=DATA_PANEL),
    ] = ALL_COLORED,
    rows: Annotated[
        list[str] | None,
        typer.Option(
            help="Comma-separated rows: real, irm, irm-released, grey, vae, vae-intervened, real+vae, gan, "
            "gan-intervened, real+gan (default: all).",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    digits: Annotated[
        Digits, typer.Option(help="Source of the digits. scikit-learn's need no download.", rich_help_panel=DATA_PANEL)
    ] = Digits.mnist,
    root: Root = DATA,
    seeds: Seeds = SEED,
    out: Annotated[Path, typer.Option(help="Folder for results.json, generators and figures.")] = Path(
        "runs/genint-colored-mnist"
    ),
    download: Download = False,
) -> None:
    """GenInt's colored digits: interventions on a conditional VAE and GAN, compared with IRM."""
    chosen_seeds = integers(seeds, "--seeds") or ()
    chosen = {} if not rows else {"rows": split(rows, "--rows")}
    if digits == Digits.mnist:
        need_mnist(root, download)
    from genaug.papers import genint_colored_mnist

    genint_colored_mnist.run(
        out,
        variants=split(variant, "--variant"),
        root=root,
        digits=digits.value,
        seeds=chosen_seeds,
        download=download,
        **chosen,
    )


def _add_recipe(name: str, recipe: Recipe) -> None:
    """Add the command of a recipe: its small-scale reproduction, or else an error that says what to run instead."""

    @reproduce.command(
        name,
        help=f"{recipe.what}.",
        epilog=f"Example: genaug reproduce {name} --small-scale --out runs/{name}",
        hidden=not recipe.small_scale,
    )
    def reproduce_small_scale(
        small_scale: Annotated[
            bool, typer.Option("--small-scale", help="Run the small-scale reproduction on scikit-learn's digits.")
        ] = False,
        twin: Annotated[bool, typer.Option("--twin", hidden=True)] = False,
        seeds: Seeds = SEEDS,
        out: Annotated[Path, typer.Option(help="Folder for results.json and the figure.")] = Path("runs", name),
    ) -> None:
        if twin:  # the name of this option in earlier versions; to be removed after one release
            typer.echo("--twin is now --small-scale", err=True)
        if not ((small_scale or twin) and recipe.small_scale):
            small = f"genaug reproduce {name} --small-scale"
            commands = [small] if recipe.small_scale else []
            commands += [recipe.command] if recipe.command else []
            why = f"is not fully implemented (missing: {recipe.missing})" if recipe.missing else "is not a command"
            run = f"Run {', or '.join(commands)}" if commands else "See genaug reproduce list"
            raise ValueError(f"{name} {why}. {run}")
        chosen = integers(seeds, "--seeds") or ()
        import importlib

        importlib.import_module(f"genaug.papers.{name.replace('-', '_')}").SMALL_SCALE.run(out, chosen)


_WITH_COMMANDS = {command.name for command in reproduce.registered_commands}
for _name, _recipe in RECIPES.items():
    if _name not in _WITH_COMMANDS:
        _add_recipe(_name, _recipe)
