//! The test host's files: the standard library's, beneath a folder.

use std::{
    cell::RefCell,
    ffi::OsStr,
    fs::{self, File, Metadata},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Component, Path, PathBuf},
    rc::Rc,
};

use medusa_abi::{
    code::{self, Code},
    data::{ByteSink, Handle, InstanceId, Slice},
    file::{
        FileInfo, KIND_DIRECTORY, KIND_FILE, KIND_OTHER, KIND_SYMLINK, OPEN_CREATE, OPEN_DIRECTORY,
        OPEN_EXCLUSIVE, OPEN_NO_SYMLINKS, OPEN_READ, OPEN_TRUNCATE, OPEN_WRITE, OpenSpec,
    },
    host::FileCallbacks,
    task::Waker,
};

use super::{
    callbacks::on_loop,
    world::{Entry, World},
};
use crate::host::{bytes_of, write_sink};

pub(super) static FILE: FileCallbacks = FileCallbacks {
    size: size_of::<FileCallbacks>(),
    root_open,
    file_open,
    file_open_poll,
    file_info,
    file_read,
    file_write,
    file_sync,
    dir_next,
};

/// An open file or directory, or why there is none.
pub(super) struct OpenFile {
    file: io::Result<File>,
    /// Entries that were not listed yet.
    entries: RefCell<Vec<PathBuf>>,
}

/// Reads from a file.
pub(super) fn read(world: &World, file: Handle, offset: u64, buffer: &mut [u8]) -> Code {
    with(world, file, |file| match file.read_at(buffer, offset) {
        Ok(count) => count as Code,
        Err(error) => from_error(&error),
    })
}

fn with(world: &World, file: Handle, f: impl FnOnce(&File) -> Code) -> Code {
    match world.get(file) {
        Some(Entry::File(open)) => match &open.file {
            Ok(file) => f(file),
            Err(error) => from_error(error),
        },
        _ => code::STALE,
    }
}

fn from_error(error: &io::Error) -> Code {
    code::from_errno(error.raw_os_error().unwrap_or(libc::EIO))
}

fn info(metadata: &Metadata) -> FileInfo {
    let kind = match metadata.file_type() {
        kind if kind.is_file() => KIND_FILE,
        kind if kind.is_dir() => KIND_DIRECTORY,
        kind if kind.is_symlink() => KIND_SYMLINK,
        _ => KIND_OTHER,
    };
    FileInfo {
        kind,
        mode: metadata.mode() & 0o7777,
        size: metadata.size(),
        modified_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
        changed_ns: metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec(),
        device: metadata.dev(),
        inode: metadata.ino(),
        user: metadata.uid(),
        group: metadata.gid(),
        links: metadata.nlink(),
        spare: [0; 2],
    }
}

/// The file that `path` names beneath `root`. Not safe against a file system that changes meanwhile: this is for tests.
fn find(root: &Path, path: &Path, no_symlinks: bool) -> io::Result<PathBuf> {
    let os = io::Error::from_raw_os_error;
    let mut found = root.to_path_buf();
    for part in path.components() {
        match part {
            Component::Normal(part) => found.push(part),
            Component::CurDir => {}
            _ => return Err(os(libc::EXDEV)),
        }
        let symlink = found.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
        if symlink && no_symlinks {
            return Err(os(libc::ELOOP));
        }
        if symlink && !found.canonicalize()?.starts_with(root.canonicalize()?) {
            return Err(os(libc::EXDEV));
        }
    }
    Ok(found)
}

fn open(root: &Path, path: &Path, flags: u32, mode: u32) -> io::Result<(File, Vec<PathBuf>)> {
    let path = find(root, path, flags & OPEN_NO_SYMLINKS != 0)?;
    if flags & OPEN_DIRECTORY != 0 {
        let entries = fs::read_dir(&path)?.map(|entry| Ok(entry?.path()));
        let entries = entries.collect::<io::Result<_>>()?;
        return Ok((File::open(&path)?, entries));
    }
    let file = fs::OpenOptions::new()
        .read(flags & OPEN_READ != 0)
        .write(flags & OPEN_WRITE != 0)
        .create(flags & OPEN_CREATE != 0)
        .create_new(flags & OPEN_EXCLUSIVE != 0)
        .truncate(flags & OPEN_TRUNCATE != 0)
        .mode(mode)
        .open(path)?;
    Ok((file, Vec::new()))
}

// In all of the following the plugin's SDK keeps what the ABI asks of a caller: slices and pointers are valid for the call.

unsafe extern "C" fn root_open(_: InstanceId, path: Slice) -> Code {
    on_loop(|world| {
        // SAFETY: See above.
        let path = PathBuf::from(OsStr::from_bytes(unsafe { bytes_of(path) }));
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => world.insert(Entry::Folder(path)) as Code,
            Ok(_) => code::from_errno(libc::ENOTDIR),
            Err(error) => from_error(&error),
        }
    })
}

unsafe extern "C" fn file_open(_: InstanceId, spec: *const OpenSpec) -> Code {
    on_loop(|world| {
        // SAFETY: See above.
        let (spec, path) = unsafe { (&*spec, bytes_of((*spec).path)) };
        let Some(Entry::Folder(root)) = world.get(spec.root) else { return code::STALE };
        let opened = open(&root, Path::new(OsStr::from_bytes(path)), spec.flags, spec.mode);
        let (file, entries) = match opened {
            Ok((file, entries)) => (Ok(file), entries),
            Err(error) => (Err(error), Vec::new()),
        };
        world.insert(Entry::File(Rc::new(OpenFile { file, entries: entries.into() }))) as Code
    })
}

unsafe extern "C" fn file_open_poll(
    instance: InstanceId,
    file: Handle,
    out: *mut FileInfo,
    _: Waker,
) -> Code {
    // SAFETY: The caller's promise is the same.
    unsafe { file_info(instance, file, out) }
}

unsafe extern "C" fn file_info(_: InstanceId, file: Handle, out: *mut FileInfo) -> Code {
    on_loop(|world| {
        with(world, file, |file| match file.metadata() {
            Ok(metadata) => {
                // SAFETY: See above.
                unsafe { out.write(info(&metadata)) };
                code::READY
            }
            Err(error) => from_error(&error),
        })
    })
}

unsafe extern "C" fn file_read(
    _: InstanceId,
    file: Handle,
    offset: u64,
    buffer: *mut u8,
    length: usize,
    _: Waker,
) -> Code {
    // SAFETY: See above; the SDK's buffers are initialized.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    on_loop(|world| read(world, file, offset, buffer))
}

unsafe extern "C" fn file_write(
    _: InstanceId,
    file: Handle,
    offset: u64,
    bytes: Slice,
    _: Waker,
) -> Code {
    // SAFETY: See above.
    let bytes = unsafe { bytes_of(bytes) };
    on_loop(|world| {
        with(world, file, |file| match file.write_at(bytes, offset) {
            Ok(count) => count as Code,
            Err(error) => from_error(&error),
        })
    })
}

unsafe extern "C" fn file_sync(_: InstanceId, file: Handle, _: Waker) -> Code {
    on_loop(|world| {
        with(world, file, |file| match file.sync_all() {
            Ok(()) => code::READY,
            Err(error) => from_error(&error),
        })
    })
}

unsafe extern "C" fn dir_next(
    _: InstanceId,
    directory: Handle,
    name: ByteSink,
    out: *mut FileInfo,
    _: Waker,
) -> Code {
    on_loop(|world| {
        let Some(Entry::File(open)) = world.get(directory) else { return code::STALE };
        let Some(path) = open.entries.borrow_mut().pop() else { return code::END };
        match path.symlink_metadata() {
            Ok(metadata) => {
                let file_name = path.file_name().unwrap_or_default();
                // SAFETY: See above.
                unsafe {
                    out.write(info(&metadata));
                    write_sink(name, file_name.as_bytes()).min(code::READY)
                }
            }
            Err(error) => from_error(&error),
        }
    })
}
