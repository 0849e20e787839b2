//! A device through its driver: memory, streams, events, modules, launches, graphs. What the
//! driver demands of its callers is kept by these types: handles live as long as what uses them,
//! a call is made with its device current, and lengths are checked.
//!
//! Work on a stream is asynchronous. Who enqueues it keeps its memory alive until the stream has
//! been waited for: the owner of a step's buffers does, see [`super`].

use super::driver::{DevicePointer, Driver, Handle, Result, Special, Vendor};
use std::ffi::{CStr, c_int, c_void};
use std::sync::Arc;

/// A device made current on the calling thread whenever it is used.
#[derive(Clone)]
pub struct Context {
    driver: Arc<Driver>,
    device: usize,
    /// CUDA's primary context, kept for the life of the program.
    handle: Handle,
}

// SAFETY: handles may be used from any thread that has made the device current, which every
// method does.
unsafe impl Send for Context {}
// SAFETY: as above; the driver's entries may be called from several threads at once.
unsafe impl Sync for Context {}

impl Context {
    /// For a device's number.
    pub fn new(driver: &Arc<Driver>, device: usize) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        if let Special::Nvidia { retain_context, .. } = driver.special {
            // SAFETY: writes a handle.
            driver.check("context", unsafe { retain_context(&mut handle, device as c_int) })?;
        }
        let context = Self { driver: driver.clone(), device, handle };
        context.make_current()?;
        Ok(context)
    }

    /// The driver.
    pub fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    /// The device's number.
    pub fn number(&self) -> usize {
        self.device
    }

    /// Calls of this thread go to this device from now on.
    pub fn make_current(&self) -> Result<()> {
        // SAFETY: the device exists, the context is its own.
        let status = unsafe {
            match self.driver.special {
                Special::Amd { set_device, .. } => set_device(self.device as c_int),
                Special::Nvidia { set_context, .. } => set_context(self.handle),
            }
        };
        self.driver.check("make current", status)
    }

    /// (free, total) bytes.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.make_current()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two sizes.
        let status = unsafe { (self.driver.entries.memory_info)(&mut free, &mut total) };
        self.driver.check("memory info", status)?;
        Ok((free, total))
    }

    /// Device memory, not initialised.
    pub fn allocate(&self, bytes: usize) -> Result<DeviceMemory> {
        self.make_current()?;
        let mut pointer = 0;
        // SAFETY: writes a pointer.
        let status = unsafe { (self.driver.entries.malloc)(&mut pointer, bytes.max(1)) };
        self.driver.check("malloc", status)?;
        Ok(DeviceMemory { context: self.clone(), pointer, bytes })
    }

    /// Host memory that copies may run from and to while the host goes on; zeros.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned> {
        self.make_current()?;
        let mut pointer = std::ptr::null_mut();
        // SAFETY: writes a pointer.
        let status = unsafe { (self.driver.entries.host_malloc)(&mut pointer, bytes.max(1), 0) };
        self.driver.check("host malloc", status)?;
        // SAFETY: so many bytes were just allocated.
        unsafe { std::ptr::write_bytes(pointer.cast::<u8>(), 0, bytes) };
        Ok(Pinned { context: self.clone(), pointer: pointer.cast(), bytes })
    }

    /// A stream that does not wait for the default stream.
    pub fn stream(&self) -> Result<Stream> {
        self.make_current()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes a handle. 1: non-blocking.
        self.driver.check("stream", unsafe { (self.driver.entries.stream_create)(&mut handle, 1) })?;
        Ok(Stream { context: self.clone(), handle })
    }

    /// An event, for measuring time.
    pub fn event(&self) -> Result<Event> {
        self.make_current()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes a handle.
        self.driver.check("event", unsafe { (self.driver.entries.event_create)(&mut handle, 0) })?;
        Ok(Event { context: self.clone(), handle })
    }

    /// Loads a code object (AMD) or PTX text that ends with a zero byte (NVIDIA).
    pub fn module(&self, image: &[u8]) -> Result<Module> {
        self.make_current()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the image says its own length, or ends with a zero.
        let status = unsafe { (self.driver.entries.module_load)(&mut handle, image.as_ptr().cast()) };
        self.driver.check("module", status)?;
        Ok(Module { context: self.clone(), handle })
    }
}

/// A piece of a device's memory.
pub struct DeviceMemory {
    context: Context,
    pointer: DevicePointer,
    bytes: usize,
}

impl DeviceMemory {
    /// Where it starts, for kernels' arguments.
    pub fn pointer(&self) -> DevicePointer {
        self.pointer
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // A lost device's memory is lost too: nothing can be done about an error here.
        if self.context.make_current().is_ok() {
            // SAFETY: allocated by this driver, freed once.
            unsafe { (self.context.driver.entries.free)(self.pointer) };
        }
    }
}

/// Pinned host memory.
pub struct Pinned {
    context: Context,
    pointer: *mut u8,
    bytes: usize,
}

// SAFETY: it owns its memory.
unsafe impl Send for Pinned {}
// SAFETY: shared references only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Its bytes. Copies from it must be done before they are overwritten.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: initialised, owned, borrowed mutably; a copy under way only reads it, and the
        // owner waits for the stream before it writes again.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.bytes) }
    }

    /// Its first values, once copies to it are done.
    pub fn floats(&self, count: usize) -> &[f32] {
        assert!(count * 4 <= self.bytes, "values within their memory");
        // SAFETY: initialised, owned, aligned to a page.
        unsafe { std::slice::from_raw_parts(self.pointer.cast(), count) }
    }

    /// Its first values as u32, once copies to it are done.
    pub fn words(&self, count: usize) -> &[u32] {
        assert!(count * 4 <= self.bytes, "values within their memory");
        // SAFETY: initialised, owned, aligned to a page.
        unsafe { std::slice::from_raw_parts(self.pointer.cast(), count) }
    }

    /// Its bytes, once copies to it are done.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: initialised, owned.
        unsafe { std::slice::from_raw_parts(self.pointer, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.make_current().is_ok() {
            // SAFETY: allocated by this driver, freed once.
            unsafe { (self.context.driver.entries.host_free)(self.pointer.cast()) };
        }
    }
}

/// A loaded code object.
pub struct Module {
    context: Context,
    handle: Handle,
}

// SAFETY: see Context.
unsafe impl Send for Module {}
// SAFETY: see Context.
unsafe impl Sync for Module {}

impl Module {
    /// An entry point, which must not be launched after the module is dropped.
    pub fn function(&self, name: &CStr) -> Result<Function> {
        self.context.make_current()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes a handle; the name ends with a zero.
        let status =
            unsafe { (self.context.driver.entries.module_function)(&mut handle, self.handle, name.as_ptr()) };
        self.context.driver.check("function", status)?;
        Ok(Function(handle))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.make_current().is_ok() {
            // SAFETY: loaded once, unloaded once.
            unsafe { (self.context.driver.entries.module_unload)(self.handle) };
        }
    }
}

/// A kernel's entry point.
#[derive(Clone, Copy)]
pub struct Function(Handle);

// SAFETY: see Context.
unsafe impl Send for Function {}
// SAFETY: see Context.
unsafe impl Sync for Function {}

/// Work in order, beside that of other streams.
pub struct Stream {
    context: Context,
    handle: Handle,
}

// SAFETY: see Context.
unsafe impl Send for Stream {}
// SAFETY: the drivers let several threads enqueue to a stream.
unsafe impl Sync for Stream {}

/// Number of blocks in x, y and z.
pub type Grid = [u32; 3];

impl Stream {
    /// The device.
    pub fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    /// Waits for all work enqueued so far.
    pub fn synchronize(&self) -> Result<()> {
        let driver = &self.context.driver;
        self.context.make_current()?;
        // SAFETY: the stream is alive.
        driver.check("stream synchronize", unsafe { (driver.entries.stream_synchronize)(self.handle) })
    }

    /// Copies pinned bytes to device memory.
    ///
    /// # Safety
    /// Both are alive and the source is not written until the stream has been waited for.
    pub unsafe fn upload(
        &self,
        from: &Pinned,
        range: std::ops::Range<usize>,
        to: &DeviceMemory,
        at: usize,
    ) -> Result<()> {
        assert!(range.end <= from.bytes && at + range.len() <= to.bytes, "a copy within its buffers");
        // SAFETY: the ranges are within; the rest is the caller's promise.
        unsafe {
            self.copy(
                to.pointer + at as u64,
                from.pointer as u64 + range.start as u64,
                range.len(),
                Direction::ToDevice,
            )
        }
    }

    /// Copies device memory to pinned bytes.
    ///
    /// # Safety
    /// Both are alive and the target is not read until the stream has been waited for.
    pub unsafe fn download(
        &self,
        from: &DeviceMemory,
        range: std::ops::Range<usize>,
        to: &mut Pinned,
    ) -> Result<()> {
        assert!(range.end <= from.bytes && range.len() <= to.bytes, "a copy within its buffers");
        // SAFETY: the ranges are within; the rest is the caller's promise.
        unsafe {
            self.copy(to.pointer as u64, from.pointer + range.start as u64, range.len(), Direction::ToHost)
        }
    }

    /// Copies within the device.
    ///
    /// # Safety
    /// Both ranges are within live memory of this device until the stream has been waited for.
    pub unsafe fn copy_within(&self, from: DevicePointer, to: DevicePointer, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.copy(to, from, bytes, Direction::Within) }
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize, direction: Direction) -> Result<()> {
        self.context.make_current()?;
        let driver = &self.context.driver;
        // SAFETY: the caller's promise.
        let status = unsafe {
            match (&driver.special, direction) {
                (Special::Amd { copy, .. }, _) => copy(to, from, bytes, direction as c_int, self.handle),
                (Special::Nvidia { to_device, .. }, Direction::ToDevice) => {
                    to_device(to, from, bytes, self.handle)
                }
                (Special::Nvidia { to_host, .. }, Direction::ToHost) => to_host(to, from, bytes, self.handle),
                (Special::Nvidia { within, .. }, Direction::Within) => within(to, from, bytes, self.handle),
            }
        };
        driver.check("copy", status)
    }

    /// Sets bytes of device memory.
    ///
    /// # Safety
    /// The memory is alive until the stream has been waited for.
    pub unsafe fn fill(&self, memory: &DeviceMemory, value: u8) -> Result<()> {
        self.context.make_current()?;
        let driver = &self.context.driver;
        // SAFETY: the whole of the memory; the rest is the caller's promise.
        let status = unsafe {
            match driver.special {
                Special::Amd { fill, .. } => fill(memory.pointer, value.into(), memory.bytes, self.handle),
                Special::Nvidia { fill, .. } => fill(memory.pointer, value, memory.bytes, self.handle),
            }
        };
        driver.check("fill", status)
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// `arguments` are what the kernel takes, laid out as in C; what they point to is alive and
    /// large enough until the stream has been waited for; the function's module is loaded.
    pub unsafe fn launch(
        &self,
        function: Function,
        grid: Grid,
        threads: u32,
        arguments: &[u8],
    ) -> Result<()> {
        self.context.make_current()?;
        let driver = &self.context.driver;
        let mut bytes = arguments.len();
        let end = match driver.vendor() {
            Vendor::Amd => 3,
            Vendor::Nvidia => 0,
        };
        // HIP_LAUNCH_PARAM_BUFFER_POINTER, _SIZE, _END; the same in CUDA but for the last.
        let mut extra: [*mut c_void; 5] = [
            std::ptr::without_provenance_mut(1),
            arguments.as_ptr() as *mut c_void,
            std::ptr::without_provenance_mut(2),
            (&raw mut bytes).cast(),
            std::ptr::without_provenance_mut(end),
        ];
        let [x, y, z] = grid;
        // SAFETY: the driver copies the arguments before it returns; the rest is the caller's promise.
        let status = unsafe {
            let launch = driver.entries.launch;
            launch(
                function.0,
                x,
                y,
                z,
                threads,
                1,
                1,
                0,
                self.handle,
                std::ptr::null_mut(),
                extra.as_mut_ptr(),
            )
        };
        driver.check("launch", status)
    }

    /// What is enqueued from now on is recorded and does not run.
    pub fn begin_capture(&self) -> Result<()> {
        self.context.make_current()?;
        let driver = &self.context.driver;
        // SAFETY: the stream is alive. 2: relaxed mode, other threads' calls do not disturb.
        driver.check("capture", unsafe { (driver.entries.capture_begin)(self.handle, 2) })
    }

    /// What was recorded, ready to run.
    pub fn end_capture(&self) -> Result<Graph> {
        self.context.make_current()?;
        let driver = &self.context.driver;
        let mut graph = std::ptr::null_mut();
        // SAFETY: writes a handle.
        let status = unsafe { (driver.entries.capture_end)(self.handle, &mut graph) };
        let mut instance = std::ptr::null_mut();
        let made = driver.check("end of capture", status).and_then(|()| {
            // SAFETY: writes a handle; no log is asked for.
            let status = unsafe {
                match driver.special {
                    Special::Amd { instantiate, .. } => {
                        instantiate(&mut instance, graph, std::ptr::null_mut(), std::ptr::null_mut(), 0)
                    }
                    Special::Nvidia { instantiate, .. } => instantiate(&mut instance, graph, 0),
                }
            };
            driver.check("instantiate", status)
        });
        if !graph.is_null() {
            // SAFETY: captured above, used no more.
            unsafe { (driver.entries.graph_destroy)(graph) };
        }
        made.map(|()| Graph { context: self.context.clone(), handle: instance })
    }

    /// Runs what was captured.
    ///
    /// # Safety
    /// What the captured work needs is alive until the stream has been waited for.
    pub unsafe fn replay(&self, graph: &Graph) -> Result<()> {
        self.context.make_current()?;
        let driver = &self.context.driver;
        // SAFETY: the graph is alive; the rest is the caller's promise.
        driver.check("graph launch", unsafe { (driver.entries.graph_launch)(graph.handle, self.handle) })
    }

    /// Marks this place in the stream.
    pub fn record(&self, event: &Event) -> Result<()> {
        self.context.make_current()?;
        let driver = &self.context.driver;
        // SAFETY: both are alive.
        driver.check("event record", unsafe { (driver.entries.event_record)(event.handle, self.handle) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.make_current().is_ok() {
            // SAFETY: created once, destroyed once; it finishes its work first.
            unsafe { (self.context.driver.entries.stream_destroy)(self.handle) };
        }
    }
}

/// As the drivers number them.
#[derive(Clone, Copy)]
enum Direction {
    ToDevice = 1,
    ToHost = 2,
    Within = 3,
}

/// A place in a stream.
pub struct Event {
    context: Context,
    handle: Handle,
}

impl Event {
    /// Waits until the stream has come here.
    pub fn synchronize(&self) -> Result<()> {
        let driver = &self.context.driver;
        // SAFETY: the event is alive.
        driver.check("event synchronize", unsafe { (driver.entries.event_synchronize)(self.handle) })
    }

    /// Seconds of the device's time since another one; both have been reached.
    pub fn seconds_since(&self, earlier: &Event) -> Result<f64> {
        let driver = &self.context.driver;
        let mut milliseconds = 0.0;
        // SAFETY: writes a float; both are alive.
        let status =
            unsafe { (driver.entries.event_elapsed)(&mut milliseconds, earlier.handle, self.handle) };
        driver.check("event elapsed", status)?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.make_current().is_ok() {
            // SAFETY: created once, destroyed once.
            unsafe { (self.context.driver.entries.event_destroy)(self.handle) };
        }
    }
}

/// Captured work, ready to run again.
pub struct Graph {
    context: Context,
    handle: Handle,
}

// SAFETY: see Context.
unsafe impl Send for Graph {}
// SAFETY: a shared reference only serves to launch it, on a stream.
unsafe impl Sync for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.make_current().is_ok() {
            // SAFETY: instantiated once, destroyed once.
            unsafe { (self.context.driver.entries.graph_exec_destroy)(self.handle) };
        }
    }
}
