#!/usr/bin/env bash
# Everything that is to be known about NovaStack on a GPU, in one command: the devices, every kernel against the
# CPU, tiny checkpoints end to end, each operation's speed, and whole models with dummy weights. Needs the program
# and the goldens (scripts/gpu_bundle.sh packs both with this script), bash and coreutils: no Rust, compiler, Python
# or network. Goes on after a failure; ends with status 1 if anything failed.
#
#     gpu_check.sh OUT_DIR [--binary PATH] [--device DEVICE] [--goldens FOLDER] [--quick]
#
# writes OUT_DIR/gpu_check.md, and OUT_DIR/gpu_check.log with what the commands said on stderr.
#   --binary   default: novastack beside this script, else target/release/novastack
#   --device   hip:0, cuda:0, cpu; default: the first GPU that `novastack devices` finds kernels for
#   --goldens  default: goldens beside this script, else tests/goldens
#   --quick    tiny sizes: checks that everything runs, also where a CPU stands in for the GPU
set -uo pipefail

usage() {
  sed -n '2,/^set /{/^# \{0,1\}/!d;s///;p}' "$0" >&2
  exit 2
}

here=$(cd "$(dirname "$0")" && pwd)
first() { for path in "$@"; do [ -e "$path" ] && echo "$path" && return; done; }
out= binary= device= goldens= quick=
while [ $# -gt 0 ]; do
  case $1 in
    --binary | --device | --goldens)
      [ $# -ge 2 ] || usage
      declare "${1#--}=$2"
      shift
      ;;
    --quick) quick=1 ;;
    -*) usage ;;
    *) [ -z "$out" ] || usage; out=$1 ;;
  esac
  shift
done
[ -n "$out" ] || usage
binary=${binary:-$(first "$here/novastack" "$here/../target/release/novastack")}
goldens=${goldens:-$(first "$here/goldens" "$here/../tests/goldens")}
[ -x "$binary" ] || { echo "gpu_check.sh: no program at '$binary': name it with --binary" >&2; exit 2; }
[ -d "$goldens" ] || { echo "gpu_check.sh: no goldens at '$goldens': name their folder with --goldens" >&2; exit 2; }
mkdir -p "$out" || exit 2
report=$out/gpu_check.md
log=$out/gpu_check.log
body=$out/.body
: >"$log"
: >"$body"
trap 'rm -f "$body" "$out/.stdout" "$out/.stderr"' EXIT

devices=$("$binary" devices 2>>"$log")
if [ -z "$device" ]; then
  device=$(printf '%s\n' "$devices" | grep -E '^(hip|cuda):[0-9]+ .*; kernels for ' | head -1 | cut -d ' ' -f 1)
fi
if [ -z "$device" ]; then
  printf '%s\n' "$devices" >&2
  echo "gpu_check.sh: there is no GPU that this program has kernels for (--device cpu checks the CPU)" >&2
  exit 1
fi

failures=0
summary=
# check NAME COMMAND...: its stdout goes to the report. A model that does not fit into memory is skipped.
check() {
  local name=$1 start=$SECONDS status result
  shift
  printf '%s ...' "$name" >&2
  "$@" >"$out/.stdout" 2>"$out/.stderr" </dev/null
  status=$?
  { printf '== %s: %s\n' "$name" "$*"; cat "$out/.stderr"; } >>"$log"
  if [ $status -eq 0 ]; then
    result=passed
  elif [[ $name == engine,* ]] && grep -qE 'out of memory|holds no block' "$out/.stderr"; then
    result="skipped: $(grep -E 'out of memory|holds no block' "$out/.stderr" | tail -1 | sed 's/^novastack: //;s/|/\//g')"
  else
    result="FAILED, status $status: $(grep '^novastack: ' "$out/.stderr" | tail -1 | sed 's/^novastack: //;s/|/\//g')"
    failures=$((failures + 1))
  fi
  printf ' %s (%d s)\n' "$result" $((SECONDS - start)) >&2
  summary+="| $name | $result | $((SECONDS - start)) |"$'\n'
  # What is no Markdown table is shown as it is.
  local fence=
  [ ! -s "$out/.stdout" ] || grep -q '^|' "$out/.stdout" || fence='```'$'\n'
  { printf '\n## %s\n\n%s' "$name" "$fence"; cat "$out/.stdout"; printf '%s' "$fence"; } >>"$body"
}

large=() ops=() models=(qwen3-0.6b qwen3-8b qwen3-30b-a3b deepseek-v2-lite)
sizes=(--batch 1,8,32,64 --input 128,1024 --output 64 --step-tokens 2048)
if [ -n "$quick" ]; then
  ops=(--quick)
  models=("$goldens/qwen3" "$goldens/qwen3-moe")
  sizes=(--batch 1,2 --input 20 --output 4 --step-tokens 32 --copy-memory 64K)
else
  large=(--large)
fi
folders=()
for name in llama llama-bf16 qwen3 qwen3-fp8 qwen3-moe qwen3-moe-fp8 qwen2-awq deepseek-v2-lite deepseek-v2-mla128 deepseek-v3; do
  folders+=("$goldens/$name")
done
[ -z "$quick" ] || folders=("$goldens/llama" "$goldens/qwen3-moe" "$goldens/deepseek-v2-lite" --cases 2)

[ "$device" = cpu ] || check "kernels against the CPU" "$binary" selftest --device "$device" "${large[@]}"
check "goldens end to end" "$binary" goldens --device "$device" "${folders[@]}"
check "operations" "$binary" bench ops --device "$device" "${ops[@]}"
if [ "$device" != cpu ]; then
  by_vendor=(bench ops --device "$device" --vendor-blas --only 'linear BF16')
  case $("$binary" "${by_vendor[@]}" --quick 2>&1) in
    *'there is no hipBLASLt'*) summary+='| operations, products by the vendor'"'"'s BLAS | skipped: none is installed | |'$'\n' ;;
    *) check "operations, products by the vendor's BLAS" "$binary" "${by_vendor[@]}" "${ops[@]}" ;;
  esac
fi
for model in "${models[@]}"; do
  check "engine, $(basename "$model")" \
    "$binary" bench offline --device "$device" --load-format dummy --model "$model" "${sizes[@]}"
done

{
  printf '# NovaStack on %s\n\n' "$device"
  printf '%s. %s, Linux %s%s.\n\n' "$("$binary" --version)" "$(date -u '+%Y-%m-%d %H:%M UTC')" "$(uname -r)" \
    "${quick:+, with --quick: sizes are tiny, and the speeds mean nothing}"
  printf '```\n%s\n```\n\n' "$devices"
  printf '| check | result | seconds |\n| --- | --- | --- |\n%s' "$summary"
  cat "$body"
} >"$report"
echo "$report"
[ $failures -eq 0 ]
