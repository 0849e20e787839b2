//! Activations and small vectors on a GPU.

use super::device::DeviceMemory;
use super::driver::DevicePointer;
use super::gpu::Gpu;
use crate::backend::BackendError;
use crate::checkpoint::TensorData;

/// The type of a tensor's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The device's [`super::gpu::Half`].
    Half,
    /// The KV cache's type, whatever activations are.
    F16,
    /// 4 bytes.
    F32,
}

impl Kind {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Kind::Half | Kind::F16 => 2,
            Kind::F32 => 4,
        }
    }
}

/// A matrix of activations: `[rows <= max_rows, columns]`, row-major.
pub struct Tensor {
    memory: DeviceMemory,
    rows: usize,
    max_rows: usize,
    columns: usize,
    kind: Kind,
}

impl Tensor {
    /// Without current rows.
    pub fn new(gpu: &Gpu, max_rows: usize, columns: usize, kind: Kind) -> Result<Self, BackendError> {
        let bytes = max_rows * columns * kind.bytes();
        Ok(Self { memory: gpu.allocate("activations", bytes)?, rows: 0, max_rows, columns, kind })
    }

    /// Current rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Of its values.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// For a kernel that reads it.
    pub fn pointer(&self) -> DevicePointer {
        self.memory.pointer()
    }

    /// Its memory.
    pub fn memory(&self) -> &DeviceMemory {
        &self.memory
    }

    /// Bytes of its current rows.
    pub fn current_bytes(&self) -> usize {
        self.rows * self.columns * self.kind.bytes()
    }

    /// For a kernel that writes so many rows of `columns` values of that kind.
    pub fn output(&mut self, rows: usize, columns: usize, kind: Kind) -> DevicePointer {
        assert!(rows <= self.max_rows, "{rows} rows in a tensor of {}", self.max_rows);
        assert_eq!((columns, kind), (self.columns, self.kind), "columns and type of an output");
        self.rows = rows;
        self.memory.pointer()
    }
}

/// f32 values.
pub struct Vector {
    memory: DeviceMemory,
    len: usize,
}

impl Vector {
    /// See [`crate::backend::Backend::vector`].
    pub fn load(gpu: &Gpu, parts: &[TensorData<'_>]) -> Result<Self, BackendError> {
        let mut bytes = Vec::new();
        for part in parts {
            let values = part.to_f32().map_err(|error| BackendError::Unsupported(error.to_string()))?;
            bytes.extend(values.into_iter().flat_map(f32::to_le_bytes));
        }
        let what = parts.first().map_or("a vector", |part| &part.name);
        Ok(Self { memory: gpu.upload(what, &bytes)?, len: bytes.len() / 4 })
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// For kernels.
    pub fn pointer(&self) -> DevicePointer {
        self.memory.pointer()
    }
}
