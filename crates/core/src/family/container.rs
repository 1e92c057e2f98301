// SPDX-License-Identifier: MIT
//! How much memory the control groups leave this process: its container's limit, mostly.
//!
//! Beyond such a limit the kernel doesn't refuse memory: it kills somebody. So who is going to use
//! many new pages looks first. Others use memory as well meanwhile, so this is a guess, and a part of
//! the limit stays free for what it doesn't know of.

use std::fs::read_to_string;
use std::path::{Component, Path, PathBuf};

/// Bytes that may be used. `None`: there is no limit, or none that can be read.
pub(super) fn room() -> Option<u64> {
    #[cfg(test)]
    if let Some(root) = testing::root() {
        return room_under(&root);
    }
    if cfg!(miri) {
        return None;
    }
    room_under(Path::new("/"))
}

/// As [`room`], by the files below `root`.
fn room_under(root: &Path) -> Option<u64> {
    let groups = read_to_string(root.join("proc/self/cgroup")).ok()?;
    let system = root.join("sys/fs/cgroup");
    let rooms = groups.lines().filter_map(Group::from_line).map(|group| {
        let (names, mounts): (&Names, &[&str]) = if group.is_unified {
            (&UNIFIED, &["", "unified"])
        } else {
            (&MEMORY, &["memory"])
        };
        let swap = || free_swap(root);
        let mounts = mounts.iter().map(|mount| system.join(mount));
        mounts
            .flat_map(|mount| group.folders(&mount))
            .filter_map(|folder| names.room(&folder, swap))
            .min()
    });
    rooms.flatten().min()
}

/// A line of `/proc/self/cgroup` that concerns memory.
struct Group<'a> {
    is_unified: bool,
    path: &'a str,
}

impl<'a> Group<'a> {
    fn from_line(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(3, ':');
        let (number, controllers) = (fields.next()?, fields.next()?);
        let path = fields.next()?;
        let is_unified = number == "0" && controllers.is_empty();
        let is_memory = controllers.split(',').any(|name| name == "memory");
        (is_unified || is_memory).then_some(Self { is_unified, path })
    }

    /// Where the files of the group and of those around it are. In a container the outer ones are
    /// hidden, and the path may lead to what is hidden: what isn't there has no limit.
    fn folders(&self, mount: &Path) -> impl Iterator<Item = PathBuf> + use<> {
        let inner: PathBuf = Path::new(self.path)
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .collect();
        let depth = inner.components().count();
        let mount = mount.to_owned();
        (0..=depth).map(move |count| {
            let outer: PathBuf = inner.components().take(count).collect();
            mount.join(outer)
        })
    }
}

/// What the files are called, in one of the two versions of control groups.
struct Names {
    limit: &'static str,
    usage: &'static str,
    /// Pages of files and the like in `memory.stat`: the kernel takes them back when it needs memory.
    files: &'static [&'static str],
    swap_limit: &'static str,
    swap_usage: &'static str,
    /// Whether those two are of memory and swap together.
    swap_includes_memory: bool,
}

const UNIFIED: Names = Names {
    limit: "memory.max",
    usage: "memory.current",
    files: &["inactive_file", "active_file", "slab_reclaimable"],
    swap_limit: "memory.swap.max",
    swap_usage: "memory.swap.current",
    swap_includes_memory: false,
};

const MEMORY: Names = Names {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    files: &["total_inactive_file", "total_active_file"],
    swap_limit: "memory.memsw.limit_in_bytes",
    swap_usage: "memory.memsw.usage_in_bytes",
    swap_includes_memory: true,
};

/// A limit that is larger than this is none.
const MOST: u64 = 1 << 60;
/// What stays free is a 16th of the limit, within these bounds.
const LEAST_RESERVE: u64 = 1 << 20;
const MOST_RESERVE: u64 = 16 << 20;

impl Names {
    fn room(&self, folder: &Path, free_swap: impl FnOnce() -> u64) -> Option<u64> {
        let number = |name: &str| read_to_string(folder.join(name)).ok()?.trim().parse().ok();
        // No number: `max`.
        let limit: u64 = number(self.limit).filter(|&limit| limit < MOST)?;
        let usage: u64 = number(self.usage)?;
        let statistics = read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let files = field_sum(&statistics, self.files);
        let swap_room = number(self.swap_limit)
            .zip(number(self.swap_usage))
            .map(|(limit, usage): (u64, u64)| limit.saturating_sub(usage));
        let free = limit.saturating_sub(usage);
        let with_swap = match swap_room {
            Some(room) if self.swap_includes_memory => room.min(free.saturating_add(free_swap())),
            room => free.saturating_add(free_swap().min(room.unwrap_or(u64::MAX))),
        };
        let reserve = (limit / 16).clamp(LEAST_RESERVE, MOST_RESERVE);
        Some(with_swap.saturating_add(files).saturating_sub(reserve))
    }
}

/// The sum of the fields with these names, in lines of a name and a number.
fn field_sum(statistics: &str, names: &[&str]) -> u64 {
    let fields = statistics.lines().filter_map(|line| line.split_once(' '));
    let wanted = fields.filter(|(name, _)| names.contains(name));
    wanted
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

fn free_swap(root: &Path) -> u64 {
    let memory = read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let line = memory
        .lines()
        .find_map(|line| line.strip_prefix("SwapFree:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
pub(super) mod testing {
    use std::cell::RefCell;
    use std::fs::{create_dir_all, write};
    use std::path::{Path, PathBuf};

    thread_local! {
        static ROOT: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
    }

    /// What this thread reads instead of the system's files.
    pub(super) fn root() -> Option<PathBuf> {
        ROOT.with_borrow(Clone::clone)
    }

    /// A folder with files of the test's own, which this thread reads as long as it lives.
    pub(crate) struct Files(PathBuf);

    impl Files {
        pub(crate) fn new(name: &str) -> Self {
            let folder = format!("freethreading-{name}-{}", std::process::id());
            let root = std::env::temp_dir().join(folder);
            ROOT.set(Some(root.clone()));
            Self(root)
        }

        pub(crate) fn root(&self) -> &Path {
            &self.0
        }

        pub(crate) fn write(&self, path: &str, text: &str) {
            let file = self.0.join(path);
            create_dir_all(file.parent().expect("it has one")).expect("it can be made");
            write(file, text).expect("it can be written");
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            ROOT.set(None);
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Files;
    use super::*;

    const MIB: u64 = 1 << 20;

    fn unified(files: &Files, folder: &str, limit: &str, usage: u64) {
        files.write(&format!("sys/fs/cgroup{folder}/memory.max"), limit);
        let usage = format!("{usage}\n");
        files.write(&format!("sys/fs/cgroup{folder}/memory.current"), &usage);
    }

    #[test]
    #[cfg_attr(miri, ignore = "files")]
    fn without_files_or_limits_there_is_no_limit() {
        let files = Files::new("none");
        assert_eq!(room_under(files.root()), None);
        files.write("proc/self/cgroup", "0::/a/b\nnonsense\n3:cpu:/\n");
        assert_eq!(room_under(files.root()), None);
        unified(&files, "/a/b", "max\n", 5 * MIB);
        assert_eq!(room_under(files.root()), None);
        files.write("proc/self/cgroup", "7:hugetlb,memory:/\n");
        files.write(
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        files.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n");
        assert_eq!(room_under(files.root()), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "files")]
    fn the_tightest_group_around_counts() {
        let files = Files::new("unified");
        files.write("proc/self/cgroup", "0::/outer/inner\n");
        unified(&files, "/outer/inner", "max", 10 * MIB);
        unified(&files, "/outer", "33554432\n", 20 * MIB);
        // 32 MiB less what is used and the reserve.
        assert_eq!(room_under(files.root()), Some((32 - 20 - 2) * MIB));
        unified(&files, "/outer/inner", "16777216", 10 * MIB);
        assert_eq!(room_under(files.root()), Some((16 - 10 - 1) * MIB));
        // Pages of files can be taken back.
        let statistics = "anon 77\nfile 5000000\ninactive_file 1048576\nactive_file 1048576\nslab_reclaimable 1048576\n";
        files.write("sys/fs/cgroup/outer/inner/memory.stat", statistics);
        assert_eq!(room_under(files.root()), Some((16 - 10 - 1 + 3) * MIB));
        // So can what there is swap for.
        files.write("proc/meminfo", "MemFree: 1 kB\nSwapFree:        8192 kB\n");
        assert_eq!(room_under(files.root()), Some((16 - 10 - 1 + 3 + 8) * MIB));
        files.write("sys/fs/cgroup/outer/inner/memory.swap.max", "4194304\n");
        files.write("sys/fs/cgroup/outer/inner/memory.swap.current", "2097152\n");
        assert_eq!(room_under(files.root()), Some((16 - 10 - 1 + 3 + 2) * MIB));
        unified(&files, "/outer/inner", "16777216", 100 * MIB);
        assert_eq!(room_under(files.root()), Some((3 + 2 - 1) * MIB));
    }

    #[test]
    #[cfg_attr(miri, ignore = "files")]
    fn a_path_that_is_hidden_leads_to_the_container() {
        let files = Files::new("hidden");
        files.write("proc/self/cgroup", "0::/../../somewhere/else\n");
        unified(&files, "", "33554432", 8 * MIB);
        assert_eq!(room_under(files.root()), Some((32 - 8 - 2) * MIB));
    }

    #[test]
    #[cfg_attr(miri, ignore = "files")]
    fn the_first_version_counts_swap_and_memory_together() {
        let files = Files::new("first");
        let groups = "9:name=systemd:/\n4:cpu,memory:/it\n0::/\n";
        files.write("proc/self/cgroup", groups);
        let write = |name: &str, mib: u64| {
            let path = format!("sys/fs/cgroup/memory/it/memory.{name}");
            files.write(&path, &format!("{}\n", mib * MIB));
        };
        write("limit_in_bytes", 64);
        write("usage_in_bytes", 40);
        assert_eq!(room_under(files.root()), Some((64 - 40 - 4) * MIB));
        files.write("proc/meminfo", "SwapFree: 1048576 kB\n");
        write("memsw.limit_in_bytes", 80);
        write("memsw.usage_in_bytes", 45);
        assert_eq!(room_under(files.root()), Some((80 - 45 - 4) * MIB));
        files.write("proc/meminfo", "SwapFree: 0 kB\n");
        assert_eq!(room_under(files.root()), Some((64 - 40 - 4) * MIB));
        write("memsw.usage_in_bytes", 79);
        assert_eq!(room_under(files.root()), Some(0));
        let statistics = "inactive_file 7\ntotal_inactive_file 4194304\ntotal_active_file 0\n";
        files.write("sys/fs/cgroup/memory/it/memory.stat", statistics);
        assert_eq!(room_under(files.root()), Some(MIB));
    }
}
