//! What cargo makes of build.rs, tried on a crate that has nothing but it: without a compiler for the
//! kernels, a second build compiles nothing, and a compiler that appears is noticed.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A crate with our build.rs, no kernels, and a PATH of its own.
struct Package {
    folder: tempfile::TempDir,
    /// NOVASTACK_CLANG.
    set: Option<&'static str>,
    /// As scripts/run.sh builds: the program then carries the commit that it was made from.
    release: bool,
}

impl Package {
    fn new(set: Option<&'static str>, release: bool) -> Package {
        let folder = tempfile::tempdir().expect("tempdir");
        let root = folder.path();
        for sub in ["src", "kernels/port", "bin"] {
            std::fs::create_dir_all(root.join(sub)).expect("create");
        }
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs"), root.join("build.rs"))
            .expect("copy");
        let manifest = "[package]\nname = \"probe\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n";
        std::fs::write(root.join("Cargo.toml"), manifest).expect("write");
        let lib = "pub struct Object { pub file: &'static str }\ninclude!(concat!(env!(\"OUT_DIR\"), \"/objects.rs\"));\n";
        std::fs::write(root.join("src/lib.rs"), lib).expect("write");
        // Everything that PATH has but compilers that could serve.
        let path = std::env::var_os("PATH").expect("PATH");
        for entry in
            std::env::split_paths(&path).filter_map(|folder| folder.read_dir().ok()).flatten().flatten()
        {
            let name = entry.file_name();
            let is_compiler =
                ["clang", "amdclang", "hipcc"].iter().any(|it| name.to_string_lossy().starts_with(it));
            if !is_compiler {
                // The first of a name counts.
                let _ = symlink(entry.path(), root.join("bin").join(name));
            }
        }
        let package = Package { folder, set, release };
        if release {
            for line in ["init -q", "add Cargo.toml build.rs src", "commit -q -m first"] {
                let identity = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"];
                let mut git = Command::new("git");
                git.args(identity).args(line.split(' ')).current_dir(package.folder.path());
                assert!(git.status().expect("git runs").success(), "git {line}");
            }
        }
        package
    }

    /// Builds it; whether anything was compiled.
    fn build(&self) -> bool {
        let root = self.folder.path();
        let mut command = Command::new(env!("CARGO"));
        command
            .args(["build", "--offline", "--color", "never", "--target-dir", "target"])
            .args(self.release.then_some("--release"))
            .current_dir(root)
            .env("PATH", root.join("bin"))
            .env_remove("NOVASTACK_CLANG")
            .envs(self.set.map(|set| ("NOVASTACK_CLANG", set)));
        let output = command.output().expect("cargo runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && text.contains("Finished"), "{text}");
        text.contains("Compiling")
    }

    /// What build.rs wrote of the compiler.
    fn compiler(&self) -> String {
        let profile = if self.release { "release" } else { "debug" };
        let builds = self.folder.path().join("target").join(profile).join("build");
        let written =
            builds.read_dir().expect("builds").flatten().map(|entry| entry.path().join("out/objects.rs"));
        let written: Vec<PathBuf> = written.filter(|path| path.exists()).collect();
        let [path] = &written[..] else { panic!("one of {written:?}") };
        let text = std::fs::read_to_string(path).expect("read");
        text.lines().next().expect("a line").to_owned()
    }

    /// Puts a compiler into PATH, dated as a distribution's package would date it.
    fn install(&self, name: &str) {
        let path = self.folder.path().join("bin").join(name);
        std::fs::write(&path, "#!/bin/sh\necho 'clang version 19.1.7'\n").expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("permissions");
        let file = std::fs::File::options().append(true).open(&path).expect("open");
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        file.set_modified(old).expect("set the date");
    }
}

#[test]
fn without_a_compiler_a_second_build_compiles_nothing_and_one_that_appears_is_noticed() {
    for (set, release, name) in [
        (None, false, "clang++-19"),
        (None, true, "clang++"),
        (Some("some-compiler"), false, "some-compiler"),
    ] {
        if set.is_none() && Path::new("/opt/rocm/llvm/bin/clang++").exists() {
            // This system has a compiler that does not depend on PATH.
            continue;
        }
        let package = Package::new(set, release);
        assert!(package.build(), "a first build compiles");
        let expected =
            if set.is_some() { "NOVASTACK_CLANG=some-compiler is no clang" } else { "no clang of version" };
        assert!(package.compiler().contains(expected), "{}", package.compiler());
        for _ in 0..2 {
            assert!(!package.build(), "nothing has changed");
        }
        // Whatever else is installed beside it is no reason.
        std::fs::write(package.folder.path().join("bin/another-program"), "").expect("write");
        assert!(!package.build(), "nothing that matters has changed");

        package.install(name);
        assert!(package.build(), "{name} is noticed");
        assert!(package.compiler().contains("Ok(\"clang version 19.1.7\")"), "{}", package.compiler());
        assert!(!package.build(), "and once");
    }
}
