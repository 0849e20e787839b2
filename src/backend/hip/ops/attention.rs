//! Attention, over heads and over latents: what is written to the cache, and what is read of it.

use super::{THREADS, VALUES, blocks, check, pointer_or_null};
use crate::backend::hip::driver::{DevicePointer, Result as DriverResult};
use crate::backend::hip::kernels::Arguments;
use crate::backend::hip::step::{ListKey, Lists};
use crate::backend::hip::tensor::{Kind, Tensor, Vector};
use crate::backend::hip::{Cache, HipBackend};
use crate::backend::{Backend, HeadLayout, LatentLayout, RopeStyle};

/// Rows of a prefill item of latent attention: all heads of one are its queries in the latents' space;
/// over expanded keys each head has a tile of them.
pub(super) const MLA_ITEM_ROWS: usize = 64;

impl HipBackend {
    /// See [`Backend::rope_kv_write`](crate::backend::Backend::rope_kv_write).
    #[allow(clippy::too_many_arguments)]
    pub(super) fn write_keys(
        &mut self,
        qkv: &mut Tensor,
        heads: HeadLayout,
        norms: Option<(&Vector, &Vector, f32)>,
        angles: &Tensor,
        style: RopeStyle,
        kv: &mut Cache,
        layer: usize,
    ) -> DriverResult<()> {
        let HeadLayout { heads, kv_heads, head_dim } = heads;
        let rows = qkv.rows();
        let queries = self.queries.get(&self.gpu, rows * heads * head_dim * 2)?;
        let (keys, values) = kv.layer(layer);
        let (q_norm, k_norm, eps) = norms.map_or((None, None, 0.0), |(q, k, eps)| (Some(q), Some(k), eps));
        let arguments = Arguments::new()
            .pointer(qkv.pointer())
            .pointer(pointer_or_null(q_norm))
            .pointer(pointer_or_null(k_norm))
            .pointer(angles.pointer())
            .pointer(self.step.slots())
            .pointer(queries)
            .pointer(keys)
            .pointer(values)
            .size(heads)
            .size(kv_heads)
            .size(head_dim)
            .size(angles.columns())
            .size(usize::from(style == RopeStyle::Interleaved))
            .float(eps);
        // Heads of 64 and less take as many lanes.
        let padded = head_dim.next_power_of_two().max(64);
        let grid = [rows as u32, blocks(heads + 2 * kv_heads, VALUES / padded), 1];
        self.launch("rope_kv_write", &self.half("rope_kv_write"), grid, THREADS, arguments)
    }

    /// See [`Backend::attention`](crate::backend::Backend::attention).
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attend(
        &mut self,
        qkv: &Tensor,
        heads: HeadLayout,
        scale: f32,
        window: Option<usize>,
        kv: &Cache,
        layer: usize,
        out: &mut Tensor,
    ) -> DriverResult<()> {
        let HeadLayout { heads, kv_heads, head_dim } = heads;
        check(heads / kv_heads <= 16, "more than 16 query heads for a kv head")?;
        let tile = if head_dim <= 128 { 128 } else { 64 };
        let lists = self.lists(ListKey { window, item_rows: (tile / (heads / kv_heads)).max(1) })?;
        let (partials, stats) = self.partials(lists.partials, heads, head_dim)?;
        let queries = self.queries.get(&self.gpu, qkv.rows() * heads * head_dim * 2)?;
        let (keys, values) = kv.layer(layer);
        let to = out.output(qkv.rows(), heads * head_dim, Kind::Half);
        let begun = || Arguments::new().pointer(queries).pointer(keys).pointer(values);
        let prefill = begun()
            .pointer(lists.prefill.1)
            .pointer(lists.prefill_count)
            .pointer(self.step.tables())
            .pointer(to)
            .size(heads)
            .size(kv_heads)
            .size(window.unwrap_or(0))
            .float(scale);
        let name = format!("{}_{head_dim}", self.half("attention_prefill"));
        self.launch(
            "attention_prefill",
            &name,
            [lists.prefill.0 as u32, kv_heads as u32, 1],
            THREADS,
            prefill,
        )?;
        let decode = begun()
            .pointer(lists.decode.1)
            .pointer(self.step.tables())
            .pointer(to)
            .pointer(partials)
            .pointer(stats)
            .size(heads)
            .size(kv_heads)
            .float(scale);
        let name = format!("{}_{head_dim}", self.half("attention_decode"));
        self.launch("attention_decode", &name, [lists.decode.0 as u32, kv_heads as u32, 1], THREADS, decode)?;
        let reduce = Arguments::new()
            .pointer(lists.reduce.1)
            .pointer(partials)
            .pointer(stats)
            .pointer(to)
            .size(heads)
            .size(head_dim);
        let grid = [lists.reduce.0 as u32, blocks(heads * head_dim, VALUES), 1];
        self.launch("attention_reduce", &self.half("attention_reduce"), grid, THREADS, reduce)
    }

    /// See [`Backend::joint_qk_norm`](crate::backend::Backend::joint_qk_norm).
    #[allow(clippy::too_many_arguments)]
    pub(super) fn norm_jointly(
        &mut self,
        qkv: &mut Tensor,
        heads: HeadLayout,
        q_norm: &Vector,
        k_norm: &Vector,
        eps: f32,
    ) -> DriverResult<()> {
        let (rows, columns) = (qkv.rows(), qkv.columns());
        let (q_dim, k_dim) = (heads.q_dim(), heads.kv_heads * heads.head_dim);
        let sums = self.sums.get(&self.gpu, rows * 8)?;
        let begun = Arguments::new().pointer(qkv.pointer()).pointer(sums);
        let sizes = |arguments: Arguments| arguments.size(columns).size(q_dim).size(k_dim);
        let grid = [rows as u32, 1, 1];
        self.launch("joint_qk_norm", &self.half("joint_qk_sums"), grid, THREADS, sizes(begun))?;
        self.sum_over_ranks(sums, rows * 2, Kind::F32)?;
        let ranks = self.rank().1;
        let scaling = Arguments::new().pointer(qkv.pointer()).pointer(sums);
        let scaling = sizes(scaling.pointer(q_norm.pointer()).pointer(k_norm.pointer()));
        let scaling = scaling.float((q_dim * ranks) as f32).float((k_dim * ranks) as f32).float(eps);
        self.launch("joint_qk_norm", &self.half("joint_qk_scale"), grid, THREADS, scaling)
    }

    /// See [`Backend::mla_rope_kv_write`](crate::backend::Backend::mla_rope_kv_write).
    #[allow(clippy::too_many_arguments)]
    pub(super) fn write_latents(
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
    ) -> DriverResult<()> {
        let LatentLayout { heads, rank, nope_dim, rope_dim, .. } = layout;
        let to = query.output(q.rows(), heads * layout.entry_dim(), Kind::F16);
        let normed = self.expanded(layout)?.map_or(0, |expanded| expanded.normed);
        let arguments = Arguments::new()
            .pointer(q.pointer())
            .pointer(latent.pointer())
            .pointer(norm.pointer())
            .pointer(angles.pointer())
            .pointer(self.step.slots())
            .pointer(kv.layer(layer).0)
            .pointer(to)
            .pointer(normed)
            .size(heads)
            .size(nope_dim)
            .size(rope_dim)
            .size(rank)
            .float(eps);
        let name = format!("{}_{}", self.half("mla_kv_write"), style_name(style));
        self.launch("mla_kv_write", &name, [q.rows() as u32, 1, 1], THREADS, arguments)
    }

    /// See [`Backend::mla_attention`](crate::backend::Backend::mla_attention).
    #[allow(clippy::too_many_arguments)]
    pub(super) fn attend_latents(
        &mut self,
        query: &Tensor,
        layout: LatentLayout,
        scale: f32,
        kv: &Cache,
        layer: usize,
        out: &mut Tensor,
    ) -> DriverResult<()> {
        let LatentLayout { heads, rank, rope_dim, .. } = layout;
        check(rank.is_multiple_of(16) && rank <= 512 && rope_dim <= 64, "a latent of that shape")?;
        let key = ListKey { window: None, item_rows: MLA_ITEM_ROWS };
        let lists = self.lists(key)?;
        let (partials, stats) = self.partials(lists.partials, heads, rank)?;
        let to = out.output(query.rows(), heads * rank, Kind::F16);
        let cache = kv.layer(layer).0;
        let (shape, most) = match (rank, rope_dim) {
            (512, 64) => ("512_64", 32),
            (..=128, _) => ("to_128", 16),
            _ => ("to_512", 16),
        };
        let begun = |items| {
            let begun = Arguments::new().pointer(query.pointer()).pointer(cache).pointer(items);
            begun.pointer(self.step.tables()).pointer(to)
        };
        let sizes = |arguments: Arguments| arguments.size(heads).size(rank).size(rope_dim).float(scale);
        let (items, list) = lists.prefill;
        let grid = [blocks(MLA_ITEM_ROWS * heads, most), items as u32, 1];
        self.launch(
            "mla_prefill",
            &format!("mla_prefill_{shape}_{most}"),
            grid,
            THREADS,
            sizes(begun(list)),
        )?;

        let (items, list) = lists.decode;
        let queries = if heads > 16 { most } else { 16 };
        let grid = [blocks(heads, queries), items as u32, 1];
        let decode = sizes(begun(list).pointer(partials).pointer(stats));
        self.launch("mla_decode", &format!("mla_decode_{shape}_{queries}"), grid, THREADS, decode)?;
        if lists.partials == 0 {
            return Ok(());
        }
        let reduce = Arguments::new().pointer(list).pointer(partials).pointer(stats).pointer(to);
        let grid = [blocks(heads * rank, 4 * THREADS as usize), items as u32, 1];
        self.launch("mla_reduce", "mla_reduce", grid, THREADS, reduce.size(heads).size(rank))
    }

    /// Work lists of a layer, and memory for their partial results.
    pub(super) fn lists(&mut self, key: ListKey) -> DriverResult<Lists> {
        let Self { gpu, stream, step, .. } = self;
        step.lists(gpu, stream, key)
    }

    /// (partial results, their statistics) for `partials` rows of `heads` times `dim`.
    fn partials(
        &mut self,
        partials: usize,
        heads: usize,
        dim: usize,
    ) -> DriverResult<(DevicePointer, DevicePointer)> {
        let values = self.partials.get(&self.gpu, partials * heads * dim * 4)?;
        Ok((values, self.stats.get(&self.gpu, partials * heads * 8)?))
    }
}

fn style_name(style: RopeStyle) -> &'static str {
    match style {
        RopeStyle::Half => "half",
        RopeStyle::Interleaved => "interleaved",
    }
}
