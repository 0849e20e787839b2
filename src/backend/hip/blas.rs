//! The vendor's matrix products, for large ones: hipBLASLt, cuBLASLt in the same shape, or rocBLAS,
//! opened at run time. What they do not take is left to our own kernels.
//!
//! Row-major `out [m, n] = x [m, k] W [n, k]^T` is, column by column, `out^T = W x^T`: the first
//! operand is W, transposed, the second is x as it lies.

use super::device::{Context, DeviceMemory, Stream};
use super::driver::{DevicePointer, DriverError, Handle, Result, Status, Vendor, open_library, symbol};
use super::gpu::Half;
use libloading::Library;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};

/// For what a product needs beside its operands.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Shapes that are remembered; prefills differ in their rows.
const PLANS_MAX: usize = 1024;

/// A product's sizes and types: `out [m, n]`, rows `stride` apart, in f32 or in the half type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Rows of x and out.
    pub m: usize,
    /// Rows of W.
    pub n: usize,
    /// Columns of x and W.
    pub k: usize,
    /// Values from row to row of out.
    pub stride: usize,
    /// Whether out is in f32.
    pub to_f32: bool,
}

/// Where the operands are.
#[derive(Clone, Copy, Debug)]
pub struct Operands {
    /// `[n, k]`.
    pub w: DevicePointer,
    /// `[m, k]`.
    pub x: DevicePointer,
    /// See [`Shape`].
    pub out: DevicePointer,
}

/// An opened library.
pub struct Blas {
    path: String,
    half: Half,
    workspace: DeviceMemory,
    entries: Entries,
    _library: Library,
}

enum Entries {
    Lt(Lt),
    Rocblas(Rocblas),
}

impl Blas {
    /// The vendor's library, if there is one; why not is for the log.
    pub fn open(context: &Context, stream: &Stream, half: Half) -> Result<Self> {
        let vendor = context.driver().vendor();
        context.make_current()?;
        let (library, path, entries) = match vendor {
            Vendor::Nvidia => {
                let names =
                    &["libcublasLt.so.12", "libcublasLt.so.13", "libcublasLt.so.11", "libcublasLt.so"];
                let remedy = "large products run on our own kernels";
                let (library, path) = open_library("NOVASTACK_CUBLASLT_LIBRARY", names, remedy)?;
                let lt = Lt::load(&library, &path, vendor)?;
                (library, path, Entries::Lt(lt))
            }
            Vendor::Amd => {
                let names = &["libhipblaslt.so", "libhipblaslt.so.1", "libhipblaslt.so.0"];
                let remedy = "large products run on rocBLAS or on our own kernels";
                let lt = open_library("NOVASTACK_HIPBLASLT_LIBRARY", names, remedy)
                    .and_then(|(library, path)| Ok((Lt::load(&library, &path, vendor)?, library, path)));
                match lt {
                    Ok((lt, library, path)) => (library, path, Entries::Lt(lt)),
                    Err(_) => {
                        let names =
                            &["librocblas.so", "librocblas.so.5", "librocblas.so.4", "librocblas.so.0"];
                        let remedy = "large products run on our own kernels";
                        let (library, path) = open_library("NOVASTACK_ROCBLAS_LIBRARY", names, remedy)?;
                        let rocblas = Rocblas::load(&library, &path, stream)?;
                        (library, path, Entries::Rocblas(rocblas))
                    }
                }
            }
        };
        let workspace = context.allocate(WORKSPACE_BYTES)?;
        Ok(Self { path, half, workspace, entries, _library: library })
    }

    /// What was opened.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Enqueues the product; false where the library has none for the shape.
    ///
    /// # Safety
    /// The operands hold what the shape says, and live until the stream has been waited for.
    pub unsafe fn product(&mut self, stream: &Stream, shape: Shape, operands: Operands) -> Result<bool> {
        stream.context().make_current()?;
        // SAFETY: the caller's promise.
        unsafe {
            match &mut self.entries {
                Entries::Lt(lt) => lt.product(stream, shape, operands, self.half, &self.workspace),
                Entries::Rocblas(rocblas) => rocblas.product(shape, operands, self.half).map(|()| true),
            }
        }
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: handles and plans are destroyed once, before the library is closed.
        unsafe {
            match &mut self.entries {
                Entries::Lt(lt) => {
                    lt.plans
                        .drain()
                        .filter_map(|(_, plan)| plan)
                        .for_each(|plan| lt.calls.destroy_plan(plan));
                    (lt.calls.destroy)(lt.handle);
                }
                Entries::Rocblas(rocblas) => {
                    (rocblas.destroy)(rocblas.handle);
                }
            }
        }
    }
}

fn check(call: &'static str, status: Status) -> Result<()> {
    match status {
        0 => Ok(()),
        code => Err(DriverError::Call { call, code, text: "the vendor's BLAS failed".into() }),
    }
}

type SetAttribute = unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> Status;

/// hipBLASLt's and cuBLASLt's entries are the same but for their names.
struct LtCalls {
    destroy: unsafe extern "C" fn(Handle) -> Status,
    desc_create: unsafe extern "C" fn(*mut Handle, c_int, c_int) -> Status,
    desc_set: SetAttribute,
    desc_destroy: unsafe extern "C" fn(Handle) -> Status,
    layout_create: unsafe extern "C" fn(*mut Handle, c_int, u64, u64, i64) -> Status,
    layout_destroy: unsafe extern "C" fn(Handle) -> Status,
    preference_create: unsafe extern "C" fn(*mut Handle) -> Status,
    preference_set: SetAttribute,
    preference_destroy: unsafe extern "C" fn(Handle) -> Status,
    heuristic: unsafe extern "C" fn(
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        c_int,
        *mut c_void,
        *mut c_int,
    ) -> Status,
    matmul: unsafe extern "C" fn(
        Handle,
        Handle,
        *const c_void,
        DevicePointer,
        Handle,
        DevicePointer,
        Handle,
        *const c_void,
        DevicePointer,
        Handle,
        DevicePointer,
        Handle,
        *const c_void,
        DevicePointer,
        usize,
        Handle,
    ) -> Status,
}

/// What differs between them.
struct LtNumbers {
    transpose_first: c_int,
    transpose_second: c_int,
    none: i32,
    transposed: i32,
    compute_f32: c_int,
    /// Of a heuristic's result, in 8 bytes: where it says how much workspace it needs.
    workspace_at: usize,
}

const HIP_NUMBERS: LtNumbers = LtNumbers {
    transpose_first: 0,
    transpose_second: 1,
    none: 111,
    transposed: 112,
    compute_f32: 2,
    workspace_at: 3,
};
const CUDA_NUMBERS: LtNumbers = LtNumbers {
    transpose_first: 3,
    transpose_second: 4,
    none: 0,
    transposed: 1,
    compute_f32: 68,
    workspace_at: 8,
};
/// Of the preference; the same in both.
const MAX_WORKSPACE_BYTES: c_int = 1;
/// `HIP_R_32F`, `CUDA_R_32F`.
const F32: c_int = 0;

/// `HIP_R_16BF`, `HIP_R_16F`; the same in CUDA.
fn lt_type(half: Half) -> c_int {
    match half {
        Half::Bf16 => 14,
        Half::F16 => 2,
    }
}

/// How a shape is computed. The algorithm is the first part of the heuristic's result.
struct LtPlan {
    desc: Handle,
    w: Handle,
    x: Handle,
    out: Handle,
    result: [u64; 16],
}

struct Lt {
    handle: Handle,
    calls: LtCalls,
    numbers: LtNumbers,
    /// None: the library has nothing for the shape.
    plans: HashMap<Shape, Option<LtPlan>>,
}

// SAFETY: handles are used by the thread that owns them, under a lock.
unsafe impl Send for Blas {}

impl LtCalls {
    /// # Safety
    /// The plan is used no more.
    unsafe fn destroy_plan(&self, plan: LtPlan) {
        // SAFETY: the caller's promise.
        unsafe {
            (self.desc_destroy)(plan.desc);
            for layout in [plan.w, plan.x, plan.out] {
                (self.layout_destroy)(layout);
            }
        }
    }
}

impl Lt {
    fn load(library: &Library, path: &str, vendor: Vendor) -> Result<Self> {
        let (prefix, numbers) = match vendor {
            Vendor::Amd => ("hipblasLt", HIP_NUMBERS),
            Vendor::Nvidia => ("cublasLt", CUDA_NUMBERS),
        };
        let name = |rest: &str| format!("{prefix}{rest}");
        // SAFETY: the entries have these signatures in all versions of either library.
        let (create, calls) = unsafe {
            let create: unsafe extern "C" fn(*mut Handle) -> Status = symbol(library, &name("Create"), path)?;
            let calls = LtCalls {
                destroy: symbol(library, &name("Destroy"), path)?,
                desc_create: symbol(library, &name("MatmulDescCreate"), path)?,
                desc_set: symbol(library, &name("MatmulDescSetAttribute"), path)?,
                desc_destroy: symbol(library, &name("MatmulDescDestroy"), path)?,
                layout_create: symbol(library, &name("MatrixLayoutCreate"), path)?,
                layout_destroy: symbol(library, &name("MatrixLayoutDestroy"), path)?,
                preference_create: symbol(library, &name("MatmulPreferenceCreate"), path)?,
                preference_set: symbol(library, &name("MatmulPreferenceSetAttribute"), path)?,
                preference_destroy: symbol(library, &name("MatmulPreferenceDestroy"), path)?,
                heuristic: symbol(library, &name("MatmulAlgoGetHeuristic"), path)?,
                matmul: symbol(library, &name("Matmul"), path)?,
            };
            (create, calls)
        };
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes a handle.
        check("blas handle", unsafe { create(&mut handle) })?;
        Ok(Self { handle, calls, numbers, plans: HashMap::new() })
    }

    /// # Safety
    /// As [`Blas::product`].
    unsafe fn product(
        &mut self,
        stream: &Stream,
        shape: Shape,
        operands: Operands,
        half: Half,
        workspace: &DeviceMemory,
    ) -> Result<bool> {
        if !self.plans.contains_key(&shape) {
            if self.plans.len() == PLANS_MAX {
                let plans = std::mem::take(&mut self.plans);
                // SAFETY: matmul has copied what it needs of them.
                plans.into_values().flatten().for_each(|plan| unsafe { self.calls.destroy_plan(plan) });
            }
            let plan = self.plan(shape, half)?;
            self.plans.insert(shape, plan);
        }
        let Some(Some(plan)) = self.plans.get(&shape) else { return Ok(false) };
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: the plan's handles are alive; the scalars are read before the call returns; the
        // rest is the caller's promise.
        let status = unsafe {
            (self.calls.matmul)(
                self.handle,
                plan.desc,
                (&raw const one).cast(),
                operands.w,
                plan.w,
                operands.x,
                plan.x,
                (&raw const zero).cast(),
                operands.out,
                plan.out,
                operands.out,
                plan.out,
                plan.result.as_ptr().cast(),
                workspace.pointer(),
                workspace.bytes(),
                stream.handle(),
            )
        };
        check("matmul", status).map(|()| true)
    }

    /// None where the library has no algorithm.
    fn plan(&self, shape: Shape, half: Half) -> Result<Option<LtPlan>> {
        let Shape { m, n, k, stride, to_f32 } = shape;
        let (calls, numbers) = (&self.calls, &self.numbers);
        let null = std::ptr::null_mut();
        let mut plan = LtPlan { desc: null, w: null, x: null, out: null, result: [0; 16] };
        let mut preference = null;
        let (half, out) = (lt_type(half), if to_f32 { F32 } else { lt_type(half) });
        let mut found = 0;
        // SAFETY: handles are written before they are used; attributes are of the sizes given; the
        // result has room for either library's structure.
        unsafe {
            check("matmul description", (calls.desc_create)(&mut plan.desc, numbers.compute_f32, F32))?;
            for (attribute, value) in
                [(numbers.transpose_first, numbers.transposed), (numbers.transpose_second, numbers.none)]
            {
                check("transposition", (calls.desc_set)(plan.desc, attribute, (&raw const value).cast(), 4))?;
            }
            let layout = |to: &mut Handle, dtype, rows: usize, columns: usize, apart: usize| {
                check("layout", (calls.layout_create)(to, dtype, rows as u64, columns as u64, apart as i64))
            };
            layout(&mut plan.w, half, k, n, k)?;
            layout(&mut plan.x, half, k, m, k)?;
            layout(&mut plan.out, out, n, m, stride)?;
            check("preference", (calls.preference_create)(&mut preference))?;
            let bytes = WORKSPACE_BYTES as u64;
            let set = (calls.preference_set)(preference, MAX_WORKSPACE_BYTES, (&raw const bytes).cast(), 8);
            check("preference", set)?;
            // No algorithm is an answer, which some versions give as an error.
            let status = (calls.heuristic)(
                self.handle,
                plan.desc,
                plan.w,
                plan.x,
                plan.out,
                plan.out,
                preference,
                1,
                plan.result.as_mut_ptr().cast(),
                &mut found,
            );
            (calls.preference_destroy)(preference);
            let state = plan.result[numbers.workspace_at + 1] as u32;
            let fits = plan.result[numbers.workspace_at] <= bytes;
            if status != 0 || found == 0 || state != 0 || !fits {
                calls.destroy_plan(plan);
                return Ok(None);
            }
        }
        Ok(Some(plan))
    }
}

type GemmEx = unsafe extern "C" fn(
    Handle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    DevicePointer,
    c_int,
    c_int,
    DevicePointer,
    c_int,
    c_int,
    *const c_void,
    DevicePointer,
    c_int,
    c_int,
    DevicePointer,
    c_int,
    c_int,
    c_int,
    c_int,
    i32,
    u32,
) -> Status;

struct Rocblas {
    handle: Handle,
    destroy: unsafe extern "C" fn(Handle) -> Status,
    gemm: GemmEx,
}

impl Rocblas {
    fn load(library: &Library, path: &str, stream: &Stream) -> Result<Self> {
        // SAFETY: the entries have these signatures in all versions of the library.
        let (create, set_stream, destroy, gemm) = unsafe {
            let create: unsafe extern "C" fn(*mut Handle) -> Status =
                symbol(library, "rocblas_create_handle", path)?;
            let set_stream: unsafe extern "C" fn(Handle, Handle) -> Status =
                symbol(library, "rocblas_set_stream", path)?;
            (
                create,
                set_stream,
                symbol(library, "rocblas_destroy_handle", path)?,
                symbol(library, "rocblas_gemm_ex", path)?,
            )
        };
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes a handle, then uses it.
        unsafe {
            check("blas handle", create(&mut handle))?;
            check("blas stream", set_stream(handle, stream.handle()))?;
        }
        Ok(Self { handle, destroy, gemm })
    }

    /// # Safety
    /// As [`Blas::product`].
    unsafe fn product(&self, shape: Shape, operands: Operands, half: Half) -> Result<()> {
        // rocblas_operation_transpose, _none; rocblas_datatype_f32_r, _bf16_r, _f16_r.
        const TRANSPOSED: c_int = 112;
        const NONE: c_int = 111;
        const F32: c_int = 151;
        let half = match half {
            Half::Bf16 => 168,
            Half::F16 => 150,
        };
        let Shape { m, n, k, stride, to_f32 } = shape;
        let out = if to_f32 { F32 } else { half };
        let [m, n, k, stride] = [m, n, k, stride].map(|size| size as c_int);
        let (one, zero) = (1.0f32, 0.0f32);
        let Operands { w, x, out: to } = operands;
        // SAFETY: the scalars are read before the call returns; the rest is the caller's promise.
        let status = unsafe {
            (self.gemm)(
                self.handle,
                TRANSPOSED,
                NONE,
                n,
                m,
                k,
                (&raw const one).cast(),
                w,
                half,
                k,
                x,
                half,
                k,
                (&raw const zero).cast(),
                to,
                out,
                stride,
                to,
                out,
                stride,
                F32,
                0,
                0,
                0,
            )
        };
        check("gemm", status)
    }
}
