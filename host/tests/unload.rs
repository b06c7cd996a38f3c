//! Real unloading, in a process that has the host's own functions in front of the C library's.
//!
//! Libraries are built here with the compiler alone (`fixtures/unloadable.rs`), used on this thread and on the pool's, and closed.

// Calls functions of libraries by their names.
#![allow(unsafe_code)]
// Test code as a whole, its helpers too.
#![allow(clippy::unwrap_used)]

use std::{
    ffi::CStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Barrier, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use medusa::{
    plugin::{
        inspect::Host,
        interpose::{self, ImageId, ThreadEnds},
        library::{Library, PinReason, Unmapped},
        pool::Pool,
    },
    sys::{maps, process},
};
use object::{Object, ObjectSymbol, read::elf::ElfFile64};

const CYCLES: usize = 2000;
const WARM_UP_CYCLES: usize = 200;

/// The built libraries, in the folder that cargo has for tests.
struct Fixtures {
    folder: PathBuf,
    plain: PathBuf,
    constructor: PathBuf,
    destructor: PathBuf,
}

/// One library, used as a plugin would be.
struct Plugin {
    library: Library,
    use_all: extern "C" fn() -> bool,
    free_all: extern "C" fn(),
}

static FIXTURES: LazyLock<Fixtures> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unload");
    fs::create_dir_all(&folder).unwrap();
    Fixtures {
        plain: build(&folder, "plain"),
        constructor: build(&folder, "constructor"),
        destructor: build(&folder, "destructor"),
        folder,
    }
});

/// Tests look at the whole process, so one runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn build(folder: &Path, name: &str) -> PathBuf {
    let manifest = folder.join("manifest.json");
    let text = format!(
        r#"{{"format":1,"name":"unloadable","version":"0.1.0","abi":{{"major":{},"minor":{}}},"kind":"plugin",
        "rustc":"","target":"{}","panic":"unwind"}}"#,
        Host::THIS.abi.major,
        Host::THIS.abi.minor,
        Host::THIS.target
    );
    fs::write(&manifest, text).unwrap();
    // Built under a name of this process's own, for others may use what an earlier one built.
    let made = folder.join(format!("{name}.{}", std::process::id()));
    let library = folder.join(format!("{name}.so"));
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc.args(["--edition=2024", "--crate-type=cdylib", "-O", "-Cstrip=symbols", "--cfg", name]);
    rustc.args(["--cap-lints=allow", "--crate-name=unloadable", "-o"]).arg(&made);
    rustc.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/unloadable.rs"));
    let output = rustc.env("MANIFEST", manifest).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(made, &library).unwrap();
    library
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

impl Plugin {
    fn open(path: &Path, counter: &'static AtomicUsize) -> Plugin {
        let library = Library::stage(path).unwrap().open().unwrap();
        // SAFETY: The fixture's functions have these types.
        unsafe {
            let count_at: extern "C" fn(&'static AtomicUsize) = function(&library, c"count_at");
            count_at(counter);
            Plugin {
                use_all: function(&library, c"use_all"),
                free_all: function(&library, c"free_all"),
                library,
            }
        }
    }

    fn image(&self) -> ImageId {
        self.library.image()
    }

    fn close(self) -> Unmapped {
        let file = self.library.file();
        assert!(is_mapped(file));
        (self.free_all)();
        let unmapped = self.library.close().unwrap();
        assert!(!is_mapped(file));
        unmapped
    }
}

unsafe fn function<T: Copy>(library: &Library, name: &CStr) -> T {
    // SAFETY: By the caller.
    unsafe { library.symbol(name) }.unwrap()
}

/// Looked up here and not by the host's own code: `/proc/self/maps` has "START-END PERMISSIONS OFFSET MAJOR:MINOR INODE PATH".
fn is_mapped(file: maps::FileId) -> bool {
    let device = format!("{:02x}:{:02x}", file.device.0, file.device.1);
    let inode = file.inode.to_string();
    fs::read_to_string("/proc/self/maps").unwrap().lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(3);
        fields.next() == Some(&device) && fields.next() == Some(&inode)
    })
}

/// The number that the next pthread key would have: how many are in use, but for holes.
fn next_key() -> u32 {
    let mut key = 0;
    // SAFETY: A key of our own, made and deleted.
    unsafe {
        assert_eq!(libc::pthread_key_create(&raw mut key, None), 0);
        assert_eq!(libc::pthread_key_delete(key), 0);
    }
    key
}

#[test]
fn the_executables_export_what_libraries_have_to_bind_to() {
    interpose::install().unwrap();
    let bytes = fs::read(env!("CARGO_BIN_EXE_medusa")).unwrap();
    let file = ElfFile64::<object::LittleEndian>::parse(&*bytes).unwrap();
    for name in [
        "__cxa_thread_atexit_impl",
        "pthread_create",
        "pthread_key_create",
        "pthread_key_delete",
        "pthread_setspecific",
    ] {
        let exported = |symbol: object::read::elf::ElfSymbol<'_, '_, _>| {
            symbol.is_definition() && symbol.name() == Ok(name)
        };
        assert!(file.dynamic_symbols().any(exported), "medusa does not export {name}");
    }
}

#[test]
fn thousands_of_cycles_leave_nothing_behind() {
    let _alone = alone();
    static DESTROYED: AtomicUsize = AtomicUsize::new(0);
    let pool = Pool::start("medusa-pool", 3, 10).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // It makes a thread when there is work for it.
    let all_are_here = Arc::new(Barrier::new(3));
    let meet = || {
        let all_are_here = all_are_here.clone();
        pool.submit(move || all_are_here.wait().is_leader()).unwrap()
    };
    for met in [meet(), meet(), meet()] {
        runtime.block_on(met).unwrap();
    }
    let mut at_start = None;
    for cycle in 0..CYCLES {
        if cycle == WARM_UP_CYCLES {
            at_start = Some(held());
        }
        let plugin = Plugin::open(&FIXTURES.plain, &DESTROYED);
        let (image, use_all) = (plugin.image(), plugin.use_all);
        assert!(use_all());
        runtime.block_on(async {
            for used in pool.broadcast(move || use_all()).await {
                assert!(used.unwrap());
            }
            // What is registered on four threads is seen from this one.
            let pending = interpose::pending(image);
            assert!(pending.destructors >= 4, "{pending:?}");
            assert!(pending.keys_with_values >= 4, "{pending:?}");
            for cleaned in pool.broadcast(move || interpose::clean_current_thread(image)).await {
                let cleaned = cleaned.unwrap();
                assert!(cleaned.is_clean && cleaned.destructors > 0 && cleaned.keys > 0);
            }
        });
        if cycle % 50 == 0 {
            // SAFETY: The fixture's function has this type.
            let join_one: extern "C" fn() -> bool =
                unsafe { function(&plugin.library, c"join_one") };
            assert!(join_one());
        }
        assert!(interpose::clean_current_thread(image).is_clean);
        assert!(interpose::pending(image).is_empty());
        assert_eq!(plugin.close().thrown_away, 0);
    }
    let threads = 4;
    assert_eq!(DESTROYED.load(Ordering::SeqCst), CYCLES * threads + CYCLES.div_ceil(50));

    let (memory, descriptors, mappings, key) = at_start.unwrap();
    let now = held();
    let growth = now.0.saturating_sub(memory);
    assert!(growth < 1 << 20, "resident memory grew by {growth} bytes");
    assert_eq!(now.1, descriptors);
    assert!(now.2 <= mappings + 2, "{mappings} mappings became {}", now.2);
    assert_eq!(now.3, key);
}

fn held() -> (u64, usize, usize, u32) {
    let mappings = maps::mappings().unwrap().len();
    (process::resident_bytes().unwrap(), process::descriptor_count().unwrap(), mappings, next_key())
}

#[test]
fn a_library_that_is_not_clean_is_not_closed() {
    let _alone = alone();
    static DESTROYED: AtomicUsize = AtomicUsize::new(0);
    let pool = Pool::start("medusa-pool", 1, 10).unwrap();
    let plugin = Plugin::open(&FIXTURES.plain, &DESTROYED);
    let use_all = plugin.use_all;
    assert!(block_on(pool.submit(move || use_all()).unwrap()).unwrap());

    let Plugin { library, use_all, free_all } = plugin;
    let still = library.close().unwrap_err();
    assert!(matches!(still.reason, PinReason::Pending(pending) if pending.destructors > 0));
    assert!(still.to_string().contains("thread-local"), "{still}");
    let threads = interpose::threads(still.library.image());
    assert!(threads.iter().any(|thread| thread.name == "medusa-pool-0" && !thread.started));

    // It still works, and the end of the pool's thread destroys what it had.
    assert!(use_all());
    assert_eq!(DESTROYED.load(Ordering::SeqCst), 0);
    pool.stop();
    assert_eq!(DESTROYED.load(Ordering::SeqCst), 1);
    let plugin = Plugin { library: *still.library, use_all, free_all };
    interpose::clean_current_thread(plugin.image());
    assert_eq!(DESTROYED.load(Ordering::SeqCst), 2);
    plugin.close();
}

#[test]
fn a_detached_thread_is_counted_until_its_very_end() {
    let _alone = alone();
    static DESTROYED: AtomicUsize = AtomicUsize::new(0);
    static GATE: AtomicBool = AtomicBool::new(false);
    let plugin = Plugin::open(&FIXTURES.plain, &DESTROYED);
    // SAFETY: The fixture's function has this type.
    let detach: extern "C" fn(&'static AtomicBool) =
        unsafe { function(&plugin.library, c"detach") };
    detach(&GATE);
    interpose::clean_current_thread(plugin.image());
    assert_eq!(interpose::pending(plugin.image()).live_threads, 1);

    let Plugin { library, use_all, free_all } = plugin;
    let still = library.close().unwrap_err();
    assert!(still.to_string().contains("1 thread of its own still runs"), "{still}");
    let image = still.library.image();
    // Its name is set by the thread itself.
    while !interpose::threads(image)
        .iter()
        .any(|thread| thread.started && thread.name == "straggler")
    {
        std::thread::yield_now();
    }
    // A second copy of the same file loads beside it.
    static OTHERS: AtomicUsize = AtomicUsize::new(0);
    let other = Plugin::open(&FIXTURES.plain, &OTHERS);
    assert_ne!(other.library.file(), still.library.file());
    other.close();

    block_on(async {
        let ends = ThreadEnds::watch().unwrap();
        GATE.store(true, Ordering::SeqCst);
        while interpose::pending(image).live_threads > 0 {
            ends.next().await.unwrap();
        }
    });
    assert_eq!(DESTROYED.load(Ordering::SeqCst), 1);
    assert!(interpose::pending(image).is_empty());
    Plugin { library: *still.library, use_all, free_all }.close();
}

#[test]
fn what_a_constructor_registers_is_attributed() {
    let _alone = alone();
    static DESTROYED: AtomicUsize = AtomicUsize::new(0);
    let plugin = Plugin::open(&FIXTURES.constructor, &DESTROYED);
    assert_eq!(interpose::pending(plugin.image()).destructors, 1);
    assert_eq!(interpose::clean_current_thread(plugin.image()).destructors, 1);
    assert_eq!(DESTROYED.load(Ordering::SeqCst), 1);
    plugin.close();
}

#[test]
fn what_is_registered_while_it_closes_is_thrown_away() {
    let _alone = alone();
    static DESTROYED: AtomicUsize = AtomicUsize::new(0);
    let end_of_thread = std::thread::spawn(|| {
        let plugin = Plugin::open(&FIXTURES.destructor, &DESTROYED);
        assert_eq!(plugin.close().thrown_away, 1);
    });
    end_of_thread.join().unwrap();
    assert_eq!(DESTROYED.load(Ordering::SeqCst), 0);
}

#[test]
fn a_library_that_is_dropped_stays_mapped() {
    let _alone = alone();
    static DESTROYED: AtomicUsize = AtomicUsize::new(0);
    let plugin = Plugin::open(&FIXTURES.plain, &DESTROYED);
    let (file, use_all) = (plugin.library.file(), plugin.use_all);
    drop(plugin);
    assert!(is_mapped(file));
    assert!(use_all());
    // Its number is not given to another.
    let other = Plugin::open(&FIXTURES.plain, &DESTROYED);
    assert_ne!(other.library.file(), file);
    other.close();
}

#[test]
fn what_a_library_needs_and_is_not_there_is_named() {
    let _alone = alone();
    let folder = &FIXTURES.folder;
    let cc = |arguments: &[&str]| {
        let mut cc = Command::new(std::env::var_os("CC").unwrap_or("cc".into()));
        cc.current_dir(folder).args(["-shared", "-fPIC"]).args(arguments);
        assert!(cc.status().unwrap().success(), "{cc:?}");
    };
    let manifest = fs::read_to_string(folder.join("manifest.json")).unwrap();
    let section = format!(
        "__attribute__((section(\".medusa.manifest\"), used)) static const char m[] = {manifest:?};"
    );
    let entry = "extern int far(void); int (*medusa_plugin)(void) = far;";
    fs::write(folder.join("far.c"), "int far(void) { return 1; }").unwrap();
    fs::write(folder.join("near.c"), format!("{section}\n{entry}")).unwrap();
    cc(&["far.c", "-o", "libfarther.so", "-Wl,-soname,libfarther.so.1"]);
    cc(&["near.c", "libfarther.so", "-o", "needs.so"]);
    cc(&["near.c", "-o", "lacks.so"]);

    let refuse = |name: &str| {
        let staged = Library::stage(&folder.join(name)).unwrap();
        let error = staged.open().unwrap_err();
        std::error::Error::source(&error).unwrap().to_string()
    };
    let descriptors = process::descriptor_count().unwrap();
    assert!(refuse("needs.so").contains("needs libfarther.so.1, which is not on this machine"));
    assert!(refuse("lacks.so").contains("needs the function far"));
    assert_eq!(process::descriptor_count().unwrap(), descriptors);
    let warning =
        &Library::stage(&folder.join("needs.so")).unwrap().inspection().warnings[0].clone();
    assert!(warning.contains("libfarther.so.1"));
}

/// Run in a process of its own by the test below.
#[test]
#[ignore = "ends the process"]
fn exits_with_a_library_that_is_not_clean() {
    let counter: &'static AtomicUsize = Box::leak(Box::default());
    let plugin = Plugin::open(&FIXTURES.plain, counter);
    assert!((plugin.use_all)());
    // One thread that ends by itself, one that still runs, and this one.
    let use_all = plugin.use_all;
    std::thread::spawn(move || assert!(use_all())).join().unwrap();
    assert_eq!(counter.load(Ordering::SeqCst), 1);
    static GATE: AtomicBool = AtomicBool::new(false);
    // SAFETY: The fixture's function has this type.
    let detach: extern "C" fn(&'static AtomicBool) =
        unsafe { function(&plugin.library, c"detach") };
    detach(&GATE);
    std::process::exit(42);
}

#[test]
fn a_process_exits_with_libraries_that_are_not_clean() {
    let _alone = alone();
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--ignored", "--exact", "exits_with_a_library_that_is_not_clean"]);
    let output = process.output().unwrap();
    assert_eq!(output.status.code(), Some(42), "{output:?}");
}
