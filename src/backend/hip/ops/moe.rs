//! Mixtures of experts: a step's routes, and the products over them.

use super::{ROUTE_THREADS, THREADS, VALUES, blocks, pointer_or_null};
use crate::backend::hip::driver::Result as DriverResult;
use crate::backend::hip::kernels::Arguments;
use crate::backend::hip::tensor::{Kind, Tensor, Vector};
use crate::backend::hip::{Experts, HipBackend, Routes};
use crate::backend::{GroupScore, Routing, Scoring};
use std::ops::Range;

impl HipBackend {
    /// See [`Backend::moe_route`](crate::backend::Backend::moe_route).
    pub(super) fn route(
        &mut self,
        logits: &Tensor,
        bias: Option<&Vector>,
        routing: &Routing,
        local: Range<usize>,
        routes: &mut Routes,
    ) -> DriverResult<()> {
        let Routing { experts, top_k, groups, .. } = *routing;
        let rows = logits.rows();
        assert_eq!((logits.columns(), logits.kind()), (experts, Kind::F32), "router logits");
        routes.begin(rows, local.len(), self.deterministic);
        let flags = [
            (routing.scoring == Scoring::Sigmoid, 1),
            (groups.is_some_and(|groups| groups.score == GroupScore::BestTwo), 2),
            (routing.normalise, 4),
        ];
        let flags = flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
        let arguments = Arguments::new()
            .pointer(logits.pointer())
            .pointer(pointer_or_null(bias))
            .pointer(self.step.row_count())
            .pointer(routes.chosen.pointer())
            .pointer(routes.weights.pointer())
            .size(rows)
            .size(experts)
            .size(top_k)
            .size(groups.map_or(0, |groups| groups.count))
            .size(groups.map_or(0, |groups| groups.keep))
            .size(local.start)
            .size(local.end)
            .size(flags)
            .float(routing.scale);
        self.launch("moe_route", "moe_route", [blocks(rows, 2), 1, 1], ROUTE_THREADS, arguments)?;
        // Pairs that there are not have no row: a gather passes over them.
        // SAFETY: the routes outlive the step.
        unsafe { self.stream.fill(&routes.pair_rows, 0xff)? };
        let arguments = Arguments::new()
            .pointer(routes.chosen.pointer())
            .pointer(self.step.row_count())
            .pointer(routes.pair_rows.pointer())
            .pointer(routes.pair_of.pointer())
            .pointer(routes.first_pairs.pointer())
            .pointer(routes.tiles.pointer())
            .size(top_k)
            .size(local.len())
            .size(routes.tile_rows)
            .size(routes.tiles_max);
        self.launch("moe_sort", "moe_sort", [local.len() as u32, 1, 1], THREADS, arguments)
    }

    /// See [`Backend::moe_dispatch`](crate::backend::Backend::moe_dispatch).
    pub(super) fn dispatch(&mut self, x: &Tensor, routes: &Routes, out: &mut Tensor) -> DriverResult<()> {
        let pairs = routes.pairs();
        let units = x.columns() * x.kind().bytes() / 16;
        let to = out.output(pairs, x.columns(), x.kind());
        let arguments = Arguments::new().pointer(x.pointer()).pointer(routes.pair_rows.pointer());
        let grid = [pairs as u32, blocks(units, 2 * THREADS as usize), 1];
        self.launch("gather_rows", "gather_rows", grid, THREADS, arguments.pointer(to).size(units))
    }

    /// See [`Backend::expert_linear`](crate::backend::Backend::expert_linear).
    pub(super) fn experts_product(
        &mut self,
        w: &Experts,
        routes: &Routes,
        x: &Tensor,
        out: &mut Tensor,
    ) -> DriverResult<()> {
        let to = out.output(routes.pairs(), w.rows, Kind::Half);
        let Some(part) = &w.part else { return Ok(()) };
        assert_eq!((x.columns(), x.kind()), (w.columns, Kind::Half), "an expert's input");
        let (shape, per_block) = match routes.tile_rows {
            few @ ..=2 => (format!("m{few}"), 16),
            16 => ("m16".into(), 32),
            32 => ("32x128".into(), 128),
            rows @ 64 => (format!("{rows}x64"), 64),
            rows => (format!("{rows}x128"), 128),
        };
        let name = format!("moe_gemm{}_{}_{shape}", part.format.suffix(), self.gpu.half.name());
        let arguments = part.arguments(Arguments::new().pointer(x.pointer()));
        let arguments = arguments.pointer(0).pointer(routes.tiles.pointer()).pointer(to);
        let grid = [blocks(w.rows, per_block), routes.tiles_max as u32, 1];
        let arguments = arguments.size(w.rows).size(w.columns);
        self.launch(part.format.moe_file(), &name, grid, THREADS, arguments)
    }

    /// See [`Backend::moe_combine`](crate::backend::Backend::moe_combine).
    pub(super) fn combine(
        &mut self,
        x: &Tensor,
        routes: &Routes,
        shared: Option<&Tensor>,
        out: &mut Tensor,
    ) -> DriverResult<()> {
        let (rows, columns) = (routes.rows, x.columns());
        let to = out.output(rows, columns, Kind::Half);
        let arguments = Arguments::new()
            .pointer(x.pointer())
            .pointer(routes.chosen.pointer())
            .pointer(routes.weights.pointer())
            .pointer(routes.pair_of.pointer())
            .pointer(shared.map_or(0, Tensor::pointer))
            .pointer(to)
            .size(columns)
            .size(routes.top_k);
        let grid = [rows as u32, blocks(columns, VALUES), 1];
        self.launch("moe_combine", &self.half("moe_combine"), grid, THREADS, arguments)
    }
}
