"""Train a CIFAR network with its paper's recipe: the same as `python -m resnet_cuda train`.

He et al. 2015, sec. 4.2: python examples/train_cifar10.py --data cifar-10-batches-py --model cifar_resnet56
"""

from __future__ import annotations

import sys

from resnet_cuda.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
