//! How much memory this process may have: what the machine has, within the limits of the control groups that
//! the process is in. A group's limit holds for its children too, so the smallest on the way up counts.
//!
//! Both versions are read: version 2 (`memory.max`, and `memory.high`, above which the kernel slows a group
//! down until it stands still) and version 1 (`memory.limit_in_bytes`). What a group keeps of files can be
//! had back, so it does not count as used.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// Where the system does not tell.
const ASSUMED_BYTES: usize = 4 << 30;

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What there is, whoever has it now.
    pub total: usize,
    /// What could be had now without swapping.
    pub available: usize,
}

impl Memory {
    /// This process' memory.
    pub fn of_this_process() -> Self {
        Self::below(Path::new("/"))
    }

    /// The same, where the system's files (`proc`, `sys`) are below a folder.
    pub fn below(root: &Path) -> Self {
        let machine = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
        let field = |name: &str| {
            let line = machine.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<usize>().ok()?.checked_mul(1024)
        };
        let total = field("MemTotal").unwrap_or(ASSUMED_BYTES);
        let mut memory = Self { total, available: field("MemAvailable").unwrap_or(total) };
        for limit in limits(root) {
            memory.total = memory.total.min(limit.bytes);
            memory.available = memory.available.min(limit.bytes.saturating_sub(limit.used));
        }
        memory
    }
}

/// Of one control group.
struct Limit {
    bytes: usize,
    used: usize,
}

/// The files of one version of control groups.
struct Version {
    limits: &'static [&'static str],
    used: &'static str,
    /// Lines of `memory.stat`: bytes of files that are kept because nobody else wants the memory.
    kept: [&'static str; 2],
}

const V1: Version = Version {
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    kept: ["total_inactive_file", "total_active_file"],
};
const V2: Version = Version {
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    kept: ["inactive_file", "active_file"],
};

impl Version {
    /// The limits of the group in this folder; none where it has none.
    fn read(&self, folder: &Path) -> impl Iterator<Item = Limit> {
        let number = |name: &str| -> Option<usize> {
            // "max" is no number.
            fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok()?.try_into().ok()
        };
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let kept = |name: &&str| -> Option<usize> {
            let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            line.trim().parse().ok()
        };
        let kept: usize = self.kept.iter().filter_map(kept).sum();
        let used = number(self.used).unwrap_or(0).saturating_sub(kept);
        let limits: Vec<_> = self.limits.iter().filter_map(|name| number(name)).collect();
        limits.into_iter().map(move |bytes| Limit { bytes, used })
    }
}

/// The limits of all groups that this process is in, and of those around them.
fn limits(root: &Path) -> Vec<Limit> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).unwrap_or_default();
    let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
    let mut found = Vec::new();
    for (version, group) in groups.lines().filter_map(group) {
        let is_its = |mount: &&Mount| match version.used == V2.used {
            true => mount.kind == "cgroup2",
            false => mount.kind == "cgroup" && mount.options.split(',').any(|option| option == "memory"),
        };
        for mount in mounts.iter().filter(is_its) {
            for folder in mount.folders(group) {
                found.extend(version.read(&root.join(folder.strip_prefix("/").unwrap_or(&folder))));
            }
        }
    }
    found
}

/// A line of `/proc/self/cgroup` that is about memory: `0::/path` (version 2), `4:memory:/path` (version 1).
fn group(line: &str) -> Option<(&'static Version, &str)> {
    let (number, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    match controllers {
        "" if number == "0" => Some((&V2, path)),
        names if names.split(',').any(|name| name == "memory") => Some((&V1, path)),
        _ => None,
    }
}

/// A line of `/proc/self/mountinfo`.
struct Mount {
    /// What of its file system is mounted.
    root: PathBuf,
    /// Where.
    point: PathBuf,
    kind: String,
    options: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let kind = after.next()?.to_owned();
        let options = after.nth(1).unwrap_or_default().to_owned();
        Some(Self { root: unescaped(root), point: unescaped(point), kind, options })
    }

    /// Where a group's files are, and those of the groups around it, as far as they can be seen here.
    fn folders(&self, group: &str) -> Vec<PathBuf> {
        // A group that is not below what is mounted here is a container's view of one outside: what is
        // mounted is the container's own group.
        let inside = Path::new(group).strip_prefix(&self.root).unwrap_or(Path::new(""));
        let is_plain = inside.components().all(|part| matches!(part, Component::Normal(_)));
        let innermost = if is_plain { self.point.join(inside) } else { self.point.clone() };
        let around = innermost.ancestors().take_while(|folder| folder.starts_with(&self.point));
        around.map(Path::to_path_buf).collect()
    }
}

/// As it is: the kernel writes a space, a tab, a line feed and a backslash as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(text.to_owned(), |text, (code, letter)| text.replace(code, letter)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: usize = 1 << 20;
    const MEMINFO: &str = "MemTotal:       24000000 kB\nMemFree: 5 kB\nMemAvailable:   20000000 kB\n";

    /// A system's files.
    fn system(files: &[(&str, String)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let machine = ("proc/meminfo", MEMINFO.to_owned());
        for (path, text) in [&[machine][..], files].concat() {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, text).expect("a file");
        }
        folder
    }

    fn read(files: &[(&str, String)]) -> Memory {
        Memory::below(system(files).path())
    }

    fn said(mb: usize) -> String {
        format!("{}\n", mb * MB)
    }

    const UNIFIED: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const DIVIDED: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn without_groups_it_is_the_machines() {
        let wanted = Memory { total: 24_000_000 * 1024, available: 20_000_000 * 1024 };
        assert_eq!(read(&[]), wanted);
        // A group without a limit changes nothing.
        let unlimited = read(&[
            ("proc/self/cgroup", "0::/user.slice\n".into()),
            ("proc/self/mountinfo", UNIFIED.into()),
            ("sys/fs/cgroup/user.slice/memory.max", "max\n".into()),
            ("sys/fs/cgroup/user.slice/memory.current", said(300)),
        ]);
        assert_eq!(unlimited, wanted);
        // Nothing is told at all.
        let nothing = Memory::below(Path::new("/nowhere"));
        assert_eq!(nothing, Memory { total: ASSUMED_BYTES, available: ASSUMED_BYTES });
    }

    #[test]
    fn the_smallest_limit_of_version_2_counts_and_files_that_are_kept_do_not() {
        let group = "sys/fs/cgroup/a.slice/b.service";
        let files = |max: &str, high: &str| {
            vec![
                ("proc/self/cgroup", "0::/a.slice/b.service\n".to_owned()),
                ("proc/self/mountinfo", UNIFIED.to_owned()),
                ("sys/fs/cgroup/a.slice/memory.max", said(450)),
                ("sys/fs/cgroup/a.slice/memory.current", said(250)),
                ("sys/fs/cgroup/a.slice/memory.stat", format!("anon 1\ninactive_file {}\n", 100 * MB)),
                ("sys/fs/cgroup/a.slice/b.service/memory.max", max.to_owned()),
                ("sys/fs/cgroup/a.slice/b.service/memory.high", high.to_owned()),
                ("sys/fs/cgroup/a.slice/b.service/memory.current", said(50)),
            ]
        };
        assert!(files("", "").iter().any(|(path, _)| path.starts_with(group)));
        // The one around it.
        let around = read(&files("max\n", "max\n"));
        assert_eq!(around, Memory { total: 450 * MB, available: 300 * MB });
        // Its own.
        assert_eq!(read(&files(&said(200), "max\n")), Memory { total: 200 * MB, available: 150 * MB });
        assert_eq!(read(&files(&said(200), &said(120))), Memory { total: 120 * MB, available: 70 * MB });
    }

    #[test]
    fn version_1_counts() {
        let files = [
            ("proc/self/cgroup", "5:cpu:/\n4:memory:/a/b\n0::/\n".to_owned()),
            ("proc/self/mountinfo", DIVIDED.to_owned()),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n".to_owned()),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", said(450)),
            ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", said(100)),
            ("sys/fs/cgroup/memory/a/memory.stat", format!("total_active_file {}\n", 40 * MB)),
            ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", said(1000)),
        ];
        assert_eq!(read(&files), Memory { total: 450 * MB, available: 390 * MB });
    }

    #[test]
    fn in_a_container_the_mounted_group_is_its_own() {
        // Docker with version 1: what is mounted is the container's group, whose name the process sees too.
        let own = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let limit = ("sys/fs/cgroup/memory/memory.limit_in_bytes", said(450));
        for group in ["4:memory:/docker/abc\n", "4:memory:/../elsewhere\n"] {
            let files = [
                ("proc/self/cgroup", group.to_owned()),
                ("proc/self/mountinfo", own.to_owned()),
                limit.clone(),
            ];
            assert_eq!(read(&files).total, 450 * MB, "{group}");
        }
        // A folder whose name has a space.
        let files = [
            ("proc/self/cgroup", "0::/\n".to_owned()),
            ("proc/self/mountinfo", UNIFIED.replace("/sys/fs", "/sys\\040fs")),
            ("sys fs/cgroup/memory.max", said(450)),
        ];
        assert_eq!(read(&files).total, 450 * MB);
    }
}
