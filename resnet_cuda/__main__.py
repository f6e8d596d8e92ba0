"""`python -m resnet_cuda`: see `resnet_cuda.cli`."""

from __future__ import annotations

import sys

from resnet_cuda.cli import main

if __name__ == "__main__":
    sys.exit(main())
