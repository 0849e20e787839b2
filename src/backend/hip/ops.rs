//! The operations of [`Backend`] as launches. Grids and the order of arguments are those that the
//! kernels' own files state; sizes are checked where a kernel would trust them.

mod attention;
mod expanded;
mod moe;
mod sample;
mod transfer;

pub use sample::Masks;
pub use transfer::Results;

use super::blas::{Operands, Shape};
use super::device::Grid;
use super::driver::{DevicePointer, DriverError, Result as DriverResult};
use super::kernels::Arguments;
use super::matrix::{Format, Matrix, Part};
use super::tensor::{Kind, Tensor, Vector};
use super::{Cache, Experts, Heads, HipBackend, Routes};
use crate::backend::{
    Activation, Backend, BackendError, Batch, HeadLayout, KvDtype, KvSpec, LatentLayout, RopeStyle, Routing,
};
use crate::checkpoint::TensorData;
use crate::protocol::TokenId;
use std::ops::Range;
use std::sync::Arc;

/// Work-items of a block, in all kernels but those that say otherwise.
const THREADS: u32 = 256;
/// Values of a row that a block of the elementwise kernels takes.
const VALUES: usize = 2048;
/// Of rope_angles and of moe_route.
const ANGLE_THREADS: u32 = 64;
const ROUTE_THREADS: u32 = 64;
/// Rows from which on a product is large enough for the vendor's BLAS.
const BLAS_ROWS: usize = 64;
/// Most rows that the kernels for few rows take.
const FEW_ROWS: usize = 16;

impl HipBackend {
    /// Launches an entry point of kernels/`file`.hip.
    fn launch(
        &self,
        file: &'static str,
        name: &str,
        grid: Grid,
        threads: u32,
        arguments: Arguments,
    ) -> DriverResult<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        let function = self.gpu.kernels.get(file, name)?;
        // SAFETY: the callers below pass what the kernel's file says; tensors, weights and caches
        // are freed only after the driver has waited for the device.
        unsafe { arguments.launch(&self.stream, function, grid, threads) }
    }

    /// `name_bf16`.
    fn half(&self, name: &str) -> String {
        format!("{name}_{}", self.gpu.half.name())
    }

    /// out = x W^T (+ bias), for `rows` rows of x in the type of activations.
    fn multiply(
        &self,
        w: &Matrix,
        bias: Option<&Vector>,
        x: DevicePointer,
        rows: usize,
        out: DevicePointer,
        out_kind: Kind,
    ) -> DriverResult<()> {
        let mut first = 0;
        for part in &w.parts {
            let bias = bias.map_or(0, |bias| bias.pointer() + first as u64 * 4);
            let to = out + (first * out_kind.bytes()) as u64;
            self.product(part, w.columns, bias, x, rows, to, out_kind, w.rows)?;
            first += part.rows;
        }
        Ok(())
    }

    /// A rank's columns among all ranks', zeros elsewhere: its part of [`Backend::all_gather`].
    pub fn place_columns(&mut self, x: &Tensor, rank: usize, ranks: usize, out: &mut Tensor) {
        self.op(|it| {
            let (rows, columns, all) = (x.rows(), x.columns(), out.columns());
            // As `Shard::range` cuts.
            let (first, end) = (all * rank / ranks, all * (rank + 1) / ranks);
            assert_eq!((end - first, x.kind()), (columns, Kind::F32), "a rank's part of the columns");
            let to = out.output(rows, all, Kind::F32);
            let arguments = Arguments::new().pointer(x.pointer()).pointer(to);
            let arguments = arguments.size(columns).size(first).size(all);
            let grid = [rows as u32, blocks(all, VALUES), 1];
            it.launch("place_columns", "place_columns", grid, THREADS, arguments)
        });
    }

    /// One part's columns of a product; `out` is where its first row's are, `stride` from row to row.
    #[allow(clippy::too_many_arguments)]
    fn product(
        &self,
        part: &Part,
        columns: usize,
        bias: DevicePointer,
        x: DevicePointer,
        rows: usize,
        out: DevicePointer,
        out_kind: Kind,
        stride: usize,
    ) -> DriverResult<()> {
        if rows >= BLAS_ROWS && bias == 0 && self.by_blas(part, columns, x, rows, out, out_kind, stride)? {
            return Ok(());
        }
        let suffix = part.format.suffix();
        let to = if out_kind == Kind::F32 { "_to_f32" } else { "" };
        let entry = |form: &str, shape: &str| format!("{form}{suffix}_{}{to}_{shape}", self.gpu.half.name());
        let (file, name, grid) = if rows <= FEW_ROWS && !self.deterministic {
            let lanes = part.format.lanes_max();
            let (most, per_block) = match rows {
                1 => (1, 16),
                2 => (2, 16),
                3..=4 if lanes == 4 => (4, 16),
                _ => (16, 32),
            };
            let grid = [blocks(part.rows, per_block), 1, 1];
            (part.format.gemv_file(), entry("gemv", &format!("m{most}")), grid)
        } else {
            let (tile_rows, tile_columns) = match self.deterministic {
                true => (64, 64),
                false => tile(rows, part.rows, self.gpu.compute_units),
            };
            let grid = [blocks(part.rows, tile_columns), blocks(rows, tile_rows), 1];
            (part.format.gemm_file(), entry("gemm", &format!("{tile_rows}x{tile_columns}")), grid)
        };
        let arguments = part.arguments(Arguments::new().pointer(x));
        let arguments =
            arguments.pointer(bias).pointer(out).size(rows).size(part.rows).size(columns).size(stride);
        self.launch(file, &name, grid, THREADS, arguments)
    }

    /// The same by the vendor's library; false where it does not take it.
    #[allow(clippy::too_many_arguments)]
    fn by_blas(
        &self,
        part: &Part,
        columns: usize,
        x: DevicePointer,
        rows: usize,
        out: DevicePointer,
        out_kind: Kind,
        stride: usize,
    ) -> DriverResult<bool> {
        let (Some(blas), Format::Half, [weights]) = (&self.blas, part.format, part.arrays.as_slice()) else {
            return Ok(false);
        };
        let shape = Shape { m: rows, n: part.rows, k: columns, stride, to_f32: out_kind == Kind::F32 };
        let operands = Operands { w: weights.pointer(), x, out };
        let mut blas = blas.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // SAFETY: as for `launch`; the callers of `multiply` have checked the shapes.
        unsafe { blas.product(&self.stream, shape, operands) }
    }
}

/// Blocks that cover `all` with `each`.
fn blocks(all: usize, each: usize) -> u32 {
    u32::try_from(all.div_ceil(each)).expect("a grid of fewer than 2^32 blocks")
}

/// What a kernel would get wrong without a word.
fn check(fits: bool, what: &str) -> DriverResult<()> {
    match fits {
        true => Ok(()),
        false => Err(DriverError::Library(format!("{what} has no GPU kernel"))),
    }
}

/// The tile of a product: the largest that still gives every compute unit a block.
fn tile(rows: usize, columns: usize, compute_units: usize) -> (usize, usize) {
    let fits =
        |tile_rows, tile_columns| rows.div_ceil(tile_rows) * columns.div_ceil(tile_columns) >= compute_units;
    if rows <= 32 {
        (32, 128)
    } else if fits(128, 128) {
        (128, 128)
    } else {
        (64, 64)
    }
}

fn pointer_or_null(vector: Option<&Vector>) -> DevicePointer {
    vector.map_or(0, Vector::pointer)
}

impl Backend for HipBackend {
    type Tensor = Tensor;
    type Matrix = Matrix;
    type Vector = Vector;
    type KvCache = Cache;
    type Experts = Experts;
    type Heads = Heads;
    type Routes = Routes;

    fn rank(&self) -> (usize, usize) {
        self.collective.as_ref().map_or((0, 1), |group| (group.rank, group.ranks()))
    }

    fn matrix(&self, parts: &[TensorData<'_>]) -> Result<Matrix, BackendError> {
        Matrix::pack(&self.gpu, parts)
    }

    fn matrix_bytes(&self, m: &Matrix) -> usize {
        m.bytes()
    }

    fn matrix_kind(&self, m: &Matrix) -> String {
        m.kind()
    }

    fn vector(&self, parts: &[TensorData<'_>]) -> Result<Vector, BackendError> {
        Vector::load(&self.gpu, parts)
    }

    fn tensor(&self, max_rows: usize, columns: usize) -> Result<Tensor, BackendError> {
        Tensor::new(&self.gpu, max_rows, columns, Kind::Half)
    }

    fn tensor_f32(&self, max_rows: usize, columns: usize) -> Result<Tensor, BackendError> {
        Tensor::new(&self.gpu, max_rows, columns, Kind::F32)
    }

    fn tensor_cached(&self, max_rows: usize, columns: usize) -> Result<Tensor, BackendError> {
        Tensor::new(&self.gpu, max_rows, columns, Kind::F16)
    }

    fn kv_dtype(&self, _full_precision: bool) -> KvDtype {
        KvDtype::F16
    }

    fn kv_cache(&self, spec: &KvSpec, blocks: usize) -> Result<Cache, BackendError> {
        Cache::new(&self.gpu, &self.stream, spec, blocks)
    }

    fn experts(&self, matrices: Vec<Matrix>) -> Result<Experts, BackendError> {
        Experts::new(&self.gpu, &self.stream, matrices)
    }

    fn heads(&self, matrices: Vec<Matrix>) -> Result<Heads, BackendError> {
        Heads::new(&self.gpu, &self.stream, matrices)
    }

    fn routes(&self, max_rows: usize, top_k: usize) -> Result<Routes, BackendError> {
        Routes::new(&self.gpu, max_rows, top_k)
    }

    fn copy_blocks(&mut self, kv: &mut Cache, pairs: &[(u32, u32)]) {
        self.op(|it| it.copy_cache_blocks(kv, pairs));
    }

    fn begin(&mut self, batch: &Batch) {
        self.in_step = true;
        self.masks.clear();
        self.op(|it| it.step.begin(&it.gpu, &it.stream, batch));
    }

    fn embed(&mut self, table: &Matrix, first: TokenId, scale: f32, out: &mut Tensor) {
        self.op(|it| {
            let (rows, columns) = (it.step.rows(), table.columns);
            let [part] = table.parts.as_slice() else { panic!("an embedding table of one format") };
            let to = out.output(rows, columns, Kind::F32);
            let name = match part.format.suffix() {
                "" => it.half("embed"),
                suffix => format!("embed{suffix}"),
            };
            let arguments = part.arguments(Arguments::new().pointer(it.step.tokens()));
            let arguments = arguments.pointer(to).size(columns).size(first as usize).size(table.rows);
            let arguments = arguments.float(scale);
            it.launch("embed", &name, [rows as u32, blocks(columns, VALUES), 1], THREADS, arguments)
        });
    }

    fn add_rms_norm(
        &mut self,
        residual: &mut Tensor,
        delta: Option<&Tensor>,
        weight: &Vector,
        eps: f32,
        out: &mut Tensor,
    ) {
        self.op(|it| {
            let (rows, columns) = (residual.rows(), residual.columns());
            assert!(columns <= 16384 && residual.kind() == Kind::F32 && weight.len() == columns);
            let to = out.output(rows, columns, Kind::Half);
            let arguments = Arguments::new()
                .pointer(residual.pointer())
                .pointer(delta.map_or(0, Tensor::pointer))
                .pointer(weight.pointer())
                .pointer(to)
                .size(columns)
                .float(eps);
            it.launch("add_rms_norm", &it.half("add_rms_norm"), [rows as u32, 1, 1], THREADS, arguments)
        });
    }

    fn linear(&mut self, w: &Matrix, bias: Option<&Vector>, x: &Tensor, out: &mut Tensor) {
        self.op(|it| {
            assert_eq!((x.columns(), x.kind()), (w.columns, Kind::Half), "a linear's input");
            let kind = out.kind();
            let to = out.output(x.rows(), w.rows, kind);
            it.multiply(w, bias, x.pointer(), x.rows(), to, kind)
        });
    }

    fn rope_angles(&mut self, inv_freq: &Vector, scale: f32, out: &mut Tensor) {
        self.op(|it| {
            let (rows, pairs) = (it.step.rows(), inv_freq.len());
            let to = out.output(rows, 2 * pairs, Kind::F32);
            let arguments = Arguments::new()
                .pointer(inv_freq.pointer())
                .pointer(it.step.positions())
                .pointer(to)
                .size(pairs)
                .float(scale);
            it.launch("rope_angles", "rope_angles", [rows as u32, 1, 1], ANGLE_THREADS, arguments)
        });
    }

    fn rope_kv_write(
        &mut self,
        qkv: &mut Tensor,
        heads: HeadLayout,
        norms: Option<(&Vector, &Vector, f32)>,
        angles: &Tensor,
        style: RopeStyle,
        kv: &mut Cache,
        layer: usize,
    ) {
        self.op(|it| it.write_keys(qkv, heads, norms, angles, style, kv, layer));
    }

    fn attention(
        &mut self,
        qkv: &Tensor,
        heads: HeadLayout,
        scale: f32,
        window: Option<usize>,
        kv: &Cache,
        layer: usize,
        out: &mut Tensor,
    ) {
        self.op(|it| it.attend(qkv, heads, scale, window, kv, layer, out));
    }

    fn joint_qk_norm(
        &mut self,
        qkv: &mut Tensor,
        heads: HeadLayout,
        q_norm: &Vector,
        k_norm: &Vector,
        eps: f32,
    ) {
        self.op(|it| it.norm_jointly(qkv, heads, q_norm, k_norm, eps));
    }

    fn mla_rope_kv_write(
        &mut self,
        q: &Tensor,
        latent: &Tensor,
        layout: LatentLayout,
        norm: &Vector,
        eps: f32,
        angles: &Tensor,
        style: RopeStyle,
        kv: &mut Cache,
        layer: usize,
        query: &mut Tensor,
    ) {
        self.op(|it| it.write_latents(q, latent, layout, norm, eps, angles, style, kv, layer, query));
    }

    fn head_linear(&mut self, w: &Heads, x: &Tensor, out: &mut Tensor) {
        self.op(|it| {
            let (rows, half) = (x.rows(), it.gpu.half.name());
            let (columns, kind) = (out.columns(), out.kind());
            let to = out.output(rows, columns, kind);
            let name = |kind| if kind == Kind::F16 { "f16" } else { half };
            let (tile_rows, tile_columns, shape) =
                if rows <= 16 && !it.deterministic { (16, 32, "few") } else { (64, 128, "many") };
            let arguments = Arguments::new()
                .pointer(x.pointer())
                .pointer(w.values.pointer())
                .pointer(to)
                .size(rows)
                .size(w.heads)
                .size(x.columns() / w.heads)
                .size(columns / w.heads)
                .size(w.rows)
                .size(w.columns);
            let grid = [blocks(w.rows, tile_columns), w.heads as u32, blocks(rows, tile_rows)];
            let name = format!("head_linear_{}_{half}_{}_{shape}", name(x.kind()), name(kind));
            it.launch("head_linear", &name, grid, THREADS, arguments)
        });
    }

    fn mla_attention(
        &mut self,
        query: &Tensor,
        layout: LatentLayout,
        scale: f32,
        kv: &Cache,
        layer: usize,
        out: &mut Tensor,
    ) {
        self.op(|it| it.attend_latents(query, layout, scale, kv, layer, out));
    }

    fn mla_expands(&self, layout: LatentLayout) -> bool {
        self.can_expand(layout)
    }

    fn mla_attention_expanded(
        &mut self,
        kv_b: &Matrix,
        q: &Tensor,
        query: &Tensor,
        layout: LatentLayout,
        scale: f32,
        kv: &Cache,
        layer: usize,
        out: &mut Tensor,
    ) -> bool {
        let mut done = false;
        self.op(|it| {
            done = it.attend_expanded(kv_b, q, query, layout, scale, kv, layer, out)?;
            Ok(())
        });
        done
    }

    fn moe_route(
        &mut self,
        logits: &Tensor,
        bias: Option<&Vector>,
        routing: &Routing,
        local: Range<usize>,
        routes: &mut Routes,
    ) {
        self.op(|it| it.route(logits, bias, routing, local, routes));
    }

    fn moe_dispatch(&mut self, x: &Tensor, routes: &Routes, out: &mut Tensor) {
        self.op(|it| it.dispatch(x, routes, out));
    }

    fn expert_linear(&mut self, w: &Experts, routes: &Routes, x: &Tensor, out: &mut Tensor) {
        self.op(|it| it.experts_product(w, routes, x, out));
    }

    fn moe_combine(&mut self, x: &Tensor, routes: &Routes, shared: Option<&Tensor>, out: &mut Tensor) {
        self.op(|it| it.combine(x, routes, shared, out));
    }

    /// Not counted: which experts are active is known on the device alone.
    fn expert_bytes_read(&self) -> u64 {
        0
    }

    fn all_reduce(&mut self, x: &mut Tensor) {
        self.op(|it| it.sum_over_ranks(x.pointer(), x.rows() * x.columns(), x.kind()));
    }

    /// The sum of matrices with one rank's columns each: parts may differ in width.
    fn all_gather(&mut self, x: &Tensor, out: &mut Tensor) {
        let (rank, ranks) = self.rank();
        self.place_columns(x, rank, ranks, out);
        self.op(|it| it.sum_over_ranks(out.pointer(), out.rows() * out.columns(), Kind::F32));
    }

    fn gate_mul(&mut self, activation: Activation, gate_up: &Tensor, out: &mut Tensor) {
        self.op(|it| {
            let (rows, columns) = (gate_up.rows(), gate_up.columns() / 2);
            let to = out.output(rows, columns, Kind::Half);
            let arguments = Arguments::new().pointer(gate_up.pointer()).pointer(to).size(columns);
            let grid = [rows as u32, blocks(columns, VALUES), 1];
            let name = match activation {
                Activation::Silu => it.half("silu_mul"),
                Activation::GeluTanh => it.half("gelu_mul"),
            };
            it.launch("silu_mul", &name, grid, THREADS, arguments)
        });
    }

    fn gather_outputs(&mut self, x: &Tensor, range: Range<usize>, out: &mut Tensor) {
        self.op(|it| {
            let units = x.columns() * x.kind().bytes() / 16;
            let rows = it.step.output_rows(range.clone());
            let to = out.output(rows, x.columns(), x.kind());
            let arguments = Arguments::new()
                .pointer(x.pointer())
                .pointer(it.step.outputs(range.start))
                .pointer(to)
                .size(units);
            let grid = [rows as u32, blocks(units, 2 * THREADS as usize), 1];
            it.launch("gather_rows", "gather_rows", grid, THREADS, arguments)
        });
    }

    fn write(&mut self, x: &mut Tensor, rows: usize, values: &[f32]) {
        self.op(|it| it.upload(x, rows, values));
    }

    fn read<'a>(&'a mut self, x: &'a Tensor) -> Result<&'a [f32], BackendError> {
        self.op(|it| it.download(x));
        self.outcome()?;
        Ok(self.results.values(x))
    }

    fn samples(&self, vocab: usize) -> bool {
        Self::samples(vocab)
    }

    fn constrain(&mut self, masks: &[(usize, Arc<[u32]>)]) {
        self.op(|it| it.send_masks(masks));
    }

    fn sample(&mut self, logits: &mut Tensor, range: Range<usize>) {
        self.op(|it| it.choose(logits, range));
    }

    fn tokens(&mut self) -> Result<&[TokenId], BackendError> {
        self.chosen()
    }

    fn finish(&mut self) -> Result<(), BackendError> {
        self.op(|it| it.stream.synchronize());
        self.step.in_flight = false;
        self.outcome()
    }

    fn run(&mut self, work: &mut dyn FnMut(&mut Self)) -> bool {
        self.run_or_replay(work)
    }
}
