"""Where the time of a training step goes: products, attention, element-wise work, optimizer.

    python -m bench.step_profile [--work FOLDER] [--workloads pairs groups text] [--steps 3]

Forward and backward passes of tree rows, four responses each, under torch's profiler, after two that are not counted.
The time of an operator is what it spends itself on the processor, so the shares add up to one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from basereward.data.encoding.encoder import EncodedGroup
from bench.step import Bench
from bench.timing import quiet_stdout

RESPONSES = 4
WARM_UP = 2
RANK = 8
"""Of the adapters in `bench/recipe.yaml`: a product with such an axis belongs to an adapter."""
KINDS = ("products of weights", "products of adapters", "attention", "element-wise and copies", "rest")
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm")
ELEMENT_WISE = (
    "add", "add_", "sub", "mul", "mul_", "div", "neg", "cat", "copy_", "fill_", "zero_", "clone", "sum", "mean",
    "where", "silu", "silu_backward", "gelu", "gelu_backward", "pow", "rsqrt", "addcmul_", "index", "index_select",
    "embedding",
)  # fmt: skip


def kind_of(name: str, shapes: Iterable[Any]) -> str:
    """The kind of an operator.

    Args:
        name: of torch's profiler.
        shapes: of its inputs.

    >>> kind_of("aten::mm", [[1806, 512], [512, 2048]]), kind_of("aten::mm", [[1806, 512], [512, 8]])
    ('products of weights', 'products of adapters')
    >>> kind_of("aten::_scaled_dot_product_flash_attention_for_cpu", []), kind_of("aten::mul", [])
    ('attention', 'element-wise and copies')
    """
    if "attention" in name or "Attention" in name:
        return "attention"
    if name in PRODUCTS:
        inner = any(RANK in shape for shape in shapes if isinstance(shape, list | tuple))
        return "products of adapters" if inner else "products of weights"
    # Norms are functions of our own, whose Python parts are counted with their operators.
    if name.removeprefix("aten::") in ELEMENT_WISE or "RmsNorm" in name:
        return "element-wise and copies"
    return "rest"


def profile_steps(bench: Bench, groups: list[list[EncodedGroup]]) -> Counter[str]:
    """Microseconds by kind, of a forward and backward pass over each list of groups."""
    from torch.profiler import ProfilerActivity, profile

    for batch in groups[:WARM_UP]:
        bench.step(bench.batch(batch))
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for batch in groups[WARM_UP:]:
            bench.step(bench.batch(batch))
    spent: Counter[str] = Counter()
    for event in profiler.key_averages(group_by_input_shape=True):
        spent[kind_of(event.key, event.input_shapes)] += event.self_cpu_time_total
    return spent


def main() -> None:
    """Print a table of shares by workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of rows and checkpoints; a temporary one by default")
    parser.add_argument(
        "--workloads", nargs="+", choices=("pairs", "groups", "text"), default=["pairs", "groups", "text"]
    )
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows = []
        for workload in args.workloads:
            with quiet_stdout():
                bench = Bench(args.work or Path(temporary), workload)
                per_step = RESPONSES // (4 if workload == "groups" else 2)
                encoded = bench.groups()
                batches = [list(islice(encoded, per_step)) for _ in range(WARM_UP + args.steps)]
                spent = profile_steps(bench, batches)
            whole = spent.total()
            shares = [f"{spent[kind] / whole:.2f}" for kind in KINDS]
            rows.append([workload, *shares, f"{whole / 1e6 / args.steps:.2f}"])
    for row in (["share of the time", *KINDS, "seconds of a step"], ["---"] * (len(KINDS) + 2), *rows):
        print("|", " | ".join(row), "|")


if __name__ == "__main__":
    main()
