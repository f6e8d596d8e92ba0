"""Train a CIFAR network with its paper's recipe: the same as `python -m resnet_cuda train`.

He et al. 2015, sec. 4.2: python examples/train_cifar10.py --data cifar-10-batches-bin --model cifar_resnet56
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from resnet_cuda import cli


def main(argv: Sequence[str] | None = None) -> int:
    return cli.main(["train", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
