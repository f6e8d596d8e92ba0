"""Runs a compiler command and fails where ptxas only advises: strict_ptxas.py nvcc ...

That wgmma instructions are serialised (C7510 and its neighbours) is an "info" to ptxas, which no option
turns into an error.
"""

from __future__ import annotations

import re
import subprocess
import sys

ADVICE = re.compile(r"^ptxas info\s*: \(C\d+\)", flags=re.M)


def main() -> int:
    done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    sys.stdout.write(done.stdout)
    if done.returncode == 0 and ADVICE.search(done.stdout):
        print("error: ptxas advises against this code (above), and this build takes its advice")
        return 1
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
