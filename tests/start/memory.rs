//! The KV cache takes no more than the machine has, within the limits of control groups.

use super::{failure, run};
use crate::support::golden_dir;
use crate::support::server::Server;
use novastack::memory::Memory;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn source(name: &str) -> String {
    format!("{name}={}", golden_dir("llama").display())
}

/// `auto` without a GPU is the CPU.
#[test]
fn a_kv_cache_beyond_the_machine_is_refused_with_both_numbers() {
    for device in ["cpu", "auto"] {
        let arguments = ["--device", device, "--kv-cache-memory", "9000G"];
        let text = failure(&run(&[&["serve", "--port", "0", &source("tiny")], &arguments[..]].concat()));
        let gib = Memory::of_this_process().available >> 30;
        assert!(text.contains("--kv-cache-memory 9000.0 GiB and the weights"), "{device}: {text}");
        // Other tests use some meanwhile.
        let near =
            (gib.saturating_sub(3)..gib + 3).any(|gib| text.contains(&format!("more than the {gib}.")));
        assert!(near && text.contains("of memory that are free"), "{device}: {gib} in {text}");
    }
}

/// What one model's cache may come to take is not there for another's.
#[tokio::test]
async fn models_of_one_process_share_the_memory() {
    let most = format!("{}M", (Memory::of_this_process().available >> 20) * 11 / 20);
    let options = ["--model", &source("a"), "--model", &source("b"), "--kv-cache-memory", &most];
    let server = Server::start(&options);
    let (status, health) = server.get("/health").await;
    let health: Value = serde_json::from_str(&health).expect("JSON");
    assert_eq!(
        (status, &health["status"], &health["models"]["a"]),
        (200, &"degraded".into(), &"ready".into())
    );
    let reason = health["failures"]["b"].as_str().expect("a reason");
    assert!(reason.contains("free beside the") && reason.contains("KV caches of other models"), "{reason}");
}

/// A control group of our own; None, said aloud, where this user may make none.
struct Group(PathBuf);

impl Group {
    fn new(limit_bytes: usize) -> Option<Self> {
        let name = format!("novastack-test-{}", std::process::id());
        let place = |parent: &str, limit: &str| {
            let folder = Path::new(parent).join(&name);
            std::fs::create_dir(&folder).ok()?;
            let group = Self(folder);
            std::fs::write(group.0.join(limit), limit_bytes.to_string()).ok().map(|()| group)
        };
        let group = place("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            .or_else(|| place("/sys/fs/cgroup", "memory.max"));
        if group.is_none() {
            eprintln!("SKIPPED: no control group can be made here");
        }
        group
    }

    /// Runs the program in it; it ends after a while in any case.
    fn run(&self, seconds: u32, arguments: &[&str]) -> Output {
        let enter = "echo $$ > \"$0/cgroup.procs\" && exec timeout -s INT \"$@\"";
        Command::new("sh")
            .args(["-c", enter])
            .arg(&self.0)
            .arg(seconds.to_string())
            .arg(env!("CARGO_BIN_EXE_novastack"))
            .args(arguments)
            .env_remove("NOVASTACK_API_KEYS")
            .output()
            .expect("the program runs")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_control_groups_limit_bounds_the_kv_cache() {
    let Some(group) = Group::new(450 << 20) else { return };
    let text =
        failure(&group.run(
            60,
            &["serve", "--port", "0", "--threads", "2", &source("tiny"), "--kv-cache-memory", "460M"],
        ));
    assert!(
        text.contains("--kv-cache-memory 460.0 MiB") && text.contains("MiB of memory that are free"),
        "{text}"
    );
    // By default it is a quarter of what is left: of the machine's memory this model would take 1.2 GB.
    let many = ["--max-running", "20000"];
    let output =
        group.run(10, &[&["serve", "--port", "0", "--threads", "2", &source("tiny")], &many[..]].concat());
    let log = String::from_utf8_lossy(&output.stderr);
    let kv_mb = log.split("kv_mb=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    let kv_mb = kv_mb.unwrap_or_else(|| panic!("no kv_mb in {log}"));
    assert!((50..=112).contains(&kv_mb), "{kv_mb} MB\n{log}");
}
