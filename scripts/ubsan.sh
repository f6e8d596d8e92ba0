#!/bin/bash
# scripts/ubsan.sh [pytest's arguments]: builds the bindings, the host module and the emulated kernels with
# -fsanitize=undefined (cmake/RncHardening.cmake) and runs a selection of tests with them, with the Python in $PYTHON. Undefined
# behaviour ends the process, with a report. Instrumented code fuses fewer multiplications with additions, so a test that judges
# rounding may be off by a hair: what counts here is that no process ends. Not part of CI: the build alone takes as long as everything else.
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-.venv/bin/python}
build=build/ubsan
package=$build/package/resnet_cuda
set -e
cmake -S . -B $build -G Ninja -DRNC_SANITIZE=undefined -DRNC_CUDA=OFF -DRNC_TESTS=OFF -DPython_EXECUTABLE="$(command -v "$PYTHON")"
ninja -C $build ${MAX_JOBS:+-j "$MAX_JOBS"} _C _host rnc_emulated rnc_emulated_checked
# A package of its own, with these libraries.
rm -rf $package
mkdir -p $package
cp -r resnet_cuda/. $package
cp $build/_C*.so $build/_host*.so $build/cmake/emulated/*.so $package
for library in librnc_emulated.so librnc_emulated_checked.so; do
  readelf -d $package/$library | grep -q ubsan
done
tests=("$@")
if ((${#tests[@]} == 0)); then
  tests=(tests/kernels/test_conv_kernels.py tests/kernels/test_gathered_kernels.py tests/kernels/test_hopper_kernels.py
         tests/kernels/test_batch_norm_kernels.py tests/kernels/test_depthwise_kernels.py tests/kernels/test_grouped_kernels.py
         tests/kernels/test_closed_form_kernels.py tests/kernels/test_closed_form_matrices.py
         tests/kernels/test_elementwise_and_pool_kernels.py
         tests/kernels/test_kernels_under_the_emulator.py tests/kernels/test_stem_kernels.py
         tests/kernels/test_bottleneck_block_kernels.py tests/kernels/test_expand_reduce_kernels.py
         tests/kernels/test_tf32_kernels.py tests/bindings tests/fuzz)
fi
export OMP_NUM_THREADS=1 UBSAN_OPTIONS=print_stacktrace=1
# pytest puts the checkout in front of all paths: the package is imported before.
exec "$PYTHON" -c '
import sys
sys.path.insert(0, sys.argv[1])
import resnet_cuda, pytest
assert resnet_cuda.__file__.startswith(sys.argv[1]), resnet_cuda.__file__
sys.exit(pytest.main(["-q", *sys.argv[2:]]))' "$PWD/$build/package" "${tests[@]}"
