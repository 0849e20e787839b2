//! The kernels that build.rs compiled and embedded, loaded onto a device.

use super::device::{Context, Function, Grid, Module, Stream};
use super::driver::{DevicePointer, DriverError, Result, Vendor};
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Mutex;

/// A compiled kernel file.
pub struct Object {
    /// `add_rms_norm`.
    pub file: &'static str,
    /// `gfx90a`; `sm_80` for PTX.
    pub architecture: &'static str,
    /// An ELF code object, or PTX text.
    pub image: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/objects.rs"));

/// The architectures that this program carries kernels for.
pub fn architectures() -> Vec<&'static str> {
    let mut names: Vec<&str> = OBJECTS.iter().map(|object| object.architecture).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The names of all entry points, sorted: PTX, which is text, says them.
pub fn entry_points() -> Vec<&'static str> {
    let texts = OBJECTS.iter().filter(|object| object.architecture.starts_with("sm_"));
    let names = texts.flat_map(|object| {
        let text = std::str::from_utf8(object.image).unwrap_or_default();
        text.split(".entry ").skip(1).filter_map(|rest| rest.split('(').next())
    });
    let mut names: Vec<&str> = names.map(str::trim).collect();
    names.sort_unstable();
    names
}

/// Which embedded architecture runs on a device of that one, or why none does.
pub fn architecture_for(vendor: Vendor, device: &str) -> std::result::Result<&'static str, String> {
    let built = architectures();
    if let Err(reason) = COMPILER {
        return Err(format!(
            "this program carries no GPU kernels: {reason}; install clang-19 and build it again"
        ));
    }
    let number = |name: &str| name.strip_prefix("sm_")?.parse::<u32>().ok();
    let runs = |have: &&str| match vendor {
        Vendor::Amd => *have == device,
        // PTX is compiled by the driver for its own device.
        Vendor::Nvidia => {
            number(have).is_some_and(|have| number(device).is_some_and(|device| have <= device))
        }
    };
    built
        .iter()
        .copied()
        .find(runs)
        .ok_or_else(|| format!("device {device}: no kernels built for it; built: {}", built.join(", ")))
}

/// `hipErrorNotFound`, `CUDA_ERROR_NOT_FOUND`.
const NOT_FOUND: i32 = 500;

/// Kernels of one device, each file loaded when one of its entry points is first wanted.
pub struct Kernels {
    context: Context,
    architecture: &'static str,
    modules: Mutex<HashMap<&'static str, Module>>,
    functions: Mutex<HashMap<String, Function>>,
}

impl Kernels {
    /// For a device that runs that architecture, see [`architecture_for`].
    pub fn new(context: &Context, architecture: &'static str) -> Self {
        let (modules, functions) = (Mutex::default(), Mutex::default());
        Self { context: context.clone(), architecture, modules, functions }
    }

    /// What they were compiled for.
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// The names of those that were wanted so far, that is launched.
    pub fn used(&self) -> Vec<String> {
        let functions = self.functions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        functions.keys().cloned().collect()
    }

    /// An entry point of kernels/`file`.hip.
    pub fn get(&self, file: &'static str, name: &str) -> Result<Function> {
        let mut functions = self.functions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(*function);
        }
        let mut modules = self.modules.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !modules.contains_key(file) {
            let found = |object: &&Object| object.file == file && object.architecture == self.architecture;
            let object = OBJECTS.iter().find(found).ok_or_else(|| {
                DriverError::Library(format!("no kernel file {file} for {}", self.architecture))
            })?;
            // PTX is text, which ends with a zero.
            let mut image = object.image.to_vec();
            image.push(0);
            modules.insert(file, self.context.module(&image)?);
        }
        let c_name = CString::new(name).expect("names of kernels have no zeros");
        let function = modules[file].function(&c_name).map_err(|error| match error {
            DriverError::Call { code: NOT_FOUND, .. } => {
                let text = format!(
                    "there is no kernel {name} for {}: a shape or type without one",
                    self.architecture
                );
                DriverError::Library(text)
            }
            error => error,
        })?;
        functions.insert(name.to_owned(), function);
        Ok(function)
    }
}

/// A kernel's arguments in the layout of C: each aligned to its size.
#[derive(Default)]
pub struct Arguments {
    bytes: Vec<u8>,
}

impl Arguments {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn put<const N: usize>(mut self, bytes: [u8; N]) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(N), 0);
        self.bytes.extend(bytes);
        self
    }

    /// A pointer; 0 is null.
    pub fn pointer(self, pointer: DevicePointer) -> Self {
        self.put(pointer.to_le_bytes())
    }

    /// A u32. Sizes that kernels take are below 2^32: they come from a config whose fields are.
    pub fn size(self, value: usize) -> Self {
        self.put(u32::try_from(value).expect("sizes of a model fit in 32 bits").to_le_bytes())
    }

    /// A float.
    pub fn float(self, value: f32) -> Self {
        self.put(value.to_le_bytes())
    }

    /// Launches the kernel with them.
    ///
    /// # Safety
    /// As [`Stream::launch`].
    pub unsafe fn launch(self, stream: &Stream, function: Function, grid: Grid, threads: u32) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { stream.launch(function, grid, threads, &self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_aligned_as_in_c() {
        let arguments = Arguments::new().size(1).pointer(2).float(1.0).size(3).size(4);
        let wanted: Vec<u8> = [1u64, 2].iter().flat_map(|n| n.to_le_bytes()).collect();
        assert_eq!(arguments.bytes[..16], wanted);
        assert_eq!(arguments.bytes[16..], [0, 0, 0x80, 0x3f, 3, 0, 0, 0, 4, 0, 0, 0]);
    }
    /// A driver refuses a file that uses an instruction of a later version than the one it names.
    #[test]
    fn ptx_names_a_version_that_has_its_instructions() {
        // What clang does not know, as it stands in assembly: NVIDIA's PTX ISA says when it came.
        const SINCE: [(&str, f32); 3] = [("mma.sync", 7.0), ("ldmatrix", 6.5), ("movmatrix", 7.8)];
        let mut used = std::collections::BTreeSet::new();
        for object in OBJECTS.iter().filter(|object| object.architecture.starts_with("sm_")) {
            let text = std::str::from_utf8(object.image).expect("PTX is text");
            let line = text.lines().find_map(|line| line.strip_prefix(".version ")).expect("a version");
            let version: f32 = line.trim().parse().expect("a number");
            for (instruction, since) in SINCE.into_iter().filter(|(name, _)| text.contains(name)) {
                assert!(version >= since, "{} is PTX {version} and has {instruction}", object.file);
                used.insert(instruction);
            }
        }
        // None without a compiler.
        assert!(OBJECTS.is_empty() || used.len() == SINCE.len(), "{used:?}");
    }
}
