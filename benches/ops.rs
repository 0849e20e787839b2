//! The CPU backend's matrix products against the machine's own limits and against candle.
//!
//!     cargo bench --bench ops [-- --threads N] [--seconds S] [--only TEXT]
//!
//! prints the table of `benches/results/ops-cpu.md`. Each row is the best of many repetitions
//! within S seconds. Weights come from a ring of copies larger than the caches, as the layers of
//! a model do. Limits are measured in the same run: a read of memory, and register-only loops of
//! multiply-adds (f32 for float weights, 8-bit `vpdpbusd` for quantised ones), all threads at
//! once. Without AVX-512 with VNNI the arithmetic limits are left out.

use std::borrow::Cow;
use std::hint::black_box;
use std::time::{Duration, Instant};

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Device, Module, Tensor};
use half::{bf16, f16};
use novastack::backend::cpu::matmul::{Isa, Matrix, Scratch, linear};
use novastack::backend::cpu::pool::ThreadPool;
use novastack::checkpoint::{Dtype, TensorData};

/// Larger than any last-level cache that this is likely to meet in part.
const RING_BYTES: usize = 160 << 20;

struct Options {
    threads: usize,
    seconds: f64,
    only: String,
}

fn options() -> Options {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { threads, seconds: 0.4, only: String::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
        match arg.as_str() {
            "--bench" => {}
            "--threads" => options.threads = value().parse().expect("--threads takes a number"),
            "--seconds" => options.seconds = value().parse().expect("--seconds takes a number"),
            "--only" => options.only = value(),
            _ => panic!("unknown argument {arg}; there are --threads, --seconds and --only"),
        }
    }
    options
}

/// Seconds of the fastest call.
fn best(seconds: f64, mut call: impl FnMut()) -> f64 {
    call();
    let (end, mut best) = (Instant::now() + Duration::from_secs_f64(seconds), f64::MAX);
    let mut calls = 0;
    while calls < 3 || Instant::now() < end {
        let start = Instant::now();
        call();
        best = best.min(start.elapsed().as_secs_f64());
        calls += 1;
    }
    best
}

struct Limits {
    read_bytes_per_s: f64,
    f32_macs_per_s: f64,
    i8_macs_per_s: f64,
}

fn limits(pool: &mut ThreadPool, seconds: f64) -> Limits {
    let buffer = vec![1u64; RING_BYTES / 8];
    const PIECE: usize = 1 << 17;
    let time = best(seconds, || {
        pool.run(buffer.len() / PIECE, &|task| {
            let piece = &buffer[task * PIECE..][..PIECE];
            black_box(read(piece));
        });
    });
    let read_bytes_per_s = (buffer.len() / PIECE * PIECE * 8) as f64 / time;
    let mut rate = |macs_per_loop: usize, body: fn(usize)| {
        let loops = 1 << 20;
        let threads = pool.threads();
        let time = best(seconds, || pool.run(threads, &|_| body(loops)));
        (threads * loops * macs_per_loop) as f64 / time
    };
    let (mut f32_macs_per_s, mut i8_macs_per_s) = (f64::NAN, f64::NAN);
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx512.is_available() {
        // SAFETY: the machine has AVX-512 with VNNI.
        f32_macs_per_s = rate(x86::CHAINS * 16, |loops| unsafe { x86::multiply_add(loops) });
        // SAFETY: as above.
        i8_macs_per_s = rate(x86::CHAINS * 64, |loops| unsafe { x86::dot_bytes(loops) });
    }
    let _ = &mut rate;
    Limits { read_bytes_per_s, f32_macs_per_s, i8_macs_per_s }
}

fn read(piece: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if Isa::Avx512.is_available() {
        // SAFETY: the machine has AVX-512.
        return unsafe { x86::read(piece) };
    }
    piece.iter().fold(0, |a, b| a | b)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    pub const CHAINS: usize = 16;

    #[target_feature(enable = "avx512f")]
    pub fn multiply_add(loops: usize) {
        let (a, b) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(0.25)));
        let mut sums = black_box([_mm512_setzero_ps(); CHAINS]);
        for _ in 0..loops {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(a, *sum, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn dot_bytes(loops: usize) {
        let (a, b) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(-5)));
        let mut sums = black_box([_mm512_setzero_si512(); CHAINS]);
        for _ in 0..loops {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    pub fn read(piece: &[u64]) -> u64 {
        let mut any = [_mm512_setzero_si512(); 4];
        for block in piece.chunks_exact(32) {
            for (any, line) in any.iter_mut().zip(block.chunks_exact(8)) {
                // SAFETY: a line is 64 bytes.
                *any = _mm512_or_si512(*any, unsafe { _mm512_loadu_si512(line.as_ptr().cast()) });
            }
        }
        any.iter().fold(0, |a, v| a | _mm512_reduce_or_epi64(*v) as u64)
    }
}

/// A weight of valid blocks: one pseudo-random row, repeated (timings do not depend on values).
fn weight(dtype: Dtype, rows: usize, cols: usize) -> TensorData<'static> {
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let unit = |byte: u8| f32::from(byte) / 128.0 - 1.0;
    let mut row: Vec<u8> = match dtype {
        Dtype::F32 => (0..cols).flat_map(|_| unit(random()).to_le_bytes()).collect(),
        Dtype::F16 => (0..cols).flat_map(|_| f16::from_f32(unit(random())).to_le_bytes()).collect(),
        Dtype::BF16 => (0..cols).flat_map(|_| bf16::from_f32(unit(random())).to_le_bytes()).collect(),
        _ => (0..dtype.bytes(cols).expect("whole blocks")).map(|_| random()).collect(),
    };
    let scales: &[usize] = match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::MXFP4 | Dtype::F8Block => &[],
        Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q5_0 | Dtype::IQ4NL | Dtype::IQ4XS => &[0],
        Dtype::Q6K => &[208],
        Dtype::Q2K => &[80, 82],
        Dtype::Q3K => &[108],
        _ => &[0, 2],
    };
    for block in row.chunks_exact_mut(dtype.block().1) {
        for at in scales {
            block[*at..at + 2].copy_from_slice(&f16::from_f32(0.01).to_le_bytes());
        }
        if dtype == Dtype::MXFP4 {
            // 2^-7.
            block[0] = 120;
        }
        if dtype == Dtype::F8Block {
            // Less than a half exponent, so that no code is NaN.
            block.iter_mut().for_each(|code| *code &= 0xbf);
            block[..4].copy_from_slice(&0.01f32.to_le_bytes());
        }
    }
    TensorData { name: "bench".into(), dtype, shape: vec![rows, cols], data: Cow::Owned(row.repeat(rows)) }
}

/// The types that candle is timed with: its repacked path for Q8_0 and Q4_K, its plain one for Q4_1.
fn candle_type(dtype: Dtype) -> Option<GgmlDType> {
    match dtype {
        Dtype::Q4_1 => Some(GgmlDType::Q4_1),
        Dtype::Q8_0 => Some(GgmlDType::Q8_0),
        Dtype::Q4K => Some(GgmlDType::Q4K),
        _ => None,
    }
}

fn candle_weights(tensor: &TensorData<'_>, copies: usize) -> Vec<QMatMul> {
    let Some(dtype) = candle_type(tensor.dtype) else { return vec![] };
    let one = || {
        let storage = QStorage::from_data(Cow::Borrowed(&tensor.data), &Device::Cpu, dtype)?;
        QMatMul::from_qtensor(QTensor::new(storage, (tensor.shape[0], tensor.shape[1]))?)
    };
    (0..copies).map(|_| one().expect("candle takes these blocks")).collect()
}

fn main() {
    let options = options();
    // candle's own threads, before it starts any.
    // SAFETY: no other thread exists yet.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", options.threads.to_string()) };
    let mut pool = ThreadPool::new(options.threads);
    let limits = limits(&mut pool, options.seconds.max(0.5));
    println!(
        "{} threads, {:?}: read {:.1} GB/s, f32 {:.0} G multiply-adds/s, 8-bit {:.0} G/s\n",
        options.threads,
        Isa::best(),
        limits.read_bytes_per_s / 1e9,
        limits.f32_macs_per_s / 1e9,
        limits.i8_macs_per_s / 1e9
    );
    println!(
        "| weight | in x out | bits | m | us | GB/s | of read | G mul-add/s | of peak | candle us | ratio |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    use Dtype::*;
    let large = (2560, 9728);
    let cases = [
        (Q8_0, (576, 49152)),
        (Q4_1, (576, 3072)),
        (Q8_0, (896, 9728)),
        (Q4_0, large),
        (Q4_1, large),
        (Q5_0, large),
        (Q5_1, large),
        (Q8_0, large),
        (Q4K, large),
        (Q5K, large),
        (Q6K, large),
        (Q2K, large),
        (Q3K, large),
        (IQ4NL, large),
        (IQ4XS, large),
        (MXFP4, large),
        (F8Block, large),
        (BF16, large),
        (F16, large),
        (F32, large),
    ];
    for (dtype, (cols, rows)) in cases {
        let name = format!("{dtype:?} {cols} x {rows}");
        if name.contains(&options.only) {
            bench(&mut pool, &options, &limits, &weight(dtype, rows, cols));
        }
    }
}

fn bench(pool: &mut ThreadPool, options: &Options, limits: &Limits, tensor: &TensorData<'_>) {
    let &[rows, cols] = &tensor.shape[..] else { unreachable!("made above") };
    let copies = (RING_BYTES / tensor.data.len()).max(2);
    let pack = |_| Matrix::pack(std::slice::from_ref(tensor)).expect("these blocks can be packed");
    let ring: Vec<Matrix> = (0..copies).map(pack).collect();
    let peers = candle_weights(tensor, copies);
    let mut scratch = Scratch::new();
    let peak = if is_quantised(tensor.dtype) { limits.i8_macs_per_s } else { limits.f32_macs_per_s };
    for m in [1, 8, 128] {
        let x: Vec<f32> = (0..m * cols).map(|i| (i % 89) as f32 / 89.0 - 0.5).collect();
        let mut out = vec![0.0; m * rows];
        let mut turn = 0;
        let time = best(options.seconds, || {
            turn += 1;
            linear(pool, &mut scratch, &ring[turn % copies], None, m, &x, &mut out);
        });
        let (mut peer_us, mut ratio) = ("".to_string(), "".to_string());
        if !peers.is_empty() {
            let x = Tensor::from_slice(&x, (m, cols), &Device::Cpu).expect("a tensor on the CPU");
            let peer = best(options.seconds, || {
                turn += 1;
                black_box(peers[turn % copies].forward(&x).expect("candle multiplies"));
            });
            (peer_us, ratio) = (format!("{:.0}", peer * 1e6), format!("{:.2}", peer / time));
        }
        let bytes = ring[0].bytes() as f64;
        let macs = (m * rows * cols) as f64;
        println!(
            "| {} | {cols} x {rows} | {:.2} | {m} | {:.0} | {:.1} | {:.0}% | {:.0} | {:.0}% | {peer_us} | {ratio} |",
            ring[0].kind(),
            bytes * 8.0 / (rows * cols) as f64,
            time * 1e6,
            bytes / time / 1e9,
            bytes / time / limits.read_bytes_per_s * 100.0,
            macs / time / 1e9,
            macs / time / peak * 100.0,
        );
    }
}

fn is_quantised(dtype: Dtype) -> bool {
    dtype.block().0 > 1 && dtype != Dtype::F8Block
}
