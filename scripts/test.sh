#!/bin/bash
# scripts/test.sh static|cpp|python|guard|overhead ...: runs groups of checks with the Python in $PYTHON, all of them
# even when one fails, and ends with one line that says which failed. PYTEST_ARGS replaces pytest's arguments.
cd "$(dirname "$0")/.." || exit 1
export PATH="$PWD/$(dirname "$PYTHON"):$PATH"
failed=()
passed=()

run() {
  local name=$1 start=$SECONDS
  shift
  echo "=== $name: $*"
  if "$@"; then passed+=("$name $((SECONDS - start)) s"); else failed+=("$name"); fi
}

cpp_sources() { find csrc tests -name '*.h' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.cu'; }
clang_format() { cpp_sources | xargs clang-format --dry-run -Werror; }

for group in "$@"; do
  case $group in
    static)
      run ruff ruff check .
      run ruff-format ruff format --check .
      run clang-format clang_format
      run mypy mypy
      run mypy-examples mypy examples
      ;;
    cpp)
      build=build/cmake-$("$PYTHON" -c 'import sys; print(sys.implementation.cache_tag)')
      run ctest ctest --test-dir "$build" --output-on-failure --no-tests=error
      ;;
    python)
      # One torch thread in each worker: the workers already fill the machine.
      # shellcheck disable=SC2086
      OMP_NUM_THREADS=1 run pytest "$PYTHON" -m pytest ${PYTEST_ARGS:--n auto -q}
      ;;
    guard)
      # Behind pytest, not beside it: it times two things in turn.
      run guard "$PYTHON" -m benchmarks.guard
      ;;
    overhead)
      # Nor beside anything else: it times calls of microseconds.
      run overhead "$PYTHON" -m benchmarks.overhead
      ;;
    *)
      echo "unknown group '$group', expected static, cpp, python, guard or overhead" >&2
      exit 2
      ;;
  esac
done

(IFS=,; echo "passed: ${passed[*]:-none}")
if ((${#failed[@]})); then
  (IFS=,; echo "FAILED: ${failed[*]}")
  exit 1
fi
