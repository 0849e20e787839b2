//! Writes small GGUF files for tests, and says where each field of the header lies, so that
//! tests can corrupt it.

/// A metadata value.
#[derive(Clone, Debug)]
pub enum Meta {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(String),
    /// Element type, elements (all of that type).
    Array(u32, Vec<Meta>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Meta {
    pub fn str(text: &str) -> Meta {
        Meta::Str(text.to_owned())
    }

    pub fn strings(texts: &[&str]) -> Meta {
        Meta::Array(8, texts.iter().map(|text| Meta::str(text)).collect())
    }

    pub fn i32s(numbers: &[i32]) -> Meta {
        Meta::Array(5, numbers.iter().map(|number| Meta::I32(*number)).collect())
    }

    fn kind(&self) -> u32 {
        match self {
            Meta::U8(_) => 0,
            Meta::I8(_) => 1,
            Meta::U16(_) => 2,
            Meta::I16(_) => 3,
            Meta::U32(_) => 4,
            Meta::I32(_) => 5,
            Meta::F32(_) => 6,
            Meta::Bool(_) => 7,
            Meta::Str(_) => 8,
            Meta::Array(..) => 9,
            Meta::U64(_) => 10,
            Meta::I64(_) => 11,
            Meta::F64(_) => 12,
        }
    }
}

/// A number in the header: what it is, and which bytes.
#[derive(Clone, Debug)]
pub struct Field {
    pub what: String,
    pub at: usize,
    pub len: usize,
}

/// Builds one file. Everything is written in the order in which it was added.
#[derive(Clone, Debug)]
pub struct GgufWriter {
    pub version: u32,
    pub alignment: usize,
    pub metadata: Vec<(String, Meta)>,
    /// Name, ggml's type number, dimensions innermost first, data.
    pub tensors: Vec<(String, u32, Vec<u64>, Vec<u8>)>,
}

impl Default for GgufWriter {
    fn default() -> Self {
        GgufWriter { version: 3, alignment: 32, metadata: Vec::new(), tensors: Vec::new() }
    }
}

impl GgufWriter {
    pub fn meta(mut self, key: &str, value: Meta) -> Self {
        self.set(key, value);
        self
    }

    /// Without the keys and tensors whose name ends so.
    pub fn without(mut self, suffix: &str) -> Self {
        self.metadata.retain(|(key, _)| !key.ends_with(suffix));
        self.tensors.retain(|(name, ..)| !name.ends_with(suffix));
        self
    }

    /// Replaces the value of a key that is there.
    pub fn set(&mut self, key: &str, value: Meta) {
        match self.metadata.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => *known = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
    }

    pub fn tensor(mut self, name: &str, kind: u32, dims: &[u64], data: Vec<u8>) -> Self {
        self.tensors.push((name.to_owned(), kind, dims.to_vec(), data));
        self
    }

    /// An F32 tensor with values that are all different.
    pub fn f32_tensor(self, name: &str, dims: &[u64]) -> Self {
        let count = dims.iter().product::<u64>();
        let data = (0..count).flat_map(|i| (i as f32 / 16.0 - 1.0).to_le_bytes()).collect();
        self.tensor(name, 0, dims, data)
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.bytes_and_fields().0
    }

    /// The file, which ends with the last tensor's last byte, and its header's numbers.
    pub fn bytes_and_fields(&self) -> (Vec<u8>, Vec<Field>) {
        let mut out = Out::default();
        out.raw("magic", b"GGUF");
        out.raw("version", &self.version.to_le_bytes());
        out.raw("tensor count", &(self.tensors.len() as u64).to_le_bytes());
        out.raw("metadata count", &(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            out.string(&format!("key {key}"), key);
            out.raw(&format!("type of {key}"), &value.kind().to_le_bytes());
            out.value(key, value);
        }
        let mut offset = 0usize;
        for (name, kind, dims, data) in &self.tensors {
            out.string(&format!("name {name}"), name);
            out.raw(&format!("dimension count of {name}"), &(dims.len() as u32).to_le_bytes());
            for dim in dims {
                out.raw(&format!("dimension of {name}"), &dim.to_le_bytes());
            }
            out.raw(&format!("type of {name}"), &kind.to_le_bytes());
            out.raw(&format!("offset of {name}"), &(offset as u64).to_le_bytes());
            offset = (offset + data.len()).next_multiple_of(self.alignment);
        }
        for (_, _, _, data) in &self.tensors {
            out.bytes.resize(out.bytes.len().next_multiple_of(self.alignment), 0);
            out.bytes.extend_from_slice(data);
        }
        (out.bytes, out.fields)
    }
}

#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    fields: Vec<Field>,
}

impl Out {
    fn raw(&mut self, what: &str, bytes: &[u8]) {
        self.fields.push(Field { what: what.to_owned(), at: self.bytes.len(), len: bytes.len() });
        self.bytes.extend_from_slice(bytes);
    }

    fn string(&mut self, what: &str, text: &str) {
        self.raw(&format!("length of {what}"), &(text.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn value(&mut self, key: &str, value: &Meta) {
        let what = format!("value of {key}");
        match value {
            Meta::U8(v) => self.raw(&what, &v.to_le_bytes()),
            Meta::I8(v) => self.raw(&what, &v.to_le_bytes()),
            Meta::U16(v) => self.raw(&what, &v.to_le_bytes()),
            Meta::I16(v) => self.raw(&what, &v.to_le_bytes()),
            Meta::U32(v) => self.raw(&what, &v.to_le_bytes()),
            Meta::I32(v) => self.raw(&what, &v.to_le_bytes()),
            Meta::F32(v) => self.raw(&what, &v.to_le_bytes()),
            Meta::Bool(v) => self.raw(&what, &[u8::from(*v)]),
            Meta::Str(v) => self.string(&what, v),
            Meta::U64(v) => self.raw(&what, &v.to_le_bytes()),
            Meta::I64(v) => self.raw(&what, &v.to_le_bytes()),
            Meta::F64(v) => self.raw(&what, &v.to_le_bytes()),
            Meta::Array(kind, items) => {
                self.raw(&format!("element type of {key}"), &kind.to_le_bytes());
                self.raw(&format!("array length of {key}"), &(items.len() as u64).to_le_bytes());
                items.iter().for_each(|item| self.value(key, item));
            }
        }
    }
}

/// A complete model of one layer: 8 wide, 2 query heads and 1 key head of 4, inner 12, 6 tokens.
/// `biases` adds those of q, k and v; `tied` leaves out the output's weight.
pub fn tiny_model(arch: &str, biases: bool, tied: bool) -> GgufWriter {
    let key = |name: &str| format!("{arch}.{name}");
    let mut writer = GgufWriter::default()
        .meta("general.architecture", Meta::str(arch))
        .meta(&key("block_count"), Meta::U32(1))
        .meta(&key("context_length"), Meta::U32(64))
        .meta(&key("embedding_length"), Meta::U32(8))
        .meta(&key("feed_forward_length"), Meta::U32(12))
        .meta(&key("attention.head_count"), Meta::U32(2))
        .meta(&key("attention.head_count_kv"), Meta::U32(1))
        .meta(&key("attention.layer_norm_rms_epsilon"), Meta::F32(1e-5))
        .meta(&key("rope.freq_base"), Meta::F32(10000.0))
        .meta("tokenizer.ggml.model", Meta::str("gpt2"))
        .meta("tokenizer.ggml.pre", Meta::str("qwen2"))
        .meta("tokenizer.ggml.tokens", Meta::strings(&["a", "b", "c", "ab", "<s>", "</s>"]))
        .meta("tokenizer.ggml.token_type", Meta::i32s(&[1, 1, 1, 1, 3, 3]))
        .meta("tokenizer.ggml.merges", Meta::strings(&["a b"]))
        .meta("tokenizer.ggml.bos_token_id", Meta::U32(4))
        .meta("tokenizer.ggml.eos_token_id", Meta::U32(5))
        .meta("tokenizer.ggml.add_bos_token", Meta::Bool(true))
        .meta("tokenizer.chat_template", Meta::str("{{ bos_token }}"))
        .f32_tensor("token_embd.weight", &[8, 6])
        .f32_tensor("blk.0.attn_norm.weight", &[8])
        .f32_tensor("blk.0.attn_q.weight", &[8, 8])
        .f32_tensor("blk.0.attn_k.weight", &[8, 4])
        .f32_tensor("blk.0.attn_v.weight", &[8, 4])
        .f32_tensor("blk.0.attn_output.weight", &[8, 8])
        .f32_tensor("blk.0.ffn_norm.weight", &[8])
        .f32_tensor("blk.0.ffn_gate.weight", &[8, 12])
        .f32_tensor("blk.0.ffn_up.weight", &[8, 12])
        .f32_tensor("blk.0.ffn_down.weight", &[12, 8]);
    if biases {
        writer = writer
            .f32_tensor("blk.0.attn_q.bias", &[8])
            .f32_tensor("blk.0.attn_k.bias", &[4])
            .f32_tensor("blk.0.attn_v.bias", &[4]);
    }
    if arch == "qwen3" {
        writer =
            writer.f32_tensor("blk.0.attn_q_norm.weight", &[4]).f32_tensor("blk.0.attn_k_norm.weight", &[4]);
    }
    if !tied {
        writer = writer.f32_tensor("output.weight", &[8, 6]);
    }
    writer.f32_tensor("output_norm.weight", &[8])
}

/// A mixture of 4 experts, 6 wide, 2 chosen, in the last of its layers. qwen3moe and minimax-m2 have
/// one layer, with 2 query heads and 1 key head of 8; deepseek2 has a dense one before it. `split` is
/// how newer deepseek2 files hold attention.
pub fn tiny_moe(arch: &str, split: bool) -> GgufWriter {
    let key = |name: &str| format!("{arch}.{name}");
    let mut writer = tiny_model(arch, false, false)
        .meta(&key("expert_count"), Meta::U32(4))
        .meta(&key("expert_used_count"), Meta::U32(2))
        .meta(&key("expert_feed_forward_length"), Meta::U32(6));
    for part in ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"] {
        writer = writer.without(&format!("{part}.weight"));
    }
    let latent = arch == "deepseek2";
    writer = if latent { latent_layers(writer, split) } else { grouped_layer(writer, arch) };
    let name = |part: &str| format!("blk.{}.{part}.weight", usize::from(latent));
    writer
        .f32_tensor(&name("ffn_gate_inp"), &[8, 4])
        .f32_tensor(&name("ffn_gate_exps"), &[8, 6, 4])
        .f32_tensor(&name("ffn_up_exps"), &[8, 6, 4])
        .f32_tensor(&name("ffn_down_exps"), &[6, 8, 4])
}

/// Attention of qwen3moe, or of minimax-m2, which rotates half of each head.
fn grouped_layer(writer: GgufWriter, arch: &str) -> GgufWriter {
    let key = |name: &str| format!("{arch}.{name}");
    let writer = writer
        .meta(&key("attention.key_length"), Meta::U32(8))
        .f32_tensor("blk.0.attn_q.weight", &[8, 16])
        .f32_tensor("blk.0.attn_k.weight", &[8, 8])
        .f32_tensor("blk.0.attn_v.weight", &[8, 8])
        .f32_tensor("blk.0.attn_output.weight", &[16, 8])
        .f32_tensor("blk.0.attn_k_norm.weight", &[8]);
    if arch != "minimax-m2" {
        return writer.f32_tensor("blk.0.attn_q_norm.weight", &[8]);
    }
    writer
        .meta(&key("expert_gating_func"), Meta::U32(2))
        .meta(&key("rope.dimension_count"), Meta::U32(4))
        .f32_tensor("blk.0.attn_q_norm.weight", &[16])
        .f32_tensor("blk.0.exp_probs_b.bias", &[4])
}

/// deepseek2's 2 layers: 2 heads of 8 + 8, a latent of 16, values of 24, q's latent of 3.
fn latent_layers(writer: GgufWriter, split: bool) -> GgufWriter {
    let key = |name: &str| format!("deepseek2.{name}");
    let mut writer = writer
        .without("head_count_kv")
        .meta(&key("block_count"), Meta::U32(2))
        .meta(&key("leading_dense_block_count"), Meta::U32(1))
        .meta(&key("expert_shared_count"), Meta::U32(2))
        .meta(&key("expert_weights_scale"), Meta::F32(2.5))
        .meta(&key("attention.q_lora_rank"), Meta::U32(3))
        .meta(&key("attention.kv_lora_rank"), Meta::U32(16))
        .meta(&key("rope.dimension_count"), Meta::U32(8))
        .meta(&key(if split { "attention.key_length_mla" } else { "attention.key_length" }), Meta::U32(16))
        .meta(
            &key(if split { "attention.value_length_mla" } else { "attention.value_length" }),
            Meta::U32(24),
        )
        .f32_tensor("blk.0.ffn_gate.weight", &[8, 12])
        .f32_tensor("blk.0.ffn_up.weight", &[8, 12])
        .f32_tensor("blk.0.ffn_down.weight", &[12, 8])
        .f32_tensor("blk.1.attn_norm.weight", &[8])
        .f32_tensor("blk.1.ffn_norm.weight", &[8])
        .f32_tensor("blk.1.ffn_gate_shexp.weight", &[8, 12])
        .f32_tensor("blk.1.ffn_up_shexp.weight", &[8, 12])
        .f32_tensor("blk.1.ffn_down_shexp.weight", &[12, 8]);
    for layer in 0..2 {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        writer = writer
            .f32_tensor(&name("attn_q_a"), &[8, 3])
            .f32_tensor(&name("attn_q_a_norm"), &[3])
            .f32_tensor(&name("attn_q_b"), &[3, 32])
            .f32_tensor(&name("attn_kv_a_mqa"), &[8, 24])
            .f32_tensor(&name("attn_kv_a_norm"), &[16])
            .f32_tensor(&name("attn_output"), &[48, 8]);
        writer = match split {
            true => {
                writer.f32_tensor(&name("attn_k_b"), &[8, 16, 2]).f32_tensor(&name("attn_v_b"), &[16, 24, 2])
            }
            false => writer.f32_tensor(&name("attn_kv_b"), &[16, 64]),
        };
    }
    writer
}
