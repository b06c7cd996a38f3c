//! Files beneath a root. All of it needs the capability `files`.

// Calls the callbacks of files.
#![allow(unsafe_code)]

use std::{
    future::poll_fn,
    io,
    path::Path,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use medusa_abi::{
    code,
    data::{Handle, Slice},
    file::{
        FileInfo as AbiInfo, KIND_DIRECTORY, KIND_FILE, KIND_SYMLINK, OPEN_CREATE, OPEN_DIRECTORY,
        OPEN_EXCLUSIVE, OPEN_NO_SYMLINKS, OPEN_READ, OPEN_TRUNCATE, OPEN_WRITE, OpenSpec,
    },
};

use crate::{
    connection::poll_count,
    error::{Error, Result, io_error},
    handle::Owned,
    host::{host, vec_sink},
    net::handle,
    waker,
};

/// A directory to open files beneath; no path leads out of it. Clones share it.
#[derive(Clone, Debug)]
pub struct Root(Rc<Owned>);

impl Root {
    /// Opens a directory, by its absolute path. It may block: meant for `load` and for [`Registrar::on_start`](crate::Registrar::on_start).
    ///
    /// # Errors
    /// The system's; `PermissionDenied` without the capability.
    pub fn open_dir(path: impl AsRef<Path>) -> Result<Root> {
        let path = path.as_ref();
        let host = host();
        // SAFETY: The slice is borrowed for the call.
        let code = unsafe {
            let path = Slice::new(path.as_os_str().as_encoded_bytes());
            (host.file.root_open)(host.instance, path)
        };
        let what = || format!("cannot open the folder {}", path.display());
        Ok(Root(Rc::new(Owned::new(
            handle(code).map_err(|error| Error::from(error).context(what()))?,
        ))))
    }

    /// Opens a file for reading. `path` is relative, with `/` between its parts; names of files are bytes, not always text.
    ///
    /// # Errors
    /// The system's; `EXDEV` for a path that leads out of the root.
    pub async fn open(&self, path: impl AsRef<[u8]>) -> io::Result<File> {
        self.open_with(path, OpenOptions::new()).await
    }

    /// Opens a file as `options` say.
    ///
    /// # Errors
    /// As [`open`](Root::open).
    pub async fn open_with(
        &self,
        path: impl AsRef<[u8]>,
        options: OpenOptions,
    ) -> io::Result<File> {
        let (handle, info) = self.open_raw(path.as_ref(), options.flags, options.mode).await?;
        Ok(File { handle, info })
    }

    /// Opens a directory to list it; an empty path is the root itself.
    ///
    /// # Errors
    /// As [`open`](Root::open).
    pub async fn read_dir(&self, path: impl AsRef<[u8]>) -> io::Result<Dir> {
        let (handle, _) = self.open_raw(path.as_ref(), OPEN_READ | OPEN_DIRECTORY, 0).await?;
        Ok(Dir(handle))
    }

    async fn open_raw(&self, path: &[u8], flags: u32, mode: u32) -> io::Result<(Owned, FileInfo)> {
        let spec =
            OpenSpec { root: self.0.get(), path: Slice::new(path), flags, mode, spare: [0; 2] };
        let host = host();
        // SAFETY: The spec is borrowed for the call; the host copies the path.
        let file = Owned::new(handle(unsafe { (host.file.file_open)(host.instance, &spec) })?);
        let mut info = AbiInfo::default();
        poll_fn(|context| {
            let waker = waker::for_call(context);
            // SAFETY: The host writes into `info` during the call.
            poll_count(unsafe {
                (host.file.file_open_poll)(host.instance, file.get(), &mut info, waker)
            })
        })
        .await?;
        Ok((file, FileInfo(info)))
    }
}

/// How to open a file. [`new`](OpenOptions::new) is for reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    flags: u32,
    mode: u32,
}

impl OpenOptions {
    /// For reading.
    #[must_use]
    pub fn new() -> OpenOptions {
        OpenOptions { flags: OPEN_READ, mode: 0o644 }
    }

    /// For writing too.
    #[must_use]
    pub fn write(self) -> OpenOptions {
        self.with(OPEN_WRITE)
    }

    /// Makes the file if it is not there, with mode 0644 if no [`mode`](OpenOptions::mode) says otherwise.
    #[must_use]
    pub fn create(self) -> OpenOptions {
        self.with(OPEN_WRITE | OPEN_CREATE)
    }

    /// Makes the file, and fails if it is there already.
    #[must_use]
    pub fn create_new(self) -> OpenOptions {
        self.with(OPEN_WRITE | OPEN_CREATE | OPEN_EXCLUSIVE)
    }

    /// Cuts the file to nothing.
    #[must_use]
    pub fn truncate(self) -> OpenOptions {
        self.with(OPEN_WRITE | OPEN_TRUNCATE)
    }

    /// Fails with `ELOOP` if any part of the path is a symbolic link. Without it, links beneath the root are followed.
    #[must_use]
    pub fn no_symlinks(self) -> OpenOptions {
        self.with(OPEN_NO_SYMLINKS)
    }

    /// Permission bits of a file that is made.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> OpenOptions {
        self.mode = mode;
        self
    }

    fn with(mut self, flags: u32) -> OpenOptions {
        self.flags |= flags;
        self
    }
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions::new()
    }
}

/// An open file. Dropping it closes it.
#[derive(Debug)]
pub struct File {
    handle: Owned,
    info: FileInfo,
}

impl File {
    /// What was known of the file when it was opened.
    #[must_use]
    pub fn info(&self) -> FileInfo {
        self.info
    }

    /// A file by a handle that the host gave.
    ///
    /// # Errors
    /// As [`File::refresh_info`]; it is dropped then.
    pub(crate) fn taken(handle: Handle) -> io::Result<File> {
        let mut file = File { handle: Owned::new(handle), info: FileInfo(AbiInfo::default()) };
        file.refresh_info()?;
        Ok(file)
    }

    /// What is known of it now.
    ///
    /// # Errors
    /// The system's.
    pub fn refresh_info(&mut self) -> io::Result<FileInfo> {
        let host = host();
        let mut info = AbiInfo::default();
        // SAFETY: The host writes into `info` during the call.
        let code = unsafe { (host.file.file_info)(host.instance, self.handle.get(), &mut info) };
        if code < 0 {
            return Err(io_error(code));
        }
        self.info = FileInfo(info);
        Ok(self.info)
    }

    /// Reads from `offset` into `buffer`; 0 at the end.
    ///
    /// # Errors
    /// The system's.
    pub async fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| self.poll_read_at(context, offset, buffer)).await
    }

    /// All of the file from its beginning.
    ///
    /// # Errors
    /// The system's; `FileTooLarge` when there are more than `bytes_max`.
    pub async fn read_to_end(&mut self, bytes_max: usize) -> io::Result<Vec<u8>> {
        /// A first piece for files that tell no size.
        const PIECE_BYTES: usize = 8 * 1024;
        let expected = usize::try_from(self.info.size()).unwrap_or(usize::MAX).min(bytes_max);
        let mut bytes = vec![0; expected.saturating_add(1).max(PIECE_BYTES)];
        let mut filled = 0;
        loop {
            match self.read_at(filled as u64, &mut bytes[filled..]).await? {
                0 => break,
                count => filled += count,
            }
            if filled > bytes_max {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            if filled == bytes.len() {
                bytes.resize(bytes.len() * 2, 0);
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The system's.
    pub async fn write_all_at(&mut self, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = poll_fn(|context| {
                let host = host();
                let waker = waker::for_call(context);
                let file = self.handle.get();
                // SAFETY: The slice is borrowed for the call; the host copies it.
                poll_count(unsafe {
                    (host.file.file_write)(host.instance, file, offset, Slice::new(bytes), waker)
                })
            })
            .await?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = bytes.get(count..).unwrap_or_default();
            offset += count as u64;
        }
        Ok(())
    }

    /// Waits until all that was written is on the disk.
    ///
    /// # Errors
    /// The system's.
    pub async fn sync(&mut self) -> io::Result<()> {
        poll_fn(|context| {
            let host = host();
            let waker = waker::for_call(context);
            // SAFETY: The waker is borrowed for the call.
            poll_count(unsafe { (host.file.file_sync)(host.instance, self.handle.get(), waker) })
        })
        .await
        .map(drop)
    }

    /// As [`read_at`](File::read_at).
    pub fn poll_read_at(
        &mut self,
        context: &mut Context<'_>,
        offset: u64,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let host = host();
        let waker = waker::for_call(context);
        let (pointer, length) = (buffer.as_mut_ptr(), buffer.len());
        // SAFETY: The buffer is valid for its length, and written during the call only.
        let code = unsafe {
            (host.file.file_read)(host.instance, self.handle.get(), offset, pointer, length, waker)
        };
        poll_count(code).map_ok(|count| count.min(length))
    }

    pub(crate) fn handle(&self) -> medusa_abi::data::Handle {
        self.handle.get()
    }

    pub(crate) fn into_owned(self) -> Owned {
        self.handle
    }
}

/// What the system says of a file.
#[derive(Clone, Copy, Debug)]
pub struct FileInfo(AbiInfo);

impl FileInfo {
    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.0.kind == KIND_FILE
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.0.kind == KIND_DIRECTORY
    }

    /// Whether it is a symbolic link; only in a listing.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.0.kind == KIND_SYMLINK
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// Permission bits.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.0.mode
    }

    /// When the content changed last.
    #[must_use]
    pub fn modified(&self) -> SystemTime {
        system_time(self.0.modified_ns)
    }

    /// When the content changed last, in nanoseconds since 1970.
    #[must_use]
    pub fn modified_ns(&self) -> i64 {
        self.0.modified_ns
    }

    /// When content or attributes changed last, in nanoseconds since 1970.
    #[must_use]
    pub fn changed_ns(&self) -> i64 {
        self.0.changed_ns
    }

    /// The device and the inode: together they name the file on this machine.
    #[must_use]
    pub fn device_and_inode(&self) -> (u64, u64) {
        (self.0.device, self.0.inode)
    }

    /// The numbers of owner and group.
    #[must_use]
    pub fn user_and_group(&self) -> (u32, u32) {
        (self.0.user, self.0.group)
    }

    /// How many names it has.
    #[must_use]
    pub fn links(&self) -> u64 {
        self.0.links
    }
}

/// A directory that is being listed.
#[derive(Debug)]
pub struct Dir(Owned);

/// An entry of a directory.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// The name, as the file system has it.
    pub name: Vec<u8>,
    /// What the system says of it; a symbolic link is not followed.
    pub info: FileInfo,
}

impl Dir {
    /// The next entry, in no order, without `.` and `..`; `None` after the last.
    ///
    /// # Errors
    /// The system's.
    pub async fn next(&mut self) -> io::Result<Option<DirEntry>> {
        let mut name = Vec::new();
        let mut info = AbiInfo::default();
        let ended = poll_fn(|context| {
            name.clear();
            let host = host();
            let waker = waker::for_call(context);
            let directory = self.0.get();
            // SAFETY: Sink and `info` are ours and live during the call.
            match unsafe {
                (host.file.dir_next)(
                    host.instance,
                    directory,
                    vec_sink(&mut name),
                    &mut info,
                    waker,
                )
            } {
                code::PENDING => Poll::Pending,
                code::END => Poll::Ready(Ok(true)),
                0.. => Poll::Ready(Ok(false)),
                code => Poll::Ready(Err(io_error(code))),
            }
        })
        .await?;
        Ok((!ended).then_some(DirEntry { name, info: FileInfo(info) }))
    }
}

fn system_time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    let time =
        if ns < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
    time.unwrap_or(UNIX_EPOCH)
}
