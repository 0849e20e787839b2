//! Compiles kernels/*.hip ahead of time, once for each AMD architecture and to PTX for NVIDIA, and
//! has them embedded. Needs only a clang of 19 or later: no ROCm, no CUDA. Without one the program
//! is built without GPU kernels, and `novastack devices` says so.
//!
//! A kernel is compiled again when its source, a header, the compiler or the flags have changed.
//!
//! Where no compiler is found, the next build compiles nothing, and yet one that is installed later
//! is noticed. Cargo runs a build script again when something that it named is newer than its last
//! run, and it takes what is missing for new: naming the places where a compiler may come to be
//! would compile the program again at every build. So what is named is a folder of our own in
//! OUT_DIR ([`notice_later`]), with a symbolic link to each of those places. Cargo looks at a folder
//! through its links and passes over those that lead nowhere; as soon as one leads to a file, the
//! link counts, and it is newer than this run. That is a look at some dozens of links at each build,
//! and no other change to the system counts. tests/build_script.rs holds cargo to it.
//!
//! Release builds also carry the commit that they were made from, for reports of measurements.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// The wave size follows from the architecture, see kernels/port/amd.h.
const AMD: [&str; 4] = ["gfx90a", "gfx942", "gfx1100", "gfx1101"];
/// PTX for this one runs on all later ones.
const NVIDIA: &str = "sm_80";
const CLANG_MIN: u32 = 19;

const COMMON: [&str; 5] = ["-O3", "-std=c++17", "-Wall", "-Werror", "-Ikernels"];
/// Version 4 of the object format, which every ROCm since 4.1 loads: later compilers' own default is 6,
/// which those before 6.3 call invalid.
const FOR_AMD: [&str; 7] = [
    "-x",
    "hip",
    "--cuda-device-only",
    "--no-gpu-bundle-output",
    "-nogpuinc",
    "-nogpulib",
    "-mcode-object-version=4",
];
/// Without the feature clang writes the oldest version that knows the architecture, 7.0, whatever the
/// kernels' assembly uses, and drivers refuse that: `movmatrix` (kernels/port/nvidia.h) came with PTX 7.8,
/// which drivers load from CUDA 11.8 (520) on. `scripts/ptx_check.py` assembles all of it.
const FOR_NVIDIA: [&str; 10] = [
    "-x",
    "cuda",
    "--cuda-device-only",
    "-nocudainc",
    "-nocudalib",
    "-S",
    "-Xclang",
    "-target-feature",
    "-Xclang",
    "+ptx78",
];

fn main() {
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-env-changed=NOVASTACK_CLANG");
    println!("cargo:rerun-if-env-changed=NOVASTACK_COMMIT");
    println!("cargo:rustc-env=NOVASTACK_COMMIT={}", commit());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let (compiler, objects) = match find_clang() {
        Ok(clang) => (Ok(clang.version.clone()), compile_all(&clang, &out)),
        Err(reason) => {
            notice_later(&out).unwrap_or_else(|error| panic!("{}: {error}", out.display()));
            (Err(reason), Vec::new())
        }
    };
    let mut text = format!("pub const COMPILER: std::result::Result<&str, &str> = {compiler:?};\n");
    text += "pub static OBJECTS: &[Object] = &[\n";
    for Object { kernel, architecture, path } in objects {
        writeln!(
            text,
            "    Object {{ file: {kernel:?}, architecture: {architecture:?}, image: include_bytes!({path:?}) }},"
        )
        .expect("a string takes more text");
    }
    text += "];\n";
    std::fs::write(out.join("objects.rs"), text).expect("OUT_DIR can be written");
}

/// NOVASTACK_COMMIT; else, in release builds, what git says: `0123456789ab`, with `-dirty` where files
/// differ from it. Other builds do not ask: a commit would compile everything again.
fn commit() -> String {
    if let Ok(set) = std::env::var("NOVASTACK_COMMIT") {
        return set;
    }
    if std::env::var("PROFILE").is_ok_and(|profile| profile != "release") {
        return "development build".into();
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    println!("cargo:rerun-if-changed=src");
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|path| Path::new(path).exists())
    {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"])
        .unwrap_or_else(|| "unknown".into())
}

struct Clang {
    path: String,
    /// The first line of `--version`.
    version: String,
}

/// NOVASTACK_CLANG, else the first that is new enough.
fn find_clang() -> Result<Clang, String> {
    let set = std::env::var("NOVASTACK_CLANG").ok();
    for path in compiler_names() {
        let Ok(output) = Command::new(&path).arg("--version").output() else { continue };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number =
            text.split("clang version ").nth(1).and_then(|rest| rest.split('.').next()?.parse().ok());
        if number.is_some_and(|number: u32| number >= CLANG_MIN) {
            let line = text.lines().find(|line| line.contains("clang version")).unwrap_or_default();
            return Ok(Clang { path, version: line.to_owned() });
        }
    }
    Err(match set {
        Some(path) => format!("NOVASTACK_CLANG={path} is no clang of version {CLANG_MIN} or later"),
        None => format!(
            "no clang of version {CLANG_MIN} or later was found when this was built; install one and build again"
        ),
    })
}

/// What NOVASTACK_CLANG says, else the names under which a compiler may be found; those without a
/// slash are looked for in PATH.
fn compiler_names() -> Vec<String> {
    if let Ok(path) = std::env::var("NOVASTACK_CLANG") {
        return vec![path];
    }
    let versioned = (CLANG_MIN..CLANG_MIN + 6).map(|version| format!("clang++-{version}"));
    let others = ["amdclang++", "/opt/rocm/llvm/bin/clang++", "hipcc", "clang++"];
    versioned.chain(others.map(String::from)).collect()
}

/// Has cargo run this again when there is a file where a compiler was looked for and none was. What
/// is there and is no clang that serves is watched itself.
fn notice_later(out: &Path) -> std::io::Result<()> {
    let folder = out.join("compilers-to-come");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir(&folder)?;
    // A link has to be newer than this run's beginning, by the file system's clock, which may tick
    // a hundred times a second only.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let path = std::env::var_os("PATH").unwrap_or_default();
    for (index, name) in compiler_names().iter().enumerate() {
        let folders: Vec<PathBuf> = match name.contains('/') {
            true => vec![PathBuf::new()],
            false => std::env::split_paths(&path).collect(),
        };
        for (number, parent) in folders.iter().enumerate() {
            let place = std::path::absolute(parent.join(name))?;
            match place.exists() {
                true => println!("cargo:rerun-if-changed={}", place.display()),
                false => std::os::unix::fs::symlink(place, folder.join(format!("{index}-{number}")))?,
            }
        }
    }
    // The folder itself must not count as changed.
    std::fs::File::open(&folder)?.set_modified(std::time::SystemTime::UNIX_EPOCH)?;
    println!("cargo:rerun-if-changed={}", folder.display());
    Ok(())
}

struct Object {
    kernel: String,
    architecture: String,
    path: PathBuf,
}

struct Job {
    object: Object,
    source: PathBuf,
    flags: Vec<String>,
}

fn compile_all(clang: &Clang, out: &Path) -> Vec<Object> {
    let headers = hash_of(&[&files("kernels", "h")[..], &files("kernels/port", "h")[..]].concat());
    let mut jobs = Vec::new();
    for source in files("kernels", "hip") {
        let kernel = source.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        for architecture in AMD.into_iter().chain([NVIDIA]) {
            let mut flags: Vec<String> = COMMON.map(String::from).into();
            match architecture == NVIDIA {
                true => {
                    flags.extend(FOR_NVIDIA.map(String::from));
                    flags.push(format!("--cuda-gpu-arch={NVIDIA}"));
                }
                false => {
                    flags.extend(FOR_AMD.map(String::from));
                    flags.push(format!("--offload-arch={architecture}"));
                }
            }
            let path = out.join(format!("{kernel}.{architecture}"));
            let object = Object { kernel: kernel.clone(), architecture: architecture.into(), path };
            jobs.push(Job { object, source: source.clone(), flags });
        }
    }
    let threads = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1).min(jobs.len());
    let queue = Mutex::new(jobs.iter());
    let next = || queue.lock().ok()?.next();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(job) = next() {
                    compile(clang, job, headers);
                }
            });
        }
    });
    jobs.into_iter().map(|job| job.object).collect()
}

fn compile(clang: &Clang, job: &Job, headers: u64) {
    let mut hasher = DefaultHasher::new();
    (headers, hash_of(std::slice::from_ref(&job.source)), &clang.version, &job.flags).hash(&mut hasher);
    let path = &job.object.path;
    let stamp = PathBuf::from(format!("{}.stamp", path.display()));
    let wanted = hasher.finish().to_string();
    if path.exists() && std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return;
    }
    let output = Command::new(&clang.path)
        .args(&job.flags)
        .arg(&job.source)
        .arg("-o")
        .arg(path)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", clang.path));
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        panic!("{} for {}:\n{errors}", job.source.display(), job.object.architecture);
    }
    std::fs::write(&stamp, wanted).expect("OUT_DIR can be written");
}

/// In the order of their names.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    paths
}

fn hash_of(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in files {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (path, bytes).hash(&mut hasher);
    }
    hasher.finish()
}
