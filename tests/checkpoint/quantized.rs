//! FP8, AWQ and GPTQ weights against the code that defines their formats: packed.safetensors
//! holds each weight as that code packs it and as it dequantises it (scripts/goldens_packed.py).

use novastack::checkpoint::{Checkpoint, Dtype, TensorData};
use novastack::model::quantization::{is_stored, stored};
use novastack::model::{LoadError, Quantization};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PACKED: &[u8] = include_bytes!("packed.safetensors");
const SHAPE: [usize; 2] = [32, 128];

/// The tensors of the fixture's weight of that name, by part.
fn parts(name: &str) -> BTreeMap<String, TensorView<'static>> {
    let tensors = SafeTensors::deserialize(PACKED).expect("fixture");
    let prefix = format!("{name}.");
    let parts = tensors.tensors().into_iter();
    parts.filter_map(|(tensor, view)| Some((tensor.strip_prefix(&prefix)?.to_owned(), view))).collect()
}

/// A directory with these tensors of the weight `w`.
fn checkpoint(config: &Value, parts: &BTreeMap<String, TensorView<'_>>) -> Checkpoint {
    let directory = tempfile::tempdir().expect("tempdir");
    let named = parts.iter().map(|(part, view)| (format!("w.{part}"), view));
    let bytes = safetensors::serialize(named, None).expect("serialize");
    std::fs::write(directory.path().join("model.safetensors"), bytes).expect("write");
    std::fs::write(directory.path().join("config.json"), config.to_string()).expect("write");
    // The map outlives the name.
    Checkpoint::open(directory.path()).expect("open")
}

fn load(checkpoint: &Checkpoint, shape: &[usize]) -> Result<TensorData<'static>, LoadError> {
    let quantization = Quantization::from_config(&checkpoint.config)?;
    let tensor = stored(checkpoint, quantization.as_ref(), "w.weight", shape)?;
    Ok(TensorData { data: tensor.data.into_owned().into(), ..tensor })
}

fn gptq(bits: u32, group: i32) -> Value {
    json!({"quantization_config": {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": false}})
}

fn awq() -> Value {
    json!({"quantization_config": {
        "quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": true, "version": "gemm",
    }})
}

fn fp8() -> Value {
    json!({"quantization_config": {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
    }})
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// The largest difference to the weight that the format's own code gives.
fn error(tensor: &TensorData<'_>, reference: &TensorView<'_>) -> f32 {
    let (values, reference) = (tensor.to_f32().expect("f32"), f32s(reference.data()));
    assert_eq!(values.len(), reference.len());
    values.iter().zip(&reference).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn each_format_as_its_own_code_reads_it() {
    // Q4_1 rounds scale * zero point, at most 0.02 * 15, to 11 bits.
    let rounding = 0.3 * 2f32.powi(-11);
    for (name, config, dtype, tolerance) in [
        ("awq", awq(), Dtype::Q4_1, rounding),
        ("gptq4", gptq(4, 64), Dtype::Q4_0, 0.0),
        ("gptq4zeros", gptq(4, 32), Dtype::Q4_1, rounding),
        ("gptq4rows", gptq(4, -1), Dtype::Q4_1, rounding),
        ("gptq8", gptq(8, 64), Dtype::Q8_0, 0.0),
    ] {
        let parts = parts(name);
        let checkpoint = checkpoint(&config, &parts);
        assert!(is_stored(&checkpoint, "w.weight") && !is_stored(&checkpoint, "v.weight"));
        let tensor = load(&checkpoint, &SHAPE).expect(name);
        assert_eq!(
            (tensor.name.as_str(), tensor.dtype, tensor.shape.as_slice()),
            ("w.weight", dtype, &SHAPE[..])
        );
        let error = error(&tensor, &parts["reference"]);
        assert!(error <= tolerance, "{name}: {error}");
    }
}

#[test]
fn fp8_with_rows_that_fill_no_block() {
    let mut parts = parts("fp8");
    let loaded = load(&checkpoint(&fp8(), &parts), &[130, 128]).expect("fp8");
    assert_eq!(loaded.dtype, Dtype::F8Block);
    assert_eq!(error(&loaded.rows(126..130).expect("rows"), &parts["reference"]), 0.0);

    // Without the config that explains it, without scales, and with the wrong ones.
    let error = load(&checkpoint(&json!({}), &parts), &[130, 128]).expect_err("unexplained").to_string();
    assert!(error.contains("w.weight") && error.contains("quantization_config"), "{error}");
    let scales = parts.remove("weight_scale_inv").expect("scales");
    let missing = load(&checkpoint(&fp8(), &parts), &[130, 128]).expect_err("no scales");
    assert!(matches!(missing, LoadError::MissingTensor(name) if name == "w.weight_scale_inv"));
    parts.insert(
        "weight_scale_inv".into(),
        TensorView::new(scales.dtype(), vec![1, 2], scales.data()).expect("view"),
    );
    assert!(matches!(load(&checkpoint(&fp8(), &parts), &[130, 128]), Err(LoadError::Shape { .. })));
    let narrow = parts.remove("weight").expect("weight");
    parts.insert(
        "weight".into(),
        TensorView::new(narrow.dtype(), vec![260, 64], narrow.data()).expect("view"),
    );
    let error = load(&checkpoint(&fp8(), &parts), &[260, 64]).expect_err("half a block").to_string();
    assert!(error.contains("64 inputs"), "{error}");
}

#[test]
fn plain_weights_stay_as_they_are() {
    let data = 1.5f32.to_le_bytes();
    let view = TensorView::new(safetensors::Dtype::F32, vec![1, 1], &data).expect("view");
    let plain = BTreeMap::from([("weight".to_owned(), view)]);
    for config in [json!({}), fp8(), awq(), gptq(4, 128)] {
        let checkpoint = checkpoint(&config, &plain);
        assert_eq!(load(&checkpoint, &[1, 1]).expect("plain").to_f32().expect("f32"), [1.5]);
        assert!(matches!(load(&checkpoint, &[1, 2]), Err(LoadError::Shape { .. })));
    }
}

#[test]
fn packed_weights_without_a_config_are_named() {
    for config in [json!({}), fp8()] {
        let error = load(&checkpoint(&config, &parts("gptq4")), &SHAPE).expect_err("no config").to_string();
        assert!(
            error.contains("tensor w.weight: is stored as qweight, which quantization_config"),
            "{error}"
        );
    }
}

#[test]
fn gptq_formats_and_orders() {
    let parts = parts("gptq4");
    let with = |part: &str, data: &[u8], config: &Value| {
        let mut parts = parts.clone();
        let old = parts.remove(part).expect("part");
        parts.insert(part.into(), TensorView::new(old.dtype(), old.shape().to_vec(), data).expect("view"));
        load(&checkpoint(config, &parts), &SHAPE)
    };
    // gptq_v2 stores the zero point itself: 8 where the older format has 7.
    let zeros = vec![0x88; parts["qzeros"].data().len()];
    let mut v2 = gptq(4, 64);
    v2["quantization_config"]["checkpoint_format"] = "gptq_v2".into();
    let tensor = with("qzeros", &zeros, &v2).expect("v2");
    assert_eq!((tensor.dtype, error(&tensor, &parts["reference"])), (Dtype::Q4_0, 0.0));

    // Inputs in another order than that of the groups.
    let mut order = parts["g_idx"].data().to_vec();
    let trivial = with("g_idx", &order, &gptq(4, 64)).expect("in order");
    assert_eq!(trivial.dtype, Dtype::Q4_0);
    order[..4].copy_from_slice(&1i32.to_le_bytes());
    let error = with("g_idx", &order, &gptq(4, 64)).expect_err("reordered").to_string();
    assert!(error.contains("w.weight") && error.contains("desc_act"), "{error}");
    // `desc_act` with groups in order is served; without `g_idx` the order is not known.
    let mut desc_act = gptq(4, 64);
    desc_act["quantization_config"]["desc_act"] = true.into();
    load(&checkpoint(&desc_act, &parts), &SHAPE).expect("in order");
    let mut unknown = parts.clone();
    unknown.remove("g_idx");
    load(&checkpoint(&gptq(4, 64), &unknown), &SHAPE).expect("in order by the config");
    assert!(
        load(&checkpoint(&desc_act, &unknown), &SHAPE).expect_err("unknown").to_string().contains("desc_act")
    );
}

#[test]
fn what_blocks_cannot_hold_is_refused() {
    let text = |config: &Value, parts: &BTreeMap<String, TensorView<'_>>, shape: &[usize]| {
        load(&checkpoint(config, parts), shape).expect_err("refused").to_string()
    };
    assert!(text(&gptq(8, 64), &parts("gptq8zeros"), &SHAPE).contains("zero points other than 128"));
    // Groups, bits and shapes that the tensors contradict.
    assert!(text(&gptq(4, 32), &parts("gptq4"), &SHAPE).contains("w.qzeros"));
    assert!(text(&gptq(8, 64), &parts("gptq4"), &SHAPE).contains("w.qweight"));
    assert!(text(&gptq(4, 64), &parts("gptq4"), &[32, 256]).contains("w.qweight"));
    assert!(text(&gptq(4, 64), &parts("gptq4"), &[32, 120]).contains("multiples of [8, 32]"));
    for part in ["qweight", "qzeros", "scales"] {
        let mut parts = parts("awq");
        parts.remove(part);
        let expected = if part == "qweight" { "w.weight" } else { &format!("w.{part}") };
        assert!(text(&awq(), &parts, &SHAPE).contains(expected));
    }
    // A scale that f16 cannot hold.
    let mut large = parts("gptq4");
    let scales: Vec<u8> = (0..64).flat_map(|_| [0x80, 0x47]).collect();
    large.insert(
        "scales".into(),
        TensorView::new(safetensors::Dtype::BF16, vec![2, 32], &scales).expect("view"),
    );
    assert!(text(&gptq(4, 64), &large, &SHAPE).contains("beyond f16"));
}

#[test]
fn configs_name_the_field_and_what_is_supported() {
    let parse = |config: Value| Quantization::from_config(&json!({"quantization_config": config}));
    assert_eq!(Quantization::from_config(&json!({})), Ok(None));
    assert_eq!(Quantization::from_config(&json!({"quantization_config": null})), Ok(None));
    // As MiniMax-M2 and DeepSeek-V3.1 publish it.
    let published = json!({
        "activation_scheme": "dynamic", "fmt": "float8_e4m3fn", "quant_method": "fp8", "scale_fmt": "ue8m0",
        "weight_block_size": [128, 128], "modules_to_not_convert": ["gate"],
    });
    assert_eq!(
        parse(published).expect("published").expect("fp8").to_string(),
        "FP8 e4m3 with scales per 128x128 weights"
    );
    assert_eq!(
        parse(gptq(4, 128)["quantization_config"].clone()).expect("gptq").expect("gptq").to_string(),
        "GPTQ int4 in groups of 128"
    );
    for (method, field, value, supported) in [
        ("bitsandbytes", "quant_method", json!("bitsandbytes"), "fp8, awq, gptq"),
        ("compressed-tensors", "quant_method", json!("compressed-tensors"), "fp8, awq, gptq"),
        ("mxfp4", "quant_method", json!("mxfp4"), "fp8, awq, gptq"),
        ("fp8", "weight_block_size", json!([64, 128]), "[128, 128]"),
        ("fp8", "weight_block_size", Value::Null, "[128, 128]"),
        ("fp8", "activation_scheme", json!("static"), "dynamic"),
        ("fp8", "fmt", json!("e5m2"), "e4m3"),
        ("awq", "bits", json!(8), "4"),
        ("awq", "version", json!("gemv"), "gemm"),
        ("awq", "group_size", json!(48), "multiples of 32, and -1"),
        ("gptq", "bits", json!(3), "4, 8"),
        ("gptq", "group_size", json!(16), "multiples of 32, and -1"),
        ("gptq", "checkpoint_format", json!("marlin"), "gptq, gptq_v2"),
    ] {
        let mut config = json!({"quant_method": method, "weight_block_size": [128, 128], "bits": 4});
        config[field] = value;
        let error = parse(config).expect_err(field).to_string();
        assert!(
            error.contains(&format!("quantization_config.{field}")) && error.contains(supported),
            "{error}"
        );
    }
    assert!(parse(json!({"bits": 4})).expect_err("no method").to_string().contains("quant_method"));
}
