//! GGUF files in several parts. `split/` holds tests/goldens/gguf/llama-bf16.gguf once more, as
//! llama.cpp's converter splits it (`scripts/goldens_gguf.py`).

use super::{error_naming, read_all};
use crate::support::gguf_writer::{GgufWriter, Meta, tiny_model, tiny_moe};
use novastack::checkpoint::Checkpoint;
use std::path::{Path, PathBuf};

const PARTS: usize = 3;

fn golden(part: usize) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join(format!("tests/checkpoint/split/llama-bf16-{part:05}-of-{PARTS:05}.gguf"))
}

/// The model's tensors dealt out to two parts.
fn parts(writer: &GgufWriter) -> [GgufWriter; 2] {
    let total = writer.tensors.len();
    let split = |number: u16| {
        let mut part = if number == 0 { writer.clone() } else { GgufWriter::default() };
        part.tensors = writer.tensors[[0..total / 2, total / 2..total][usize::from(number)].clone()].to_vec();
        part.meta("split.no", Meta::U16(number))
            .meta("split.count", Meta::U16(2))
            .meta("split.tensors.count", Meta::I32(total as i32))
    };
    [split(0), split(1)]
}

fn written(parts: &[(&str, &GgufWriter)]) -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("tempdir");
    for (name, part) in parts {
        std::fs::write(place.path().join(name), part.bytes()).expect("write");
    }
    place
}

const NAMES: [&str; 2] = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];

#[test]
fn a_model_in_three_parts_by_llama_cpp_is_the_whole_model() {
    let whole = Checkpoint::open("tests/goldens/gguf/llama-bf16.gguf".as_ref()).expect("whole");
    for part in 1..=PARTS {
        let split = Checkpoint::open(&golden(part)).expect("any part stands for all");
        assert_eq!(split.config, whole.config);
        assert_eq!(split.tensor_names(), whole.tensor_names());
        for name in whole.tensor_names() {
            let (a, b) = (whole.tensor(name).expect("whole"), split.tensor(name).expect("split"));
            assert_eq!((a.dtype, &a.shape, &a.data), (b.dtype, &b.shape, &b.data), "{name}");
        }
        assert_eq!(read_all(&split), whole.tensor_bytes());
    }
}

#[test]
fn missing_parts_are_named() {
    let place = tempfile::tempdir().expect("tempdir");
    for part in [1, 3] {
        let name = golden(part);
        std::fs::copy(&name, place.path().join(name.file_name().expect("name"))).expect("copy");
    }
    let first = place.path().join("llama-bf16-00001-of-00003.gguf");
    let message =
        error_naming(Checkpoint::open(&first), "llama-bf16-00001-of-00003.gguf", "a part is missing");
    assert!(
        message.contains("missing are") && message.contains("llama-bf16-00002-of-00003.gguf"),
        "{message}"
    );
    assert!(!message.contains("00003-of-00003.gguf,"), "{message}");
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let [first, second] = parts(&tiny_model("llama", false, true));
    let place = written(&[(NAMES[0], &first), (NAMES[1], &second)]);
    Checkpoint::open(&place.path().join(NAMES[0])).expect("whole");
    // The same part twice.
    let place = written(&[(NAMES[0], &first), (NAMES[1], &first)]);
    let message = error_naming(Checkpoint::open(&place.path().join(NAMES[0])), NAMES[1], "twice");
    assert!(message.contains("not part 2 of 2"), "{message}");
    // A part of another model.
    let mut other = second.clone();
    other.tensors.pop();
    let place = written(&[(NAMES[0], &first), (NAMES[1], &other)]);
    let message = error_naming(Checkpoint::open(&place.path().join(NAMES[0])), NAMES[0], "too few");
    assert!(message.contains("split.tensors.count"), "{message}");
    // A name that does not say which part it is.
    let place = written(&[("renamed.gguf", &first)]);
    let message = error_naming(Checkpoint::open(&place.path().join("renamed.gguf")), "renamed.gguf", "name");
    assert!(message.contains("-00001-of-00002.gguf") && message.contains("--merge"), "{message}");
    // Out of range.
    let mut wrong = first.clone();
    wrong.set("split.no", Meta::U16(2));
    let place = written(&[(NAMES[0], &wrong)]);
    error_naming(Checkpoint::open(&place.path().join(NAMES[0])), "split.no", "number");
}

/// A layer that predicts further tokens is not loaded, so that its types do not matter.
#[test]
fn tensors_of_odd_types_that_no_layer_needs_are_passed_over() {
    let mut writer = tiny_moe("deepseek2", false);
    writer.set("deepseek2.block_count", Meta::U32(3));
    writer.set("deepseek2.nextn_predict_layers", Meta::U32(1));
    let odd = writer.clone().tensor("blk.2.nextn.eh_proj.weight", 16, &[256, 1], vec![0; 66]);
    let place = tempfile::tempdir().expect("tempdir");
    let checkpoint = super::open_gguf(place.path(), &odd.bytes()).expect("passed over");
    let note = checkpoint.unneeded().expect("told");
    for word in ["blk.2.nextn.eh_proj.weight", "IQ2_XXS", "does not need it"] {
        assert!(note.contains(word), "{note}");
    }
    // In a layer that is computed it does.
    let needed = writer.tensor("blk.1.attn_norm.bias", 16, &[256, 1], vec![0; 66]);
    let message = error_naming(super::open_gguf(place.path(), &needed.bytes()), "model.gguf", "needed");
    assert!(message.contains("blk.1.attn_norm.bias") && message.contains("IQ2_XXS"), "{message}");
}
