//! Several devices as the ranks of one model: sums over them by RCCL, or NCCL in the same shape,
//! opened at run time. One process drives all devices, each from its rank's own thread.
//!
//! A rank that fails ends the group's communicators, so that no other waits for it for ever.

use super::device::{Context, Stream};
use super::driver::{DevicePointer, DriverError, Handle, Result, Status, Vendor, open_library, symbol};
use super::gpu::Half;
use super::tensor::Kind;
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

type AllReduce =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, Handle) -> Status;

struct Entries {
    init_all: unsafe extern "C" fn(*mut Handle, c_int, *const c_int) -> Status,
    destroy: unsafe extern "C" fn(Handle) -> Status,
    abort: unsafe extern "C" fn(Handle) -> Status,
    error_text: unsafe extern "C" fn(Status) -> *const c_char,
    all_reduce: AllReduce,
    /// Entries point into it.
    _library: Library,
}

impl Entries {
    fn open(vendor: Vendor) -> Result<Self> {
        let (variable, names, remedy): (_, &[&str], _) = match vendor {
            Vendor::Amd => (
                "NOVASTACK_RCCL_LIBRARY",
                &["librccl.so", "librccl.so.1"],
                "several GPUs for one model need it: install rccl, or set NOVASTACK_RCCL_LIBRARY to its path",
            ),
            Vendor::Nvidia => (
                "NOVASTACK_NCCL_LIBRARY",
                &["libnccl.so.2", "libnccl.so"],
                "several GPUs for one model need it: install libnccl2, or set NOVASTACK_NCCL_LIBRARY to its path",
            ),
        };
        let (library, path) = open_library(variable, names, remedy)?;
        // SAFETY: the entries have these signatures in all versions of either library.
        unsafe {
            Ok(Self {
                init_all: symbol(&library, "ncclCommInitAll", &path)?,
                destroy: symbol(&library, "ncclCommDestroy", &path)?,
                abort: symbol(&library, "ncclCommAbort", &path)?,
                error_text: symbol(&library, "ncclGetErrorString", &path)?,
                all_reduce: symbol(&library, "ncclAllReduce", &path)?,
                _library: library,
            })
        }
    }

    fn check(&self, call: &'static str, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the texts are the library's constants, and end with a zero.
        let text = unsafe { CStr::from_ptr((self.error_text)(status)) }.to_string_lossy().into_owned();
        Err(DriverError::Call { call, code: status, text })
    }
}

/// What the ranks share.
struct Group {
    entries: Entries,
    communicators: Vec<Handle>,
    /// Of each rank: it is within a call.
    calling: Vec<AtomicBool>,
    ended: AtomicBool,
}

// SAFETY: a communicator is used by its rank's thread; ending them is allowed from any.
unsafe impl Send for Group {}
// SAFETY: as above.
unsafe impl Sync for Group {}

impl Drop for Group {
    fn drop(&mut self) {
        if !*self.ended.get_mut() {
            for &communicator in &self.communicators {
                // SAFETY: made once, destroyed once; all ranks are gone.
                unsafe { (self.entries.destroy)(communicator) };
            }
        }
    }
}

/// A rank's place in its group.
pub struct Collective {
    group: Arc<Group>,
    /// From 0.
    pub rank: usize,
}

/// How long communicators are kept for calls under way: these only enqueue, unless they wait for a rank
/// that will not come, which the end of the communicators ends.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// `ncclSum`.
const SUM: c_int = 0;

impl Collective {
    /// One for each of these devices, in their order.
    pub fn group(contexts: &[&Context]) -> Result<Vec<Self>> {
        let vendor = contexts[0].driver().vendor();
        let entries = Entries::open(vendor)?;
        let devices: Vec<c_int> = contexts.iter().map(|context| context.number() as c_int).collect();
        let mut communicators = vec![std::ptr::null_mut(); devices.len()];
        // SAFETY: as many handles are written as devices are read.
        let status = unsafe {
            (entries.init_all)(communicators.as_mut_ptr(), devices.len() as c_int, devices.as_ptr())
        };
        entries.check("ncclCommInitAll", status)?;
        let calling = devices.iter().map(|_| AtomicBool::new(false)).collect();
        let group = Arc::new(Group { entries, communicators, calling, ended: AtomicBool::new(false) });
        Ok((0..devices.len()).map(|rank| Self { group: group.clone(), rank }).collect())
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.group.communicators.len()
    }

    /// In place: the sum over all ranks.
    ///
    /// # Safety
    /// The memory holds so many values and lives until the stream has been waited for.
    pub unsafe fn all_reduce(
        &self,
        stream: &Stream,
        values: DevicePointer,
        count: usize,
        kind: Kind,
        half: Half,
    ) -> Result<()> {
        let Group { entries, communicators, calling, .. } = &*self.group;
        stream.context().make_current()?;
        // ncclFloat16, ncclFloat32, ncclBfloat16
        let dtype = match (kind, half) {
            (Kind::F32, _) => 7,
            (Kind::Half, Half::Bf16) => 9,
            (Kind::Half, Half::F16) | (Kind::F16, _) => 6,
        };
        let pointer = values as *mut c_void;
        // First said, then looked: who ends the group sees the call, or the call sees the end.
        calling[self.rank].store(true, Ordering::SeqCst);
        let done = self.check_alive().and_then(|()| {
            let communicator = communicators[self.rank];
            // SAFETY: the caller's promise.
            let status = unsafe {
                (entries.all_reduce)(pointer, pointer, count, dtype, SUM, communicator, stream.handle())
            };
            entries.check("ncclAllReduce", status)
        });
        calling[self.rank].store(false, Ordering::SeqCst);
        done
    }

    /// Fails once a rank has ended the group.
    pub fn check_alive(&self) -> Result<()> {
        match self.group.ended.load(Ordering::SeqCst) {
            true => Err(DriverError::Library("another device of the group has failed".into())),
            false => Ok(()),
        }
    }

    /// Nobody waits for anybody any more.
    pub fn end(&self) {
        if !self.group.ended.swap(true, Ordering::SeqCst) {
            let start = Instant::now();
            let calling = || self.group.calling.iter().any(|rank| rank.load(Ordering::SeqCst));
            while calling() && start.elapsed() < LAST_CALLS {
                std::thread::yield_now();
            }
            for &communicator in &self.group.communicators {
                // SAFETY: alive until here; no call begins any more.
                unsafe { (self.group.entries.abort)(communicator) };
            }
        }
    }
}
