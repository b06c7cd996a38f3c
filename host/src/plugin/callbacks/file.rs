//! `FileCallbacks`: files beneath roots.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::Path,
    rc::Rc,
    task::{Poll, ready},
};

use medusa_abi::{
    code::{self, Code},
    data::{ByteSink, Handle, InstanceId, Slice},
    file::{FileInfo, OpenSpec},
    host::FileCallbacks,
    task::Waker,
};

use crate::{
    file::{File, Root},
    plugin::{
        callbacks::{count, failure, handle, poll, with},
        frame::current,
        generation::Generation,
        handles::Kind,
        manifest::Capability,
        sink,
    },
    sys::blocking::Blocking,
};

pub(super) static CALLBACKS: FileCallbacks = FileCallbacks {
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

/// Bytes of a path; the kernel's own limit (PATH_MAX).
const PATH_BYTES_MAX: usize = 4096;

unsafe extern "C" fn root_open(id: InstanceId, path: Slice) -> Code {
    current(id, |generation| {
        let max = generation.limits.folders_per_instance_max;
        if let Err(code) = check(generation, Kind::Root, max, "folders_per_instance_max") {
            return code;
        }
        // SAFETY: The slice is valid for the call, says the ABI.
        let Some(path) = (unsafe { path_of(path) }) else { return code::INVALID };
        match Root::open(path) {
            Ok(root) => handle(generation.handles.insert(Rc::new(root), max)),
            Err(refused) => {
                tracing::warn!(instance = generation.name(), "{refused}");
                if refused.is_unsupported { code::UNSUPPORTED } else { failure(&refused.error) }
            }
        }
    })
}

unsafe extern "C" fn file_open(id: InstanceId, spec: *const OpenSpec) -> Code {
    current(id, |generation| {
        let max = generation.limits.files_per_instance_max;
        if let Err(code) = check(generation, Kind::File, max, "files_per_instance_max") {
            return code;
        }
        // SAFETY: The spec is valid for the call, says the ABI.
        let Some(spec) = (unsafe { spec.as_ref() }) else { return code::INVALID };
        // SAFETY: So is its slice.
        let Some(path) = (unsafe { path_of(spec.path) }) else { return code::INVALID };
        let root = match generation.handles.get::<Root>(spec.root) {
            Ok(root) => root,
            Err(code) => return code,
        };
        let pool: Rc<dyn Blocking> = generation.instance.registry.host_pool.clone();
        match root.open_file(&pool, path, spec.flags, spec.mode) {
            Ok(file) => handle(generation.handles.insert(Rc::new(file), max)),
            Err(error) => failure(&error),
        }
    })
}

unsafe extern "C" fn file_open_poll(
    id: InstanceId,
    file: Handle,
    out: *mut FileInfo,
    waker: Waker,
) -> Code {
    with::<File, _>(id, file, |generation, file| {
        if out.is_null() {
            return code::INVALID;
        }
        poll(generation, waker, |context| {
            let info = ready!(file.poll_open(context))?;
            // SAFETY: `out` is valid for the call, says the ABI, and not null.
            unsafe { out.write(info) };
            Poll::Ready(Ok(code::READY))
        })
    })
}

unsafe extern "C" fn file_info(id: InstanceId, file: Handle, out: *mut FileInfo) -> Code {
    with::<File, _>(id, file, |_, file| {
        if out.is_null() {
            return code::INVALID;
        }
        match file.info() {
            Ok(info) => {
                // SAFETY: `out` is valid for the call, says the ABI, and not null.
                unsafe { out.write(info) };
                code::READY
            }
            Err(error) => failure(&error),
        }
    })
}

unsafe extern "C" fn file_read(
    id: InstanceId,
    file: Handle,
    offset: u64,
    buffer: *mut u8,
    length: usize,
    waker: Waker,
) -> Code {
    with::<File, _>(id, file, |generation, file| {
        if length > isize::MAX as usize || (buffer.is_null() && length > 0) {
            return code::INVALID;
        }
        if length == 0 {
            return 0;
        }
        // SAFETY: The buffer is the plugin's, valid and unshared for `length` bytes and the call, says the ABI. Nothing here reads
        // it: it is written to by the kernel or by a copy.
        let buffer = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
        poll(generation, waker, |context| file.poll_read(context, offset, buffer).map_ok(count))
    })
}

unsafe extern "C" fn file_write(
    id: InstanceId,
    file: Handle,
    offset: u64,
    bytes: Slice,
    waker: Waker,
) -> Code {
    with::<File, _>(id, file, |generation, file| {
        // SAFETY: The slice is valid for the call, says the ABI.
        match unsafe { bytes.get() } {
            None => code::INVALID,
            Some([]) => 0,
            Some(bytes) => poll(generation, waker, |context| {
                file.poll_write(context, offset, bytes).map_ok(count)
            }),
        }
    })
}

unsafe extern "C" fn file_sync(id: InstanceId, file: Handle, waker: Waker) -> Code {
    with::<File, _>(id, file, |generation, file| {
        poll(generation, waker, |context| file.poll_sync(context).map_ok(|()| code::READY))
    })
}

unsafe extern "C" fn dir_next(
    id: InstanceId,
    directory: Handle,
    name: ByteSink,
    out: *mut FileInfo,
    waker: Waker,
) -> Code {
    with::<File, _>(id, directory, |generation, directory| {
        if out.is_null() {
            return code::INVALID;
        }
        poll(generation, waker, |context| {
            let Some((bytes, info)) = ready!(directory.poll_dir_next(context))? else {
                return Poll::Ready(Ok(code::END));
            };
            // SAFETY: `out` is valid for the call, says the ABI, and not null.
            unsafe { out.write(info) };
            // SAFETY: The sink is valid for the call, says the ABI.
            let taken = unsafe { sink::write_to(name, &bytes) };
            Poll::Ready(Ok(taken.min(code::READY)))
        })
    })
}

/// Whether the plugin may have one more of a kind of thing that is about files. Nothing that works on a handle asks for the capability
/// again: without it there is no handle.
fn check(generation: &Generation, kind: Kind, max: u64, limit: &str) -> Result<(), Code> {
    if !generation.may(Capability::Files) {
        return Err(code::DENIED);
    }
    if u64::from(generation.handles.count(kind)) >= max {
        return Err(generation.limited(limit));
    }
    Ok(())
}

/// A path of the plugin's, as it is; none where it cannot be one.
///
/// # Safety
/// The slice must be valid for as long as the path is used.
unsafe fn path_of<'a>(path: Slice) -> Option<&'a Path> {
    // SAFETY: The caller's promise.
    let bytes = unsafe { path.get() }?;
    let is_path = bytes.len() < PATH_BYTES_MAX && !bytes.contains(&0);
    is_path.then(|| Path::new(OsStr::from_bytes(bytes)))
}
