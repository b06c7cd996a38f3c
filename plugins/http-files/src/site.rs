//! What is served: a folder under the rules of the configuration, and how a request finds a file in it.

use std::{
    cell::Cell,
    ffi::OsStr,
    io::{self, ErrorKind},
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{Duration, SystemTime},
};

use http::HeaderValue;
use medusa_plugin_api::{File, OpenOptions, Result, Root};

use crate::{
    config::Settings,
    media,
    page::{Entry, Listing},
    path::{self, DotFiles, Target},
};

/// Entries of a folder that a listing shows; the page says when there are more.
const ENTRIES_MAX: usize = 10_000;

/// A folder that is served.
pub(crate) struct Site {
    root: Root,
    index: Vec<String>,
    has_listings: bool,
    follows_links: bool,
    pub(crate) dot_files: DotFiles,
    default_type: String,
    pub(crate) cache_control: Option<HeaderValue>,
    pub(crate) check_every: Duration,
    pub(crate) ranges_max: usize,
    pub(crate) piece_bytes: usize,
    /// A moment that is over. Most files are older, and cost no look at the clock.
    past: Cell<SystemTime>,
}

/// What a path leads to.
pub(crate) enum Found {
    /// A regular file, and its content type.
    File(File, String),
    /// A folder, which was asked for without the slash at its end.
    Folder,
    /// A folder that is to be listed.
    Listing(Listing),
    /// A file that the server may not read.
    Forbidden,
    /// Nothing that is served.
    Nothing,
}

impl Site {
    /// Opens the folder.
    ///
    /// # Errors
    /// When it cannot be opened, or a setting makes no sense.
    pub(crate) fn open(settings: &Settings) -> Result<Site> {
        let cache_control = match settings.cache_control.as_str() {
            "" => None,
            text => Some(HeaderValue::from_str(text).map_err(|_| {
                medusa_plugin_api::Error::new(format!(
                    "cache_control cannot stand in a header field: {text:?}; use visible ASCII letters"
                ))
            })?),
        };
        if HeaderValue::from_str(&settings.default_type).is_err()
            || !media::is_type(&settings.default_type)
        {
            let text = &settings.default_type;
            return Err(medusa_plugin_api::Error::new(format!(
                "default_type is no content type: {text:?}; write one as `text/plain`"
            )));
        }
        Ok(Site {
            root: Root::open_dir(&settings.root)?,
            index: settings.index.clone(),
            has_listings: settings.listing,
            follows_links: settings.symlinks == "beneath",
            dot_files: if settings.dotfiles { DotFiles::Served } else { DotFiles::Hidden },
            default_type: settings.default_type.clone(),
            cache_control,
            check_every: settings.check_every,
            ranges_max: usize::try_from(settings.ranges_max).unwrap_or(usize::MAX),
            piece_bytes: settings.read_bytes.as_usize(),
            past: Cell::new(SystemTime::now()),
        })
    }

    /// The time, if `moment` is yet to come.
    pub(crate) fn now_if_before(&self, moment: SystemTime) -> Option<SystemTime> {
        if moment <= self.past.get() {
            return None;
        }
        self.past.set(SystemTime::now());
        Some(self.past.get()).filter(|now| *now < moment)
    }

    /// Finds what `target` names.
    ///
    /// # Errors
    /// Those of the system that say nothing of the file: too many open files, say.
    pub(crate) async fn find(&self, target: &Target) -> io::Result<Found> {
        if target.directory {
            return self.find_in_folder(&target.path).await;
        }
        match self.open_path(&target.path).await {
            Ok(file) if file.info().is_file() => Ok(self.file(file, &target.path)),
            Ok(file) if file.info().is_dir() => Ok(Found::Folder),
            Ok(_) => Ok(Found::Nothing),
            Err(error) => not_found(error),
        }
    }

    async fn find_in_folder(&self, folder: &[u8]) -> io::Result<Found> {
        for name in &self.index {
            let path = join(folder, name.as_bytes());
            match self.open_path(&path).await {
                Ok(file) if file.info().is_file() => return Ok(self.file(file, &path)),
                Ok(_) => {}
                Err(error) => match not_found(error)? {
                    Found::Nothing => {}
                    found => return Ok(found),
                },
            }
        }
        if !self.has_listings {
            return Ok(Found::Nothing);
        }
        self.list(folder).await.map(Found::Listing).or_else(not_found)
    }

    async fn list(&self, folder: &[u8]) -> io::Result<Listing> {
        let depth = if folder.is_empty() { 0 } else { 1 };
        if !self.open_path(folder).await?.info().is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        let (mut entries, mut is_cut) = (Vec::new(), false);
        let mut dir = self.root.read_dir(folder).await?;
        while let Some(entry) = dir.next().await? {
            if !path::is_shown(&entry.name, depth, self.dot_files) {
                continue;
            }
            let mut info = entry.info;
            if info.is_symlink() {
                // A link is shown as what it leads to, if it leads to anything that is served.
                match self.open_path(&join(folder, &entry.name)).await {
                    Ok(file) => info = file.info(),
                    Err(_) => continue,
                }
            }
            if info.is_file() || info.is_dir() {
                is_cut = entries.len() == ENTRIES_MAX;
                if is_cut {
                    break;
                }
                let (is_directory, size) = (info.is_dir(), info.size());
                let modified_ns = info.modified_ns();
                entries.push(Entry { name: entry.name, is_directory, size, modified_ns });
            }
        }
        Ok(Listing { entries, is_cut })
    }

    async fn open_path(&self, path: &[u8]) -> io::Result<File> {
        let options = match self.follows_links {
            true => OpenOptions::new(),
            false => OpenOptions::new().no_symlinks(),
        };
        self.root.open_with(path, options).await
    }

    fn file(&self, file: File, path: &[u8]) -> Found {
        let name = Path::new(OsStr::from_bytes(path));
        let content_type = media::content_type(name, &self.default_type).into_owned();
        Found::File(file, content_type)
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder {
        [] => name.to_vec(),
        _ => [folder, b"/", name].concat(),
    }
}

/// What an error in opening says of the file, or the error if it says something else.
fn not_found(error: io::Error) -> io::Result<Found> {
    // What `ErrorKind` has no stable name for: ENXIO (a socket), EXDEV (it leads out), ELOOP.
    const NOTHING_SERVED: [i32; 3] = [6, 18, 40];
    match error.kind() {
        ErrorKind::PermissionDenied => Ok(Found::Forbidden),
        ErrorKind::NotFound
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::InvalidFilename
        | ErrorKind::InvalidInput
        | ErrorKind::CrossesDevices => Ok(Found::Nothing),
        _ => match error.raw_os_error() {
            Some(number) if NOTHING_SERVED.contains(&number) => Ok(Found::Nothing),
            _ => Err(error),
        },
    }
}
