"""Time and memory of loading BigGAN-deep-256 the first time and later: random weights of the real size, a local server.

    python benchmarks/loading.py --rounds 3

Each load is a process of its own. The first downloads from a server on this machine, checks and converts; the later
ones map the converted file. Memory is the peak of the resident set less that before the load, over the size of the
converted file; the later loads then read every tensor once. Times are wall-clock medians of the rounds and their range.
"""

import argparse
import csv
import functools
import http.server
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch

from genaug._common.records import processor
from genaug.assets.layouts import shapes_of
from genaug.generators.biggan import BIGGAN_CONFIGS

FILE = "biggan-deep-256-pytorch_model.bin"
CODE = """
import json, sys, time
import torch
from dataclasses import replace
from genaug.assets import ASSETS, download, load_asset
import genaug.generators.biggan
import genaug.assets.fetch, safetensors.torch
torch.set_num_threads(1)
url = sys.argv[1]
download.address_of = lambda _: url
ASSETS["biggan-deep-256"] = replace(ASSETS["biggan-deep-256"], sha256=None)
def peak():  # of this process since the last reset, in bytes
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
open("/proc/self/clear_refs", "w").write("5")
before, begin, cpu = peak(), time.perf_counter(), time.process_time()
state, _ = load_asset("biggan-deep-256")
loaded, used, mapped = time.perf_counter() - begin, time.process_time() - cpu, peak() - before
total = sum(float(value.sum()) for value in state.values())
print(json.dumps({"seconds": loaded, "cpu_seconds": used, "peak_loaded": mapped, "peak_read": peak() - before}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        draws = torch.Generator().manual_seed(0)
        shapes = shapes_of("biggan-deep", json.dumps(BIGGAN_CONFIGS[256]))
        torch.save({n: torch.randn(s, generator=draws) * 0.02 for n, s in shapes.items()}, Path(folder, FILE))
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
        handler.func.log_message = lambda *_: None
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, runs = f"http://127.0.0.1:{server.server_port}/{FILE}", {"first": [], "later": []}
        for i in range(arguments.rounds):
            cache = Path(folder, f"cache-{i}")
            for way in runs:
                environment = {**os.environ, "GENAUG_CACHE": str(cache), "HF_HUB_OFFLINE": "0"}
                out = subprocess.run(
                    [sys.executable, "-c", CODE, url], env=environment, capture_output=True, text=True, check=True
                ).stdout
                runs[way].append(json.loads(out))
                print(way, out.strip(), flush=True)
            weights = next(cache.rglob("weights.safetensors"))
            size = weights.stat().st_size
            weights.unlink()
        server.shutdown()
    path = arguments.out / f"loading-biggan-256-cpu1-torch{torch.__version__.partition('+')[0]}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("load", "measure", "median", "lowest", "highest", "n", "file_bytes", "cpu", "torch"))
        for way, rows in runs.items():
            for measure in rows[0]:
                values = [row[measure] / (size if measure.startswith("peak") else 1) for row in rows]
                figures = (f"{v:.4g}" for v in (statistics.median(values), min(values), max(values)))
                name = measure + ("_over_file_size" if measure.startswith("peak") else "")
                writer.writerow((way, name, *figures, len(values), size, processor(), torch.__version__))
    print(path.read_text())


if __name__ == "__main__":
    main()
