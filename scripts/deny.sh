#!/usr/bin/env bash
# Licences, sources and known vulnerabilities of everything that is linked into the program (deny.toml).
# The vulnerabilities come from a database on GitHub; where that cannot be reached they are skipped, visibly.
# cargo-deny is built into target/ when it is missing, which takes a minute.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
root=$PWD/target/cargo-deny
deny=$root/bin/cargo-deny
if [ "$("$deny" --version 2>/dev/null)" != "cargo-deny $version" ]; then
  # Not optimised: it runs for a second.
  CARGO_TARGET_DIR=$root/target cargo install cargo-deny --version "$version" --locked --debug --quiet --root "$root"
  rm -rf "$root/target"
fi
"$deny" check bans licenses sources
if timeout 60 "$deny" fetch db >/dev/null 2>&1; then
  "$deny" check --disable-fetch advisories
else
  echo "SKIPPED: known vulnerabilities (the database of RustSec cannot be reached from here)"
fi
