//! Files in folders of their own, on a loop of their own.

use std::{
    collections::BTreeMap,
    fs,
    future::{Future, poll_fn},
    io,
    os::unix::{fs::symlink, net::UnixListener},
    path::Path,
    rc::Rc,
    time::Duration,
};

use medusa_abi::file::{
    FileInfo, KIND_DIRECTORY, KIND_FILE, KIND_OTHER, KIND_SYMLINK, OPEN_CREATE, OPEN_DIRECTORY,
    OPEN_EXCLUSIVE, OPEN_NO_SYMLINKS, OPEN_READ, OPEN_TRUNCATE, OPEN_WRITE,
};
use rustix::{
    fs::{CWD, FileType, Mode},
    io::Errno,
};
use tempfile::TempDir;
use tokio::{runtime::Builder, time::timeout};

use crate::{
    file::{File, Root},
    sys::blocking::{Blocking, Busy},
};

struct Threads;

impl Blocking for Threads {
    fn start(&self, job: Box<dyn FnOnce() + Send>) -> Result<(), Busy> {
        std::thread::spawn(job);
        Ok(())
    }
}

struct Full;

impl Blocking for Full {
    fn start(&self, _job: Box<dyn FnOnce() + Send>) -> Result<(), Busy> {
        Err(Busy)
    }
}

struct Place {
    folder: TempDir,
    root: Root,
    pool: Rc<dyn Blocking>,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        let root = Root::open(&folder.path().join("root")).unwrap();
        Place { folder, root, pool: Rc::new(Threads) }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join("root").join(name)
    }

    async fn open(&self, path: &str, flags: u32) -> io::Result<(File, FileInfo)> {
        let file = self.root.open_file(&self.pool, Path::new(path), flags, 0o640)?;
        let info = poll_fn(|cx| file.poll_open(cx)).await?;
        Ok((file, info))
    }

    async fn error(&self, path: &str, flags: u32) -> Errno {
        let error = self.open(path, flags).await.map(drop).unwrap_err();
        Errno::from_io_error(&error).unwrap()
    }
}

fn on_loop<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(async {
        timeout(Duration::from_secs(20), work).await.expect("it takes too long")
    })
}

async fn read(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; length];
    let count = poll_fn(|cx| file.poll_read(cx, offset, &mut buffer)).await?;
    buffer.truncate(count);
    Ok(buffer)
}

#[test]
fn files_are_read_and_described() {
    on_loop(async {
        let place = Place::new();
        fs::write(place.path("file"), "hello").unwrap();
        symlink("file", place.path("link")).unwrap();
        let (file, info) = place.open("link", OPEN_READ).await.unwrap();
        assert_eq!((info.kind, info.size, info.links), (KIND_FILE, 5, 1));
        assert!(info.modified_ns > 1_600_000_000_000_000_000);
        assert_eq!(read(&file, 0, 100).await.unwrap(), b"hello");
        assert_eq!(read(&file, 1, 3).await.unwrap(), b"ell");
        assert_eq!(read(&file, 5, 3).await.unwrap(), b"");
        assert_eq!(
            read(&file, u64::MAX, 3).await.map_err(|error| error.kind()),
            Err(io::ErrorKind::InvalidInput)
        );
        assert_eq!(file.info().unwrap().inode, info.inode);
        let (_, info) = place.open("", OPEN_DIRECTORY).await.unwrap();
        assert_eq!(info.kind, KIND_DIRECTORY);
    });
}

#[test]
fn nothing_leads_out_of_the_root() {
    on_loop(async {
        let place = Place::new();
        fs::create_dir(place.path("sub")).unwrap();
        fs::write(place.path("file"), "hello").unwrap();
        symlink("../../secret", place.path("sub/out")).unwrap();
        symlink("/etc", place.path("absolute")).unwrap();
        symlink("/proc/self/root", place.path("magic")).unwrap();
        symlink("../file", place.path("sub/in")).unwrap();
        for path in [
            "..",
            "../secret",
            "sub/../../secret",
            "sub/out",
            "/etc/passwd",
            "absolute/passwd",
            "magic/etc/passwd",
        ] {
            assert_eq!(place.error(path, OPEN_READ).await, Errno::XDEV, "{path}");
            assert_eq!(place.error(path, OPEN_WRITE | OPEN_CREATE).await, Errno::XDEV, "{path}");
        }
        assert!(place.open("sub/in", OPEN_READ).await.is_ok());
        assert!(place.open("sub/../file", OPEN_READ).await.is_ok());
        assert_eq!(place.error("sub/in", OPEN_READ | OPEN_NO_SYMLINKS).await, Errno::LOOP);
        assert_eq!(place.error("nothing", OPEN_READ).await, Errno::NOENT);
        assert_eq!(place.error("a\0b", OPEN_READ).await, Errno::INVAL);
    });
}

#[test]
fn no_kind_of_file_holds_anybody_up() {
    on_loop(async {
        let place = Place::new();
        rustix::fs::mknodat(CWD, place.path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let (pipe, info) = place.open("pipe", OPEN_READ).await.unwrap();
        assert_eq!(info.kind, KIND_OTHER);
        assert_eq!(Errno::from_io_error(&read(&pipe, 0, 1).await.unwrap_err()), Some(Errno::SPIPE));
        drop(pipe);
        assert_eq!(place.error("pipe", OPEN_WRITE).await, Errno::NXIO);
        let _socket = UnixListener::bind(place.path("socket")).unwrap();
        assert_eq!(place.error("socket", OPEN_READ).await, Errno::NXIO);
        let root = Root::open(Path::new("/dev")).unwrap();
        let devices = Place { root, ..Place::new() };
        let (null, info) = devices.open("null", OPEN_READ).await.unwrap();
        assert_eq!((info.kind, read(&null, 0, 10).await.unwrap().len()), (KIND_OTHER, 0));
        let (folder, _) = place.open("", OPEN_DIRECTORY).await.unwrap();
        assert_eq!(
            Errno::from_io_error(&read(&folder, 0, 1).await.unwrap_err()),
            Some(Errno::ISDIR)
        );
    });
}

#[test]
fn files_are_made_and_written() {
    on_loop(async {
        let place = Place::new();
        let make = OPEN_READ | OPEN_WRITE | OPEN_CREATE | OPEN_EXCLUSIVE;
        let (file, info) = place.open("new", make).await.unwrap();
        assert_eq!((info.size, info.mode & 0o137), (0, 0));
        assert_eq!(poll_fn(|cx| file.poll_write(cx, 2, b"hello")).await.unwrap(), 5);
        poll_fn(|cx| file.poll_sync(cx)).await.unwrap();
        assert_eq!(read(&file, 0, 100).await.unwrap(), b"\0\0hello");
        assert_eq!(place.error("new", make).await, Errno::EXIST);
        let (file, info) = place.open("new", OPEN_WRITE | OPEN_TRUNCATE).await.unwrap();
        assert_eq!(info.size, 0);
        assert_eq!(Errno::from_io_error(&read(&file, 0, 1).await.unwrap_err()), Some(Errno::BADF));
        for nonsense in [
            0,
            1 << 20,
            OPEN_READ | OPEN_CREATE,
            OPEN_WRITE | OPEN_EXCLUSIVE,
            OPEN_DIRECTORY | OPEN_WRITE,
        ] {
            assert_eq!(place.error("new", nonsense).await, Errno::INVAL, "{nonsense}");
        }
    });
}

#[test]
fn a_write_that_was_forgotten_is_written_first() {
    on_loop(async {
        let place = Place::new();
        let (file, _) = place.open("new", OPEN_READ | OPEN_WRITE | OPEN_CREATE).await.unwrap();
        for round in 0..50_u8 {
            let old = vec![round; 100_000];
            let _ = poll_fn(|cx| std::task::Poll::Ready(file.poll_write(cx, 0, &old))).await;
            let new = [round + 1; 10];
            assert_eq!(poll_fn(|cx| file.poll_write(cx, 0, &new)).await.unwrap(), 10);
            let now = read(&file, 0, 11).await.unwrap();
            assert_eq!((&now[..10], now[10]), (&new[..], round));
        }
    });
}

#[test]
fn a_read_that_is_asked_differently_is_made_anew() {
    on_loop(async {
        let place = Place::new();
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
        fs::write(place.path("file"), &bytes).unwrap();
        let (file, _) = place.open("file", OPEN_READ).await.unwrap();
        // Out of memory, so that it is the pool that reads; where that does not work the test shows less.
        fs::File::open(place.path("file")).unwrap().sync_all().unwrap();
        rustix::fs::fadvise(file.descriptor().unwrap(), 0, None, rustix::fs::Advice::DontNeed)
            .unwrap();
        let mut piece = vec![0; 1000];
        let _ =
            poll_fn(|cx| std::task::Poll::Ready(file.poll_read(cx, 2_000_000, &mut piece))).await;
        assert_eq!(read(&file, 1, 500).await.unwrap(), bytes[1..501]);
        for (offset, length) in [(0, 1 << 20), (2_500_000, 1 << 20), (5_000_000, 1), (u64::MAX, 9)]
        {
            if let Some(ticket) = file.warm(offset, length).unwrap() {
                ticket.await.unwrap();
            }
        }
        let mut whole = Vec::new();
        while whole.len() < bytes.len() {
            whole.extend(read(&file, whole.len() as u64, 400_000).await.unwrap());
        }
        assert!(whole == bytes);
    });
}

#[test]
fn directories_are_listed() {
    on_loop(async {
        let place = Place::new();
        fs::create_dir(place.path("many")).unwrap();
        let mut expected = BTreeMap::new();
        for number in 0..600 {
            fs::write(place.path(&format!("many/{number}")), vec![0; number]).unwrap();
            expected.insert(number.to_string().into_bytes(), (KIND_FILE, number as u64));
        }
        symlink("nowhere", place.path("many/link")).unwrap();
        expected.insert(b"link".to_vec(), (KIND_SYMLINK, 7));
        let (folder, _) = place.open("many", OPEN_DIRECTORY).await.unwrap();
        let mut found = BTreeMap::new();
        while let Some((name, info)) = poll_fn(|cx| folder.poll_dir_next(cx)).await.unwrap() {
            assert!(found.insert(name, (info.kind, info.size)).is_none());
        }
        assert!(poll_fn(|cx| folder.poll_dir_next(cx)).await.unwrap().is_none());
        assert_eq!(found, expected);
        let (file, _) = place.open("many/1", OPEN_READ).await.unwrap();
        let error = poll_fn(|cx| file.poll_dir_next(cx)).await.map(drop).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NOTDIR));
    });
}

#[test]
fn roots_say_why_they_are_none() {
    let place = Place::new();
    let sentence = |path: &Path| Root::open(path).unwrap_err().to_string();
    assert!(sentence(Path::new("relative")).contains("not absolute"));
    assert!(sentence(&place.path("nothing")).contains("there is no such directory"));
    assert!(sentence(&place.folder.path().join("secret")).contains("not a directory"));
    assert_eq!(place.root.path(), place.folder.path().join("root"));
}

#[test]
fn a_full_pool_is_an_error_and_nothing_is_lost() {
    on_loop(async {
        let place = Place::new();
        let full: Rc<dyn Blocking> = Rc::new(Full);
        let make = OPEN_WRITE | OPEN_CREATE;
        let error = place.root.open_file(&full, Path::new("x"), make, 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert!(!place.path("x").exists());
    });
}
