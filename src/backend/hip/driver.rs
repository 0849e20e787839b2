//! The driver: some thirty entries of `libamdhip64.so`, or of `libcuda.so.1` in the same shape,
//! opened at run time. Everything that is unsafe about them is behind this module's types; what
//! they promise each other is written at each.
//!
//! Deliberately absent: `hipDeviceProp_t`, whose size differs between versions (the architecture's
//! name is searched for in a buffer that is large enough for all of them).

use super::device::Context;
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::sync::Arc;

/// Whose devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// ROCm's HIP runtime.
    Amd,
    /// The CUDA driver.
    Nvidia,
}

impl Vendor {
    /// `hip`, `cuda`: what stands before the colon of `--device`.
    pub fn scheme(self) -> &'static str {
        match self {
            Vendor::Amd => "hip",
            Vendor::Nvidia => "cuda",
        }
    }

    /// Where a library may be named, what it is called, and how to get it.
    fn library(self) -> (&'static str, &'static [&'static str], &'static str) {
        match self {
            Vendor::Amd => (
                "NOVASTACK_HIP_LIBRARY",
                &["libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5"],
                "install ROCm, or set NOVASTACK_HIP_LIBRARY to its path",
            ),
            Vendor::Nvidia => (
                "NOVASTACK_CUDA_LIBRARY",
                &["libcuda.so.1", "libcuda.so"],
                "install NVIDIA's driver, or set NOVASTACK_CUDA_LIBRARY to its path",
            ),
        }
    }
}

/// Why a device cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DriverError {
    /// There is no such library, or it lacks an entry.
    #[error("{0}")]
    Library(String),
    /// A call failed.
    #[error("{call}: {text} (error {code})")]
    Call {
        /// The entry's name.
        call: &'static str,
        /// The driver's number.
        code: i32,
        /// The driver's words.
        text: String,
    },
}

impl DriverError {
    /// Whether memory was what was lacking.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, DriverError::Call { code: 2, .. })
    }
}

pub(super) type Result<T> = std::result::Result<T, DriverError>;
pub(super) type Handle = *mut c_void;
pub(super) type Status = c_int;

/// A pointer in a device's memory.
pub type DevicePointer = u64;

macro_rules! entries {
    ($($name:ident: $hip:literal $cuda:literal ($($type:ty),*);)*) => {
        /// Entries that both vendors have with the same arguments.
        pub(super) struct Entries {
            $(pub(super) $name: unsafe extern "C" fn($($type),*) -> Status,)*
        }

        impl Entries {
            fn load(library: &Library, vendor: Vendor, path: &str) -> Result<Self> {
                Ok(Self { $($name: {
                    let name = match vendor { Vendor::Amd => $hip, Vendor::Nvidia => $cuda };
                    // SAFETY: the entry has this signature in all versions of either library.
                    unsafe { symbol(library, name, path)? }
                },)* })
            }
        }
    };
}

entries! {
    init: "hipInit" "cuInit" (c_uint);
    version: "hipDriverGetVersion" "cuDriverGetVersion" (*mut c_int);
    count: "hipGetDeviceCount" "cuDeviceGetCount" (*mut c_int);
    name: "hipDeviceGetName" "cuDeviceGetName" (*mut c_char, c_int, c_int);
    attribute: "hipDeviceGetAttribute" "cuDeviceGetAttribute" (*mut c_int, c_int, c_int);
    memory_info: "hipMemGetInfo" "cuMemGetInfo_v2" (*mut usize, *mut usize);
    malloc: "hipMalloc" "cuMemAlloc_v2" (*mut DevicePointer, usize);
    free: "hipFree" "cuMemFree_v2" (DevicePointer);
    host_malloc: "hipHostMalloc" "cuMemHostAlloc" (*mut *mut c_void, usize, c_uint);
    host_free: "hipHostFree" "cuMemFreeHost" (*mut c_void);
    stream_create: "hipStreamCreateWithFlags" "cuStreamCreate" (*mut Handle, c_uint);
    stream_destroy: "hipStreamDestroy" "cuStreamDestroy_v2" (Handle);
    stream_synchronize: "hipStreamSynchronize" "cuStreamSynchronize" (Handle);
    event_create: "hipEventCreateWithFlags" "cuEventCreate" (*mut Handle, c_uint);
    event_destroy: "hipEventDestroy" "cuEventDestroy_v2" (Handle);
    event_record: "hipEventRecord" "cuEventRecord" (Handle, Handle);
    event_synchronize: "hipEventSynchronize" "cuEventSynchronize" (Handle);
    event_elapsed: "hipEventElapsedTime" "cuEventElapsedTime" (*mut f32, Handle, Handle);
    module_load: "hipModuleLoadData" "cuModuleLoadData" (*mut Handle, *const c_void);
    module_unload: "hipModuleUnload" "cuModuleUnload" (Handle);
    module_function: "hipModuleGetFunction" "cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    launch: "hipModuleLaunchKernel" "cuLaunchKernel" (
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
    );
    capture_begin: "hipStreamBeginCapture" "cuStreamBeginCapture_v2" (Handle, c_int);
    capture_end: "hipStreamEndCapture" "cuStreamEndCapture" (Handle, *mut Handle);
    graph_launch: "hipGraphLaunch" "cuGraphLaunch" (Handle, Handle);
    graph_exec_destroy: "hipGraphExecDestroy" "cuGraphExecDestroy" (Handle);
    graph_destroy: "hipGraphDestroy" "cuGraphDestroy" (Handle);
}

type HipCopy = unsafe extern "C" fn(DevicePointer, DevicePointer, usize, c_int, Handle) -> Status;
type CudaCopy = unsafe extern "C" fn(DevicePointer, DevicePointer, usize, Handle) -> Status;

/// Entries that differ.
pub(super) enum Special {
    Amd {
        set_device: unsafe extern "C" fn(c_int) -> Status,
        properties: unsafe extern "C" fn(*mut u8, c_int) -> Status,
        error_text: unsafe extern "C" fn(Status) -> *const c_char,
        copy: HipCopy,
        fill: unsafe extern "C" fn(DevicePointer, c_int, usize, Handle) -> Status,
        instantiate: unsafe extern "C" fn(*mut Handle, Handle, *mut c_void, *mut c_char, usize) -> Status,
    },
    Nvidia {
        retain_context: unsafe extern "C" fn(*mut Handle, c_int) -> Status,
        set_context: unsafe extern "C" fn(Handle) -> Status,
        error_text: unsafe extern "C" fn(Status, *mut *const c_char) -> Status,
        to_device: CudaCopy,
        to_host: CudaCopy,
        within: CudaCopy,
        fill: unsafe extern "C" fn(DevicePointer, u8, usize, Handle) -> Status,
        instantiate: unsafe extern "C" fn(*mut Handle, Handle, u64) -> Status,
    },
}

/// The library that an environment variable names, or else the first of `names` that the system
/// finds; and what it was opened as. `remedy` is what to do where there is none.
pub(super) fn open_library(variable: &str, names: &[&str], remedy: &str) -> Result<(Library, String)> {
    let set = std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    let candidates = match &set {
        Some(path) => vec![path.display().to_string()],
        None => names.iter().map(|name| name.to_string()).collect(),
    };
    let mut missing = None;
    for path in candidates {
        // SAFETY: the libraries' initialisers are those of a driver; the user chose it.
        match unsafe { Library::new(&path) } {
            Ok(library) => return Ok((library, path)),
            Err(error) => missing = missing.or(Some((path, error))),
        }
    }
    let (path, error) = missing.expect("there was a candidate");
    Err(DriverError::Library(match set {
        // The loader's own words are the error's source.
        Some(_) => match std::error::Error::source(&error) {
            Some(why) => format!("{variable}={path} cannot be opened: {why}"),
            None => format!("{variable}={path} cannot be opened: {error}"),
        },
        None => format!("{path} not found: {remedy}"),
    }))
}

/// # Safety
/// The symbol is a function of type `T`.
pub(super) unsafe fn symbol<T: Copy>(library: &Library, name: &str, path: &str) -> Result<T> {
    // SAFETY: the caller's promise.
    let found = unsafe { library.get::<T>(name.as_bytes()) };
    found.map(|symbol| *symbol).map_err(|_| DriverError::Library(format!("{path} has no {name}: too old?")))
}

/// A vendor's library.
pub struct Driver {
    vendor: Vendor,
    path: String,
    pub(super) entries: Entries,
    pub(super) special: Special,
    /// Entries point into it.
    _library: Library,
}

impl Driver {
    /// Opens the vendor's library, the one that its environment variable names or the first that
    /// the system finds, and starts it.
    pub fn open(vendor: Vendor) -> Result<Arc<Self>> {
        let (variable, names, remedy) = vendor.library();
        let (library, path) = open_library(variable, names, remedy)?;
        Self::start(vendor, library, path).map(Arc::new)
    }

    fn start(vendor: Vendor, library: Library, path: String) -> Result<Self> {
        let entries = Entries::load(&library, vendor, &path)?;
        macro_rules! get {
            // SAFETY: the entry has its field's signature in all versions of the library.
            ($name:literal) => {
                unsafe { symbol(&library, $name, &path)? }
            };
        }
        let special = match vendor {
            Vendor::Amd => Special::Amd {
                set_device: get!("hipSetDevice"),
                // SAFETY: both names take a buffer and a device.
                properties: unsafe {
                    symbol(&library, "hipGetDevicePropertiesR0600", &path)
                        .or_else(|_| symbol(&library, "hipGetDeviceProperties", &path))?
                },
                error_text: get!("hipGetErrorString"),
                copy: get!("hipMemcpyAsync"),
                fill: get!("hipMemsetAsync"),
                instantiate: get!("hipGraphInstantiate"),
            },
            Vendor::Nvidia => Special::Nvidia {
                retain_context: get!("cuDevicePrimaryCtxRetain"),
                set_context: get!("cuCtxSetCurrent"),
                error_text: get!("cuGetErrorString"),
                to_device: get!("cuMemcpyHtoDAsync_v2"),
                to_host: get!("cuMemcpyDtoHAsync_v2"),
                within: get!("cuMemcpyDtoDAsync_v2"),
                fill: get!("cuMemsetD8Async"),
                instantiate: get!("cuGraphInstantiateWithFlags"),
            },
        };
        let driver = Self { vendor, path, entries, special, _library: library };
        // SAFETY: no arguments but flags.
        match unsafe { (driver.entries.init)(0) } {
            NO_DEVICE => {}
            status => driver.check("init", status)?,
        }
        Ok(driver)
    }

    /// Whose.
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// What was opened.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn check(&self, call: &'static str, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: the texts are the library's constants.
        unsafe {
            match self.special {
                Special::Amd { error_text, .. } => text = error_text(status),
                Special::Nvidia { error_text, .. } => {
                    error_text(status, &mut text);
                }
            }
        }
        let text = match text.is_null() {
            true => "unknown error".to_owned(),
            // SAFETY: not null, then it ends with a zero.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
        };
        Err(DriverError::Call { call, code: status, text })
    }

    /// The driver's own version number.
    pub fn version(&self) -> Result<i32> {
        let mut version = 0;
        // SAFETY: writes an int.
        self.check("version", unsafe { (self.entries.version)(&mut version) })?;
        Ok(version)
    }

    /// Devices it sees.
    pub fn device_count(&self) -> Result<usize> {
        let mut count = 0;
        // SAFETY: writes an int.
        let status = unsafe { (self.entries.count)(&mut count) };
        // "No device" is an answer.
        if status == NO_DEVICE {
            return Ok(0);
        }
        self.check("device count", status)?;
        Ok(count.max(0) as usize)
    }

    fn attribute(&self, amd: c_int, nvidia: c_int, device: usize) -> Result<usize> {
        let which = match self.vendor {
            Vendor::Amd => amd,
            Vendor::Nvidia => nvidia,
        };
        let mut value = 0;
        // SAFETY: writes an int.
        let status = unsafe { (self.entries.attribute)(&mut value, which, device as c_int) };
        self.check("device attribute", status)?;
        Ok(value.max(0) as usize)
    }

    /// `gfx90a`, `sm_90`.
    fn architecture(&self, device: usize) -> Result<String> {
        let Special::Amd { properties, .. } = self.special else {
            let major = self.attribute(0, 75, device)?;
            return Ok(format!("sm_{major}{}", self.attribute(0, 76, device)?));
        };
        let mut buffer = vec![0u8; PROPERTIES_BYTES];
        // SAFETY: the buffer is larger than the structure of any version.
        self.check("device properties", unsafe { properties(buffer.as_mut_ptr(), device as c_int) })?;
        let start = buffer.windows(3).position(|window| window == b"gfx");
        let name = start.map(|start| {
            let letters = buffer[start..].iter().take_while(|byte| byte.is_ascii_alphanumeric());
            letters.map(|&byte| byte as char).collect()
        });
        name.ok_or_else(|| DriverError::Library(format!("{}: the device tells no architecture", self.path)))
    }

    /// What a device is.
    pub fn describe(self: &Arc<Self>, device: usize) -> Result<DeviceInfo> {
        let mut name = [0 as c_char; 256];
        // SAFETY: writes at most so many bytes, a final zero included.
        let status = unsafe { (self.entries.name)(name.as_mut_ptr(), name.len() as c_int, device as c_int) };
        self.check("device name", status)?;
        // SAFETY: the array was zero, and the last byte stays so.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        let context = Context::new(self, device)?;
        let (free_bytes, total_bytes) = context.memory()?;
        Ok(DeviceInfo {
            name,
            architecture: self.architecture(device)?,
            free_bytes,
            total_bytes,
            compute_units: self.attribute(63, 16, device)?,
        })
    }
}

/// `hipErrorNoDevice`, `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: Status = 100;
/// `hipDeviceProp_t` has 1472 bytes in ROCm 6.
const PROPERTIES_BYTES: usize = 16 << 10;

/// A device as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The vendor's name for it.
    pub name: String,
    /// `gfx90a`, `sm_90`.
    pub architecture: String,
    /// Free now.
    pub free_bytes: usize,
    /// In all.
    pub total_bytes: usize,
    /// Compute units, or streaming multiprocessors.
    pub compute_units: usize,
}
