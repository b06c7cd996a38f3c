//! A process as the system shows it under `/proc`: mappings, descriptors, threads, memory.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit};

/// A process, by its number.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    pid: u32,
}

/// One line of the mapping list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address and the one after the last.
    pub range: std::ops::Range<u64>,
    /// As in `r-xp`.
    pub permissions: String,
    /// Major and minor number of the device.
    pub device: (u32, u32),
    /// 0 where no file stands behind it.
    pub inode: u64,
    /// A path, `/memfd:NAME (deleted)`, `[heap]`, or nothing.
    pub path: String,
}

/// An open descriptor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Descriptor {
    /// Its number.
    pub number: i32,
    /// What it leads to: a path, `socket:[…]`, `pipe:[…]`, `anon_inode:…`.
    pub target: PathBuf,
}

/// A thread.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thread {
    /// Its number.
    pub id: u32,
    /// Its name; the system cuts it at 15 bytes.
    pub name: String,
}

impl Process {
    /// The process with this number.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        Self { pid }
    }

    /// Its number.
    #[must_use]
    pub fn pid(self) -> u32 {
        self.pid
    }

    /// What is mapped.
    ///
    /// # Panics
    ///
    /// When the process is gone.
    #[must_use]
    #[track_caller]
    pub fn mappings(self) -> Vec<Mapping> {
        let text = self.read("maps");
        text.lines()
            .map(|line| Mapping::parse(line).unwrap_or_else(|| panic!("no mapping: `{line}`")))
            .collect()
    }

    /// The mappings whose path holds a text.
    #[must_use]
    #[track_caller]
    pub fn mappings_of(self, part: &str) -> Vec<Mapping> {
        self.mappings().into_iter().filter(|mapping| mapping.path.contains(part)).collect()
    }

    /// Whether anything of a file is mapped, by device and inode: a copy of the file is another file.
    ///
    /// # Panics
    ///
    /// When the file or the process is gone.
    #[must_use]
    #[track_caller]
    pub fn maps_file(self, file: &Path) -> bool {
        let file = fs::metadata(file)
            .unwrap_or_else(|error| panic!("cannot look at {}: {error}", file.display()));
        let device = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
        self.mappings()
            .iter()
            .any(|mapping| mapping.device == device && mapping.inode == file.ino())
    }

    /// What is open.
    ///
    /// # Panics
    ///
    /// When the process is gone.
    #[must_use]
    #[track_caller]
    pub fn descriptors(self) -> Vec<Descriptor> {
        let mut found: Vec<_> = self
            .entries("fd")
            // One may be closed while we look.
            .filter_map(|path| {
                let number = path.file_name()?.to_str()?.parse().ok()?;
                Some(Descriptor { number, target: fs::read_link(path).ok()? })
            })
            .collect();
        found.sort();
        found
    }

    /// What runs.
    ///
    /// # Panics
    ///
    /// When the process is gone.
    #[must_use]
    #[track_caller]
    pub fn threads(self) -> Vec<Thread> {
        let mut found: Vec<_> = self
            .entries("task")
            // One may end while we look.
            .filter_map(|path| {
                let id = path.file_name()?.to_str()?.parse().ok()?;
                Some(Thread {
                    id,
                    name: fs::read_to_string(path.join("comm")).ok()?.trim_end().to_owned(),
                })
            })
            .collect();
        found.sort();
        found
    }

    /// Resident memory, in bytes.
    ///
    /// # Panics
    ///
    /// When the process is gone.
    #[must_use]
    #[track_caller]
    pub fn rss_bytes(self) -> u64 {
        let text = self.read("status");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line
            .and_then(|line| line.split_whitespace().next())
            .and_then(|kib| kib.parse::<u64>().ok());
        1024 * kib
            .unwrap_or_else(|| panic!("process {} has no resident memory: it has ended", self.pid))
    }

    /// How many descriptors it may have.
    ///
    /// # Panics
    ///
    /// When the process is gone.
    #[must_use]
    #[track_caller]
    pub fn descriptors_max(self) -> u64 {
        let limits = self.read("limits");
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        soft.unwrap_or_else(|| panic!("no number of open files in:\n{limits}"))
    }

    /// Allows it no descriptor beyond those that it has.
    ///
    /// # Panics
    ///
    /// When the process is gone.
    #[track_caller]
    pub fn leave_no_descriptor(self) {
        let numbers = self.descriptors().into_iter().map(|it| it.number);
        let numbers: std::collections::BTreeSet<_> = numbers.collect();
        // A hole among them is one that it could still get; only the lowest number that is free counts.
        let free = (0..).find(|number| !numbers.contains(number)).expect("numbers do not end");
        let limit = Rlimit {
            current: Some(u64::try_from(free).expect("it is counted from zero")),
            maximum: Some(self.descriptors_max()),
        };
        let pid = Pid::from_raw(self.pid.cast_signed());
        rustix::process::prlimit(pid, Resource::Nofile, limit)
            .unwrap_or_else(|error| panic!("cannot limit process {}: {error}", self.pid));
    }

    /// Allows it so many descriptors.
    ///
    /// # Panics
    ///
    /// When the process is gone.
    #[track_caller]
    pub fn allow_descriptors(self, max: u64) {
        let limit = Rlimit { current: Some(max), maximum: Some(max) };
        let pid = Pid::from_raw(self.pid.cast_signed());
        rustix::process::prlimit(pid, Resource::Nofile, limit)
            .unwrap_or_else(|error| panic!("cannot limit process {}: {error}", self.pid));
    }

    /// Processor time used by all its threads, to a hundredth of a second.
    ///
    /// # Panics
    ///
    /// When the process is gone.
    #[must_use]
    #[track_caller]
    pub fn cpu_time(self) -> Duration {
        let text = self.read("stat");
        // The program's name stands in parentheses and may hold anything.
        let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let ticks: u64 =
            fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        // USER_HZ is 100 on every Linux that we run on.
        Duration::from_millis(ticks * 10)
    }

    #[track_caller]
    fn read(self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid))
            .unwrap_or_else(|error| panic!("cannot look at process {}: {error}", self.pid))
    }

    #[track_caller]
    fn entries(self, name: &str) -> impl Iterator<Item = PathBuf> {
        fs::read_dir(format!("/proc/{}/{name}", self.pid))
            .unwrap_or_else(|error| panic!("cannot look at process {}: {error}", self.pid))
            .filter_map(|entry| Some(entry.ok()?.path()))
    }
}

impl Mapping {
    /// `7f00-7f10 r-xp 00000000 00:01 1234      /memfd:echo (deleted)`
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (first, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?.to_owned();
        let _offset = fields.next()?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let inode = fields.next()?.parse().ok()?;
        let path = fields.next().unwrap_or_default().trim_start().to_owned();
        let range = u64::from_str_radix(first, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
        let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
        Some(Self { range, permissions, device, inode, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_be_seen() {
        let myself = Process::of(std::process::id());
        assert!(myself.maps_file(&std::env::current_exe().unwrap()));
        assert!(!myself.mappings_of("[stack]").is_empty());
        assert!(myself.descriptors().iter().any(|it| it.number == 1));
        assert!(myself.rss_bytes() > 100_000);
        let started = myself.cpu_time();
        std::thread::scope(|scope| {
            let name = "seen".to_owned();
            let (sender, receiver) = std::sync::mpsc::channel::<()>();
            std::thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, move || receiver.recv())
                .unwrap();
            let is_seen = || myself.threads().iter().any(|it| it.name == "seen");
            crate::wait_until("the thread's name", Duration::from_secs(10), is_seen);
            drop(sender);
        });
        assert!(myself.cpu_time() >= started);
    }
}
