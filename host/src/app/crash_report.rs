//! What is said of a crash: the signal, in whose code it was, and where in its library.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io,
    mem::ManuallyDrop,
    os::{
        fd::RawFd,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use object::{Endianness, Object as _, ObjectSymbol as _, SymbolKind, read::elf::ElfFile64};

use crate::sys::{
    crash::{self, Crash},
    exec,
};

/// Reports that are kept; older ones are removed.
const REPORTS_MAX: usize = 10;
/// So many places on the stack are told.
const PLACES_MAX: usize = 16;
/// A fault so near to the end of the stack is its overflow.
const OVERFLOW_BYTES: u64 = 64 * 1024;

/// In whose code it seems to have been.
pub(super) struct Suspect {
    /// The instance.
    pub name: String,
    /// Of its library.
    pub version: Option<String>,
    /// Where that was read from.
    pub path: Option<PathBuf>,
    /// Its bytes.
    pub library: Option<RawFd>,
}

/// What is known of a crash.
pub(super) struct CrashReport {
    reason: String,
    text: String,
    time_s: u64,
}

/// One line of the mapping list, as it was.
struct Mapped<'a> {
    start: u64,
    end: u64,
    is_code: bool,
    offset: u64,
    inode: u64,
    path: &'a str,
}

/// Looks at a crash. Of a library whose bytes are there the places have names.
pub(super) fn make(crash: &Crash, suspect: Option<Suspect>) -> CrashReport {
    let maps: Vec<_> = crash.maps.lines().filter_map(mapped).collect();
    let bytes = suspect.as_ref().and_then(|it| contents(it.library?).ok());
    let inode = suspect.as_ref().and_then(|it| inode(it.library?).ok());
    let at = place(&maps, crash.instruction, inode, bytes.as_deref());
    let called_from = called_from(&maps, crash, inode, bytes.as_deref());
    let what = what(crash);
    let is_inside = inode.is_some_and(|inode| {
        maps.iter().any(|it| it.holds(crash.instruction) && it.inode == inode)
    });
    let place = match called_from.first() {
        Some(caller) if !is_inside => format!("{at}, called from {caller}"),
        _ => at.clone(),
    };
    let reason = match &suspect {
        Some(suspect) => format!("{what} in `{}`{}, at {place}", suspect.name, version(suspect)),
        None => format!("{what} in no plugin's code, at {place}"),
    };
    let mut text = format!("{reason}\n\n");
    let mut line = |name: &str, value: String| {
        // A string takes whatever there is.
        let _ = writeln!(text, "{name:14}{value}");
    };
    line("medusa", env!("CARGO_PKG_VERSION").to_owned());
    line("time", format!("{} s since 1970", crash.time_s));
    line("thread", format!("{} ({})", crash.thread_name, crash.thread));
    line("signal", crash::signal_name(crash.signal).to_owned());
    line("address", format!("{:#x}", crash.address));
    line("instruction", format!("{:#x}, {at}", crash.instruction));
    if let Some(Suspect { name, path, .. }) = &suspect {
        line("instance", name.clone());
        line("library", path.as_ref().map_or(String::new(), |it| it.display().to_string()));
    }
    line("crashes", crash.count.to_string());
    text += "\nwhat seems to have called it, innermost first\n";
    for caller in &called_from {
        let _ = writeln!(text, "  {caller}");
    }
    let _ = write!(text, "\nmapped\n{}", crash.maps);
    CrashReport { reason, text, time_s: crash.time_s }
}

/// Whether the instruction, or for a thread of its own the innermost place on the stack, is in a library.
pub(super) fn is_in(crash: &Crash, library: RawFd) -> bool {
    let Ok(inode) = inode(library) else { return false };
    let maps: Vec<_> = crash.maps.lines().filter_map(mapped).collect();
    let is_its = |at: u64| maps.iter().any(|it| it.is_code && it.holds(at) && it.inode == inode);
    let is_hosts = crash.thread_name.starts_with("medusa");
    is_its(crash.instruction) || (!is_hosts && crash.stack_words.iter().any(|at| is_its(*at)))
}

impl CrashReport {
    /// It in a sentence's part.
    pub(super) fn reason(&self) -> String {
        self.reason.clone()
    }

    /// Writes it to a file in a folder, which is made if it is not there, and removes the oldest there beyond so many. Blocks.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&self, folder: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let mut before: Vec<_> = fs::read_dir(folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_report(path))
            .collect();
        before.sort();
        let extra = (before.len() + 1).saturating_sub(REPORTS_MAX);
        for old in before.iter().take(extra) {
            fs::remove_file(old)?;
        }
        let names = (0..).map(|number| match number {
            0 => format!("crash-{}.txt", self.time_s),
            _ => format!("crash-{}-{number}.txt", self.time_s),
        });
        let mut free = names.map(|name| folder.join(name)).filter(|path| !path.exists());
        let path = free.next().ok_or(io::ErrorKind::AlreadyExists)?;
        fs::write(&path, &self.text)?;
        Ok(path)
    }
}

fn is_report(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("crash-") && name.ends_with(".txt")
}

fn what(crash: &Crash) -> String {
    let name = crash::signal_name(crash.signal);
    let below = crash.stack.abs_diff(crash.address);
    match crash.signal {
        _ if !crash.panic.is_empty() => format!("a panic ({}),", crash.panic),
        _ if crash.stalled_ms > 0 => {
            format!("the loop stood still for {} ms (`stall_ms_max`)", crash.stalled_ms)
        }
        libc::SIGSEGV if below < OVERFLOW_BYTES => format!("{name}, a stack overflow,"),
        libc::SIGSEGV | libc::SIGBUS => format!("{name} at address {:#x}", crash.address),
        libc::SIGABRT => format!("{name}, an abort,"),
        libc::SIGALRM => format!("{name}, for it did not come to serve in time,"),
        _ => name.to_owned(),
    }
}

fn version(suspect: &Suspect) -> String {
    suspect.version.as_ref().map_or(String::new(), |version| format!(" {version}"))
}

impl Mapped<'_> {
    fn holds(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

// proc(5): address           perms offset  dev   inode       pathname
fn mapped(line: &str) -> Option<Mapped<'_>> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let is_code = fields.next()?.contains('x');
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let offset = number(fields.next()?)?;
    let inode = fields.nth(1)?.parse().ok()?;
    let path = fields.next().unwrap_or_default().trim_start();
    Some(Mapped { start: number(start)?, end: number(end)?, is_code, offset, inode, path })
}

/// An address as file and offset, and by name where the symbols are those of the file.
fn place(maps: &[Mapped<'_>], address: u64, inode: Option<u64>, bytes: Option<&[u8]>) -> String {
    let Some(mapping) = maps.iter().find(|it| it.holds(address)) else {
        return format!("{address:#x}, which is nowhere");
    };
    let base = maps.iter().find(|it| it.inode == mapping.inode && it.path == mapping.path);
    let base = base.filter(|_| mapping.inode != 0).map_or(mapping.start, |it| it.start - it.offset);
    let offset = address.saturating_sub(base);
    let symbol = bytes.filter(|_| inode == Some(mapping.inode)).and_then(|it| symbol(it, offset));
    let path = mapping.path.trim_end_matches(" (deleted)");
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let name = if name.is_empty() { "memory" } else { name };
    match symbol {
        Some(symbol) => format!("{name}+{offset:#x} ({symbol})"),
        None => format!("{name}+{offset:#x}"),
    }
}

/// What on the stack looks like return addresses into the library.
fn called_from(
    maps: &[Mapped<'_>],
    crash: &Crash,
    inode: Option<u64>,
    bytes: Option<&[u8]>,
) -> Vec<String> {
    let is_its = |at: &u64| {
        maps.iter()
            .any(|it| it.is_code && it.holds(*at) && inode.is_none_or(|inode| it.inode == inode))
    };
    let words = crash.stack_words.iter().copied().filter(is_its).take(PLACES_MAX);
    // The call is before the address that it returns to.
    words.map(|at| place(maps, at - 1, inode, bytes)).collect()
}

fn symbol(bytes: &[u8], offset: u64) -> Option<String> {
    let file = ElfFile64::<Endianness>::parse(bytes).ok()?;
    let in_it = |symbol: &object::read::elf::ElfSymbol64<'_, '_, Endianness>| {
        symbol.kind() == SymbolKind::Text
            && (symbol.address()..symbol.address() + symbol.size()).contains(&offset)
    };
    let symbol = file.symbols().chain(file.dynamic_symbols()).find(in_it)?;
    Some(format!("{:#}", rustc_demangle::demangle(symbol.name().ok()?)))
}

fn contents(descriptor: RawFd) -> io::Result<Vec<u8>> {
    let file = ManuallyDrop::new(File::from(exec::take(descriptor)?));
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn inode(descriptor: RawFd) -> io::Result<u64> {
    Ok(ManuallyDrop::new(File::from(exec::take(descriptor)?)).metadata()?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "1000-2000 r--p 00000000 00:01 7 /memfd:medusa:bad (deleted)\n\
                        2000-4000 r-xp 00001000 00:01 7 /memfd:medusa:bad (deleted)\n\
                        9000-a000 rw-p 00000000 00:00 0 [stack]\n";

    fn crash(signal: i32, instruction: u64) -> Crash {
        Crash { signal, instruction, maps: MAPS.to_owned(), ..Crash::default() }
    }

    #[test]
    fn a_place_is_a_file_and_an_offset() {
        let report = make(&crash(libc::SIGILL, 0x2345), None);
        assert_eq!(report.reason(), "SIGILL in no plugin's code, at memfd:medusa:bad+0x1345");
        let report = make(&crash(libc::SIGILL, 0x8000), None);
        assert!(report.reason().ends_with("at 0x8000, which is nowhere"), "{}", report.reason());
    }

    #[test]
    fn the_end_of_the_stack_is_told_from_other_addresses() {
        let mut crash = crash(libc::SIGSEGV, 0x2345);
        assert!(
            make(&Crash { stack: 1 << 40, ..crash.clone() }, None)
                .reason()
                .contains("at address 0x0")
        );
        (crash.stack, crash.address) = (0x9010, 0x8ff8);
        assert!(make(&crash, None).reason().contains("a stack overflow"));
    }

    #[test]
    fn so_many_reports_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let report = |time_s| CrashReport { reason: String::new(), text: "x".to_owned(), time_s };
        for time_s in 1000..1020 {
            report(time_s).write(&folder.path().join("state")).unwrap();
        }
        let path = report(1019).write(&folder.path().join("state")).unwrap();
        assert!(path.ends_with("crash-1019-1.txt"));
        assert_eq!(fs::read_dir(folder.path().join("state")).unwrap().count(), REPORTS_MAX);
    }
}
