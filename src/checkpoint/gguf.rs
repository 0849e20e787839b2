//! A strict parser of GGUF files, versions 2 and 3, little-endian.
//!
//! Invariants: every length in the header is checked against the bytes that are left before it is
//! used; strings and arrays stay slices of the file and are decoded on demand, so that parsing
//! allocates little more than one entry per key and tensor; names are unique; a tensor's bytes
//! lie inside the file and overlap no other's; a tensor of a type that is not read is kept by name,
//! with the reason. Deliberately absent: version 1 and big-endian files, refused by name.

use super::tensors::byte_length;
use super::{CheckpointError, Dtype};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The format's own limit on keys and tensor names, and on dimensions.
const NAME_BYTES_MAX: usize = 65535;
const DIMS_MAX: u32 = 4;
/// Arrays of arrays of arrays are as deep as it may get; real files have no nesting at all.
const ARRAY_DEPTH_MAX: usize = 3;
/// Smallest encodings, to bound the counts: key length, one byte of key, type, one byte of value...
const ENTRY_BYTES_MIN: usize = 8 + 1 + 4 + 1;
/// ...and name length, one byte of name, dimension count, one dimension, type, offset.
const TENSOR_BYTES_MIN: usize = 8 + 1 + 4 + 8 + 4 + 8;
const ALIGNMENT_DEFAULT: u64 = 32;

/// A metadata value; strings and arrays point into the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    /// Every unsigned type.
    Unsigned(u64),
    /// Every signed type.
    Signed(i64),
    /// `f32`.
    F32(f32),
    /// `f64`.
    F64(f64),
    /// 0 or 1.
    Bool(bool),
    /// UTF-8.
    Str(&'a str),
    /// One element type, validated when it was read.
    Array(Array<'a>),
}

/// An array whose elements all lie inside `body`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Array<'a> {
    kind: u32,
    len: usize,
    body: &'a [u8],
}

impl<'a> Array<'a> {
    /// Its elements. They were validated, so that this ends at `len`.
    pub fn values(self) -> impl Iterator<Item = Value<'a>> {
        let mut cursor = Cursor { bytes: self.body, at: 0 };
        (0..self.len).map_while(move |_| cursor.value(self.kind, 0).ok())
    }
}

/// One tensor as the file describes it.
#[derive(Clone, Debug)]
pub(super) struct TensorInfo {
    /// llama.cpp's name: `blk.0.attn_q.weight`.
    pub name: String,
    pub dtype: Dtype,
    /// Outermost dimension first: the reverse of the file's order.
    pub shape: Vec<usize>,
    /// Where in the file.
    pub range: Range<usize>,
    /// Which part of a model in several files it lies in.
    pub part: usize,
}

/// A file's place among the parts of one model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// From 0.
    pub number: usize,
    pub count: usize,
    /// Of all parts together, where the file says.
    pub tensors: Option<usize>,
}

/// A parsed header.
#[derive(Debug)]
pub(super) struct Gguf<'a> {
    path: PathBuf,
    metadata: BTreeMap<&'a str, Value<'a>>,
    pub tensors: Vec<TensorInfo>,
    /// Tensors of types that are not read: name and reason.
    pub unread: Vec<(String, String)>,
}

impl<'a> Gguf<'a> {
    /// Parses the header of the file `path` whose contents are `bytes`.
    pub fn parse(path: &Path, bytes: &'a [u8]) -> Result<Gguf<'a>, CheckpointError> {
        parse(path, bytes).map_err(|reason| CheckpointError::invalid(path, reason))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An error about this file.
    pub fn invalid(&self, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::invalid(&self.path, reason)
    }

    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.metadata.get(key).copied()
    }

    /// All metadata, in the order of keys.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        self.metadata.iter().map(|(key, value)| (*key, *value))
    }

    /// None when the key is absent, an error when it is no unsigned integer of 32 bits.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        let number = match self.get(key) {
            None => return Ok(None),
            Some(Value::Unsigned(number)) => u32::try_from(number).ok(),
            Some(Value::Signed(number)) => u32::try_from(number).ok(),
            Some(_) => None,
        };
        number.map(Some).ok_or_else(|| self.wrong_type(key, "a whole number of 0 or more, of 32 bits"))
    }

    /// None when the key is absent, an error when it is no finite number.
    pub fn f64(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        let number = match self.get(key) {
            None => return Ok(None),
            // Through decimal: 1e-5 was meant, not 9.99999974e-6.
            Some(Value::F32(number)) => number.to_string().parse().ok(),
            Some(Value::F64(number)) => Some(number),
            Some(_) => None,
        };
        number
            .filter(|number: &f64| number.is_finite())
            .map(Some)
            .ok_or_else(|| self.wrong_type(key, "a finite floating-point number"))
    }

    /// None when the key is absent, an error when it is no string.
    pub fn str(&self, key: &str) -> Result<Option<&'a str>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Str(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong_type(key, "a string")),
        }
    }

    /// None when the key is absent, an error when it is no boolean.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(self.wrong_type(key, "a boolean")),
        }
    }

    /// None when the key is absent, an error when it is no array whose elements `convert` takes.
    pub fn array<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl Fn(Value<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => array
                .values()
                .map(&convert)
                .collect::<Option<Vec<T>>>()
                .map(Some)
                .ok_or_else(|| self.wrong_type(key, expected)),
            Some(_) => Err(self.wrong_type(key, expected)),
        }
    }

    /// None for a model in one file.
    pub fn split(&self) -> Result<Option<Split>, CheckpointError> {
        let Some(count) = self.u32("split.count")?.filter(|count| *count > 1) else { return Ok(None) };
        let number = self.u32("split.no")?.unwrap_or(0);
        if number >= count {
            return Err(
                self.invalid(format!("metadata split.no: must be below split.count, {count}, got {number}"))
            );
        }
        let tensors = self.u32("split.tensors.count")?.map(|tensors| tensors as usize);
        Ok(Some(Split { number: number as usize, count: count as usize, tensors }))
    }

    fn wrong_type(&self, key: &str, expected: &str) -> CheckpointError {
        self.invalid(format!("metadata {key}: must be {expected}"))
    }
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Gguf<'a>, String> {
    let mut cursor = Cursor { bytes, at: 0 };
    if cursor.take(4, "magic")? != b"GGUF" {
        return Err("is not a GGUF file: it does not start with \"GGUF\"".into());
    }
    match cursor.u32("version")? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=3) => {
            return Err("is a big-endian GGUF file; only little-endian ones are supported".into());
        }
        version => return Err(format!("GGUF version {version} is not supported; supported are 2 and 3")),
    }
    let tensor_count = cursor.count("tensor count", TENSOR_BYTES_MIN)?;
    let entry_count = cursor.count("metadata count", ENTRY_BYTES_MIN)?;

    let mut metadata = BTreeMap::new();
    for _ in 0..entry_count {
        let key = cursor.name("metadata key")?;
        let kind = cursor.u32(key)?;
        let value = cursor.value(kind, 0).map_err(|reason| format!("metadata {key}: {reason}"))?;
        if metadata.insert(key, value).is_some() {
            return Err(format!("metadata {key} appears twice"));
        }
    }
    let mut infos = Vec::with_capacity(tensor_count);
    let mut unread = Vec::new();
    for _ in 0..tensor_count {
        match tensor_info(&mut cursor)? {
            (info, Ok(dtype), offset) => infos.push((TensorInfo { dtype, ..info }, offset)),
            (info, Err(reason), _) => unread.push((info.name, reason)),
        }
    }
    let alignment = alignment(&metadata)?;
    let data_start = (cursor.at as u64).next_multiple_of(alignment);
    let tensors = place(infos, alignment, data_start, bytes.len())?;
    Ok(Gguf { path: path.to_owned(), metadata, tensors, unread })
}

/// A tensor's description, its type or why that is not read, and its offset from the start of the
/// data.
fn tensor_info(cursor: &mut Cursor<'_>) -> Result<(TensorInfo, Result<Dtype, String>, u64), String> {
    let name = cursor.name("tensor name")?.to_owned();
    let dims = cursor.u32(&name)?;
    if dims == 0 || dims > DIMS_MAX {
        return Err(format!("tensor {name}: has {dims} dimensions; 1 to {DIMS_MAX} are allowed"));
    }
    let mut shape = Vec::new();
    for _ in 0..dims {
        let dim = usize::try_from(cursor.u64(&name)?).ok().filter(|dim| *dim > 0);
        shape.push(dim.ok_or_else(|| format!("tensor {name}: a dimension is 0 or too large"))?);
    }
    shape.reverse();
    let dtype = dtype(cursor.u32(&name)?);
    let offset = cursor.u64(&name)?;
    Ok((TensorInfo { name, dtype: Dtype::F32, shape, range: 0..0, part: 0 }, dtype, offset))
}

/// Gives every tensor its range in the file, in the order of the file.
fn place(
    infos: Vec<(TensorInfo, u64)>,
    alignment: u64,
    data_start: u64,
    file_bytes: usize,
) -> Result<Vec<TensorInfo>, String> {
    let mut names = BTreeSet::new();
    let mut tensors = Vec::with_capacity(infos.len());
    for (mut info, offset) in infos {
        let name = &info.name;
        let bytes = byte_length(info.dtype, &info.shape).ok_or_else(|| {
            format!("tensor {name}: shape {:?} is not possible for {:?}", info.shape, info.dtype)
        })?;
        if !offset.is_multiple_of(alignment) {
            return Err(format!("tensor {name}: its offset {offset} is not a multiple of {alignment}"));
        }
        let start = data_start.checked_add(offset).and_then(|start| usize::try_from(start).ok());
        let end = start.and_then(|start| start.checked_add(bytes)).filter(|end| *end <= file_bytes);
        let (Some(start), Some(end)) = (start, end) else {
            return Err(format!(
                "tensor {name}: {bytes} bytes at offset {offset} are outside the file of {file_bytes} bytes; it \
                 is truncated or corrupt"
            ));
        };
        if !names.insert(name.clone()) {
            return Err(format!("tensor {name} appears twice"));
        }
        info.range = start..end;
        tensors.push(info);
    }
    tensors.sort_by_key(|tensor| tensor.range.start);
    if let Some(pair) = tensors.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        return Err(format!("tensors {} and {} overlap", pair[0].name, pair[1].name));
    }
    Ok(tensors)
}

fn alignment(metadata: &BTreeMap<&str, Value<'_>>) -> Result<u64, String> {
    match metadata.get("general.alignment") {
        None => Ok(ALIGNMENT_DEFAULT),
        Some(Value::Unsigned(number)) if number.is_power_of_two() && *number <= 1 << 20 => Ok(*number),
        Some(_) => Err("metadata general.alignment: must be a power of two up to 1048576".into()),
    }
}

/// ggml's type numbers.
fn dtype(number: u32) -> Result<Dtype, String> {
    let unsupported = match number {
        0 => return Ok(Dtype::F32),
        1 => return Ok(Dtype::F16),
        2 => return Ok(Dtype::Q4_0),
        3 => return Ok(Dtype::Q4_1),
        6 => return Ok(Dtype::Q5_0),
        7 => return Ok(Dtype::Q5_1),
        8 => return Ok(Dtype::Q8_0),
        10 => return Ok(Dtype::Q2K),
        11 => return Ok(Dtype::Q3K),
        12 => return Ok(Dtype::Q4K),
        13 => return Ok(Dtype::Q5K),
        14 => return Ok(Dtype::Q6K),
        20 => return Ok(Dtype::IQ4NL),
        23 => return Ok(Dtype::IQ4XS),
        30 => return Ok(Dtype::BF16),
        39 => return Ok(Dtype::MXFP4),
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        40 => "NVFP4",
        _ => "unknown",
    };
    Err(format!(
        "type {number} ({unsupported}) is not supported; supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, \
         Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS and MXFP4"
    ))
}

/// Reads from the front; never past the end.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], String> {
        if count > self.left() {
            return Err(format!(
                "{what}: needs {count} bytes at byte {}, where {} are left; the file is truncated or corrupt",
                self.at,
                self.left()
            ));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let mut fixed = [0; N];
        fixed.copy_from_slice(self.take(N, what)?);
        Ok(fixed)
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.fixed(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.fixed(what)?))
    }

    /// How many items of at least `bytes_min` follow: no more than the file has room for.
    fn count(&mut self, what: &str, bytes_min: usize) -> Result<usize, String> {
        let count = self.u64(what)?;
        let room = self.left() / bytes_min;
        usize::try_from(count).ok().filter(|count| *count <= room).ok_or_else(|| {
            format!(
                "{what}: {count} do not fit in the {} bytes left; the file is truncated or corrupt",
                self.left()
            )
        })
    }

    fn string(&mut self, what: &str) -> Result<&'a str, String> {
        let length = self.count(what, 1)?;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|error| format!("{what}: not valid UTF-8: {error}"))
    }

    fn name(&mut self, what: &str) -> Result<&'a str, String> {
        let at = self.at;
        let name = self.string(what)?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(format!(
                "{what} at byte {at}: must have 1 to {NAME_BYTES_MAX} bytes, has {}",
                name.len()
            ));
        }
        Ok(name)
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value<'a>, String> {
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.fixed("u8")?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.fixed("i8")?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.fixed("u16")?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.fixed("i16")?).into()),
            4 => Value::Unsigned(self.u32("u32")?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.fixed("i32")?).into()),
            6 => Value::F32(f32::from_le_bytes(self.fixed("f32")?)),
            7 => match self.fixed("bool")? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [byte] => return Err(format!("a boolean must be 0 or 1, got {byte}")),
            },
            8 => Value::Str(self.string("string")?),
            9 => Value::Array(self.array(depth)?),
            10 => Value::Unsigned(self.u64("u64")?),
            11 => Value::Signed(i64::from_le_bytes(self.fixed("i64")?)),
            12 => Value::F64(f64::from_le_bytes(self.fixed("f64")?)),
            _ => return Err(format!("value type {kind} is unknown; known are 0 to 12")),
        })
    }

    fn array(&mut self, depth: usize) -> Result<Array<'a>, String> {
        if depth == ARRAY_DEPTH_MAX {
            return Err(format!("arrays are nested deeper than {ARRAY_DEPTH_MAX}"));
        }
        let kind = self.u32("array type")?;
        let (bytes_min, fixed) = match kind {
            0 | 1 => (1, true),
            2 | 3 => (2, true),
            4..=6 => (4, true),
            7 => (1, false),
            8 => (8, false),
            9 => (12, false),
            10..=12 => (8, true),
            _ => return Err(format!("array element type {kind} is unknown; known are 0 to 12")),
        };
        let len = self.count("array length", bytes_min)?;
        let start = self.at;
        if fixed {
            // `count` has checked that `len` elements fit.
            self.at += len * bytes_min;
        } else {
            for _ in 0..len {
                self.value(kind, depth + 1)?;
            }
        }
        Ok(Array { kind, len, body: &self.bytes[start..self.at] })
    }
}
