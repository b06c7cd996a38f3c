//! The mapping list of this process, as `/proc/self/maps` states it.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{PoisonError, RwLock},
};

/// Which file is mapped: numbers that stay the same whatever the file is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Major and minor number of the device, as the mapping list states them. (On some file systems `fstat` states others.)
    pub device: (u32, u32),
    /// The inode; 0 for memory that belongs to no file.
    pub inode: u64,
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The addresses.
    pub range: Range<usize>,
    /// Whether code may be executed there.
    pub executable: bool,
    /// The file behind it.
    pub file: FileId,
    /// Its path, or a word of the kernel's such as `[stack]`, or nothing.
    pub path: String,
}

/// Opened once, so that the list can be read when no descriptor is left.
static LIST: RwLock<Option<File>> = RwLock::new(None);

/// Opens the list for all later reads, if that was not done.
///
/// # Errors
/// `/proc` is not mounted, or no descriptor is left.
pub fn keep_open() -> io::Result<()> {
    with_list(|_| Ok(()))
}

/// Opens the list anew: to be called in a process that has forked, where what was open is the other's.
///
/// # Errors
/// As [`keep_open`].
pub fn open_anew() -> io::Result<()> {
    // Closed first, so that there is a descriptor for it.
    LIST.write().unwrap_or_else(PoisonError::into_inner).take();
    keep_open()
}

fn with_list<R>(read: impl FnOnce(&File) -> io::Result<R>) -> io::Result<R> {
    if let Some(list) = &*LIST.read().unwrap_or_else(PoisonError::into_inner) {
        return read(list);
    }
    let mut list = LIST.write().unwrap_or_else(PoisonError::into_inner);
    let list = match &mut *list {
        Some(list) => list,
        none => none.insert(File::open("/proc/self/maps")?),
    };
    read(list)
}

/// All mappings, in the order of their addresses.
///
/// # Errors
/// `/proc` is not mounted, or a line is not understood.
pub fn mappings() -> io::Result<Vec<Mapping>> {
    let text = with_list(read_from_start)?;
    String::from_utf8_lossy(&text).lines().map(parse_line).collect()
}

/// The mapping that holds an address.
pub fn mapping_at(address: usize) -> io::Result<Option<Mapping>> {
    Ok(mappings()?.into_iter().find(|mapping| mapping.range.contains(&address)))
}

/// Whether any part of a file is mapped.
pub fn is_mapped(file: FileId) -> io::Result<bool> {
    Ok(mappings()?.iter().any(|mapping| mapping.file == file))
}

/// By offsets of its own, for threads share the descriptor.
fn read_from_start(list: &File) -> io::Result<Vec<u8>> {
    const PIECE_BYTES: usize = 64 * 1024;
    let (mut text, mut length) = (Vec::new(), 0);
    loop {
        text.resize(length + PIECE_BYTES, 0);
        match list.read_at(&mut text[length..], length as u64)? {
            0 => break,
            count => length += count,
        }
    }
    text.truncate(length);
    Ok(text)
}

fn parse_line(line: &str) -> io::Result<Mapping> {
    try_parse_line(line).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("cannot read the mapping list at `{line}`"),
        )
    })
}

// proc(5): address           perms offset  dev   inode       pathname
fn try_parse_line(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let _offset = fields.next()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.parse().ok()?;
    Some(Mapping {
        range: usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?,
        executable: permissions.contains('x'),
        file: FileId {
            device: (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?),
            inode,
        },
        path: fields.next().unwrap_or_default().trim_start().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let line = "7f00-7fff r-xp 00001000 fd:1a 12345                      /memfd:a b (deleted)";
        let mapping = parse_line(line).unwrap();
        assert_eq!(mapping.range, 0x7f00..0x7fff);
        assert!(mapping.executable);
        assert_eq!(mapping.file, FileId { device: (0xfd, 0x1a), inode: 12345 });
        assert_eq!(mapping.path, "/memfd:a b (deleted)");
        assert_eq!(parse_line("7f00-7fff rw-p 00000000 00:00 0 ").unwrap().path, "");
        assert_eq!(parse_line("7f00-7fff rw-p 00000000 00:00 0").unwrap().path, "");
        for wrong in ["", "7f00", "x-y r--p 0 0:0 0", "1-2 r--p 0 0:0", "1-2 r--p 0 00 0"] {
            assert!(parse_line(wrong).unwrap_err().to_string().contains(wrong));
        }
    }

    #[test]
    fn our_own_code_is_in_the_list() {
        let mapping =
            mapping_at(our_own_code_is_in_the_list as *const () as usize).unwrap().unwrap();
        assert!(mapping.executable);
        assert!(is_mapped(mapping.file).unwrap());
        assert!(!is_mapped(FileId { device: (0, 0), inode: u64::MAX }).unwrap());
    }
}
