"""How far are the files of the small students of tests/zoo from their modules, on every format of a target, and what stays in float?

    python benchmarks/zoo.py [--target NAME ...] [--family TEXT] [--write docs/zoo.md]

The students of tests/zoo: convolutions, norms and activations, shared and computed weights, attention, writes and views. Each is
captured, quantized, written and run in onnxruntime as a build does it; a format is what targets with one scheme and one opset share.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from edgekd.errors import EdgekdError
from edgekd.runtime.runners import machine, versions
from edgekd.target import load_target
from tests.zoo import FAMILIES
from tests.zoo.ship import SAMPLES, Shipped, formats, ship

HEAD = """# What becomes of {count} small students

`python benchmarks/zoo.py --write docs/zoo.md` writes this page. {machine};
{versions}; {date}. The weights are random; {samples} smooth random images of 16 x 16 calibrate by
`mse` and are compared; nothing is refined or trained. So the figures are what quantization itself does.

A cell is the difference between the int8 file's answers in onnxruntime and the module's in torch: its root mean square over that
of the answers. Then the share of all values that operators in float compute. The fp32 files are at most {fp32:.0e} apart. Above 3 %
are roots on `android-arm64`, a graph of integers throughout: values near 0 share few of 256 steps, and a root is steep there.
The same students are tests: `tests/zoo/test_zoo.py`. Targets that share int8 scheme and opset are one column:

{formats}
"""


def rows(names: list[str], targets: list[str], made: dict[tuple[str, str], Shipped | str]) -> Iterator[str]:
    yield f"| | {' | '.join(targets)} |"
    yield "|---" * (len(targets) + 1) + "|"
    for name in names:
        yield f"| {name} | {' | '.join(cell(made[name, target]) for target in targets)} |"


def cell(found: Shipped | str) -> str:
    if isinstance(found, str):
        return found
    share = sum(operator.share for operator in found.in_float)
    return f"{found.int8:.2%}" + (f", {share:.0%} in float" if share >= 0.005 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", help="the target that names a format; without one all formats")
    parser.add_argument("--family", default="", help="part of a family's name")
    parser.add_argument("--write", type=Path, help="the page")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known = formats()
    targets = given.target or list(known)
    families = {name: list(students) for name, students in FAMILIES.items() if given.family in name}
    made: dict[tuple[str, str], Shipped | str] = {}
    for family, names in families.items():
        for name in names:
            for target in targets:
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        made[name, target] = ship(FAMILIES[family][name], load_target(target), Path(folder))
                    except EdgekdError as error:
                        made[name, target] = f"refused: {error}"
            print("\n".join(list(rows([name], targets, made))[2:]), file=sys.stderr, flush=True)
    shipped = [found for found in made.values() if isinstance(found, Shipped)]
    by_format = "\n".join(f"- `{first}`: {', '.join(f'`{name}`' for name in alike)}" for first, alike in known.items())
    used = ", ".join(
        f"{name} {version}" for name, version in versions().items() if name in ("torch", "torchao", "onnxruntime")
    )
    page = HEAD.format(
        count=sum(map(len, families.values())),
        samples=SAMPLES,
        machine=machine().rpartition(", ")[0],
        versions=used,
        date=datetime.now(UTC).date(),
        fp32=max((found.fp32 for found in shipped), default=0.0),
        formats=by_format,
    )
    for family, names in families.items():
        page += "\n".join(["", f"## {family.capitalize()}", "", *rows(names, targets, made), ""])
    reasons = sorted({f"`{operator.operator}`: {operator.why}" for found in shipped for operator in found.in_float})
    page += "\n".join(["", "## What stays in float, and why", "", *(f"- {reason}" for reason in reasons), ""])
    if given.write:
        given.write.write_text(page)
    else:
        print(page)


if __name__ == "__main__":
    main()
