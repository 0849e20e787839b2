#!/usr/bin/env bash
# Builds the libamdhip64.so of the tests: kernels/*.hip for the CPU, for both wave sizes, with the
# harness in tests/hip_host. Prints the folder of the library. Rebuilds what changed.
#
#     scripts/hip_host.sh [--checked]     # checked: every memory access is looked at, some 20 times slower
set -euo pipefail
cd "$(dirname "$0")/.."

clang=${NOVASTACK_HOST_CLANG:-clang++-19}
out=${CARGO_TARGET_DIR:-target}/hip_host/plain
flags=(-std=c++20 -O2 -fPIC -Wall -Wextra -Werror -Wno-unused-function)
kernel_flags=(-x c++ -mf16c -mfma -DNOVA_HOST -Ikernels -Itests/hip_host)
if [ "${1:-}" = --checked ]; then
  out=${CARGO_TARGET_DIR:-target}/hip_host/checked
  flags+=(-DCHECKED)
  # The hooks of this sanitizer are answered by harness.cpp; its own runtime is not linked.
  kernel_flags+=(-fsanitize=thread -mllvm -tsan-instrument-func-entry-exit=0 -mllvm -tsan-instrument-atomics=0)
fi
mkdir -p "$out"

exec 9>"$out/.lock"
flock 9
newest_header=$(ls -t kernels/*.h kernels/port/*.h tests/hip_host/*.h "$0" | head -1)
stale() { [ ! -e "$1" ] || [ "$2" -nt "$1" ] || [ "$newest_header" -nt "$1" ]; }

commands=()
for source in tests/hip_host/*.cpp; do
  object=$out/$(basename "$source" .cpp).o
  if stale "$object" "$source"; then
    commands+=("$clang ${flags[*]} -c $source -o $object.new && mv $object.new $object")
  fi
done
for source in kernels/*.hip; do
  for wave in 32 64; do
    object=$out/$(basename "$source" .hip).$wave.o
    if stale "$object" "$source"; then
      commands+=("$clang ${flags[*]} ${kernel_flags[*]} -DWAVE=$wave -DLDS_SECTION=lds_$(basename "$source" .hip)_$wave -c $source -o $object.new && mv $object.new $object")
    fi
  done
done
library=$out/libamdhip64.so
if [ ${#commands[@]} -gt 0 ] || [ ! -e "$library" ]; then
  if [ ${#commands[@]} -gt 0 ]; then
    printf '%s\0' "${commands[@]}" | xargs -0 -n 1 -P "$(nproc)" bash -c >&2
  fi
  # Only what is still there in the sources.
  objects=()
  for source in tests/hip_host/*.cpp; do objects+=("$out/$(basename "$source" .cpp).o"); done
  for source in kernels/*.hip; do
    for wave in 32 64; do objects+=("$out/$(basename "$source" .hip).$wave.o"); done
  done
  "$clang" -shared -Wl,-soname,libamdhip64.so -o "$library.new" "${objects[@]}"
  mv "$library.new" "$library"
fi
(cd "$out" && pwd)
