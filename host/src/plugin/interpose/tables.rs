//! What is registered by whom: images, keys, threads and their destructors, in one place under one lock.
//!
//! The memory comes from the kernel in pages and is never given back, only used again: no allocator is called, for an allocator may
//! itself register destructors. Nothing that was registered is called while the lock is held.

use std::{
    ffi::{CStr, c_void},
    ops::Range,
    ptr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use libc::pthread_key_t;
use smallvec::SmallVec;

use super::{
    ImageId, Pending, WatchError,
    symbols::{Destroy, Start},
};
use crate::sys::images;

/// Most images that are watched at a time, pinned ones included.
pub const IMAGES_MAX: usize = 1024;
/// glibc's PTHREAD_KEYS_MAX.
pub(super) const KEYS_MAX: usize = 1024;
/// `/proc/self/fd/N` with room to spare.
const NAME_BYTES_MAX: usize = 64;
/// How many threads are named.
const FOUND_MAX: usize = 64;

pub(super) struct Tables {
    images: [Image; IMAGES_MAX],
    images_made: u64,
    opening: Option<Opening>,
    keys: [Key; KEYS_MAX],
    threads: *mut Thread,
    spare_threads: *mut Thread,
    spare_destructors: *mut Destructor,
}

// SAFETY: The pointers are to memory that only the tables own and that is touched under the lock alone.
unsafe impl Send for Tables {}

#[derive(Clone, Copy)]
struct Image {
    /// 0: a free place.
    id: u64,
    /// Empty until the image is found.
    start: usize,
    end: usize,
}

#[derive(Clone, Copy)]
struct Opening {
    image: ImageId,
    name: [u8; NAME_BYTES_MAX],
}

#[derive(Clone, Copy)]
struct Key {
    /// 0: not a key of a watched image.
    image: u64,
    destroy: Option<Destroy>,
}

/// A thread that has something registered, or that an image started. Lives until that thread ends.
pub(super) struct Thread {
    next: *mut Thread,
    id: u32,
    /// The image that started it; 0 for the host's own.
    started_by: u64,
    destructors: *mut Destructor,
    /// The image whose destructor it is in; 0 if in none. Written under the lock in which the destructor is taken, so that an image is
    /// never seen without it in between.
    running: u64,
    /// One bit for each key of an image's under which the thread has a value.
    values: [u64; KEYS_MAX / 64],
    /// What it runs, if an image started it.
    start: Option<Start>,
    /// What that is given.
    argument: *mut c_void,
}

struct Destructor {
    next: *mut Destructor,
    image: u64,
    destroy: Destroy,
    object: *mut c_void,
}

/// A destructor taken from the list, to be called.
pub(super) type Taken = (Destroy, *mut c_void);

pub(super) struct Found {
    pub(super) id: u32,
    pub(super) started: bool,
    pub(super) destructors: usize,
}

static TABLES: Mutex<Tables> = Mutex::new(Tables {
    images: [Image { id: 0, start: 0, end: 0 }; IMAGES_MAX],
    images_made: 0,
    opening: None,
    keys: [Key { image: 0, destroy: None }; KEYS_MAX],
    threads: ptr::null_mut(),
    spare_threads: ptr::null_mut(),
    spare_destructors: ptr::null_mut(),
});

/// How many images are watched; while none is, calls are passed on without the lock.
static WATCHED: AtomicUsize = AtomicUsize::new(0);
/// Which keys belong to watched images, to be asked without the lock.
static OWNED: [AtomicBool; KEYS_MAX] = [const { AtomicBool::new(false) }; KEYS_MAX];

pub(super) fn lock() -> MutexGuard<'static, Tables> {
    TABLES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The image in which one of the addresses lies.
pub(super) fn owner_of(addresses: [usize; 2]) -> Option<ImageId> {
    if WATCHED.load(Ordering::Acquire) == 0 {
        return None;
    }
    let opening = {
        let tables = lock();
        if let Some(image) = tables.image_at(addresses) {
            return Some(image);
        }
        tables.opening?
    };
    // A constructor runs, and the image's place is not known yet. Looked up without the lock: the dynamic linker has locks of its own.
    let range = images::range_by_name(opening.name())?;
    lock().set_range(opening.image, range.clone());
    addresses.iter().any(|address| range.contains(address)).then_some(opening.image)
}

pub(super) fn is_owned(key: pthread_key_t) -> bool {
    OWNED.get(key as usize).is_some_and(|owned| owned.load(Ordering::Acquire))
}

impl Tables {
    pub(super) fn begin_open(&mut self, name: &CStr) -> Result<ImageId, WatchError> {
        let place =
            self.images.iter_mut().find(|image| image.id == 0).ok_or(WatchError::TooMany)?;
        self.images_made += 1;
        *place = Image { id: self.images_made, start: 0, end: 0 };
        let image = ImageId(self.images_made);
        self.opening = Opening::new(image, name);
        WATCHED.fetch_add(1, Ordering::Release);
        Ok(image)
    }

    pub(super) fn set_range(&mut self, image: ImageId, range: Range<usize>) {
        if let Some(place) = self.images.iter_mut().find(|place| place.id == image.0) {
            (place.start, place.end) = (range.start, range.end);
        }
    }

    /// The image is open, or will not be: nothing unknown is looked up by its name any more.
    pub(super) fn end_open(&mut self, image: ImageId) {
        if self.opening.is_some_and(|opening| opening.image == image) {
            self.opening = None;
        }
    }

    pub(super) fn remove(&mut self, image: ImageId) -> usize {
        self.end_open(image);
        let Some(place) = self.images.iter_mut().find(|place| place.id == image.0) else {
            return 0;
        };
        place.id = 0;
        WATCHED.fetch_sub(1, Ordering::Release);
        let mut thrown_away = 0;
        let mut thread = self.threads;
        // SAFETY: Records in the list are alive, and the lock is held.
        while let Some(record) = unsafe { thread.as_mut() } {
            while self.pop_destructor(record, Some(image)).is_some() {
                thrown_away += 1;
            }
            thread = record.next;
        }
        thrown_away
    }

    fn image_at(&self, addresses: [usize; 2]) -> Option<ImageId> {
        let holds = |image: &&Image| {
            image.id != 0
                && addresses.iter().any(|address| (image.start..image.end).contains(address))
        };
        self.images.iter().find(holds).map(|image| ImageId(image.id))
    }

    pub(super) fn pending(&self, image: ImageId) -> Pending {
        let mut pending = Pending::default();
        for thread in self.threads() {
            pending.live_threads += usize::from(thread.started_by == image.0);
            pending.destructors += thread.destructors_of(image);
            pending.running += usize::from(thread.running == image.0);
            pending.keys_with_values += self.values_of(thread, image);
        }
        pending
    }

    /// How many values a thread has under the image's keys that have a destructor.
    fn values_of(&self, thread: &Thread, image: ImageId) -> usize {
        let counts = |key: &usize| {
            let key = &self.keys[*key];
            key.image == image.0 && key.destroy.is_some()
        };
        thread.keys_with_values().filter(counts).count()
    }

    pub(super) fn threads_of(&self, image: ImageId) -> SmallVec<[Found; FOUND_MAX]> {
        let found = |thread: &Thread| Found {
            id: thread.id,
            started: thread.started_by == image.0,
            destructors: thread.destructors_of(image) + self.values_of(thread, image),
        };
        // Not more than fit in place: nothing is allocated under the lock.
        let concerned = |found: &Found| found.started || found.destructors > 0;
        self.threads().map(found).filter(concerned).take(FOUND_MAX).collect()
    }

    // === Keys ===

    pub(super) fn own_key(&mut self, key: pthread_key_t, image: ImageId, destroy: Option<Destroy>) {
        if let Some(place) = self.keys.get_mut(key as usize) {
            *place = Key { image: image.0, destroy };
            OWNED[key as usize].store(true, Ordering::Release);
        }
    }

    /// One of the image's keys, which is the caller's to delete.
    pub(super) fn take_key(&mut self, image: ImageId) -> Option<pthread_key_t> {
        let index = self.keys.iter().position(|key| key.image == image.0)?;
        let key = index as pthread_key_t;
        self.forget_key(key);
        Some(key)
    }

    pub(super) fn forget_key(&mut self, key: pthread_key_t) {
        let index = key as usize;
        let Some(place) = self.keys.get_mut(index) else { return };
        *place = Key { image: 0, destroy: None };
        OWNED[index].store(false, Ordering::Release);
        let mut thread = self.threads;
        // SAFETY: Records in the list are alive, and the lock is held.
        while let Some(record) = unsafe { thread.as_mut() } {
            record.set_value(index, false);
            thread = record.next;
        }
    }

    /// The thread's next key, from `from` on, that has a value and belongs to `image` (or to any); the value counts as taken, and the
    /// thread as running its destructor until it takes the next or [`Tables::rest`]s.
    pub(super) fn take_value(
        &mut self,
        thread: &mut Thread,
        image: Option<ImageId>,
        from: usize,
    ) -> Option<(pthread_key_t, Option<Destroy>)> {
        let wanted = |index: &usize| {
            let owner = self.keys[*index].image;
            image.map_or(owner != 0, |image| owner == image.0)
        };
        thread.running = 0;
        let index = thread.keys_with_values().filter(|index| *index >= from).find(wanted)?;
        thread.set_value(index, false);
        thread.running = self.keys[index].image;
        Some((index as pthread_key_t, self.keys[index].destroy))
    }

    pub(super) fn note_value(&mut self, thread: &mut Thread, key: pthread_key_t, has_value: bool) {
        // The key may have been deleted since the caller looked.
        if self.keys.get(key as usize).is_some_and(|key| key.image != 0) {
            thread.set_value(key as usize, has_value);
        }
    }

    // === Threads ===

    /// A record for a thread that `image` is about to start; null if there is no memory.
    pub(super) fn add_thread(
        &mut self,
        image: ImageId,
        start: Start,
        argument: *mut c_void,
    ) -> *mut Thread {
        self.link(Thread { started_by: image.0, start: Some(start), argument, ..Thread::new(0) })
    }

    /// A record for the current thread; null if there is no memory.
    pub(super) fn add_current_thread(&mut self) -> *mut Thread {
        self.link(Thread::new(current_id()))
    }

    fn link(&mut self, mut thread: Thread) -> *mut Thread {
        let Some(record) = take_spare(&mut self.spare_threads) else { return ptr::null_mut() };
        thread.next = self.threads;
        // SAFETY: `take_spare` gives memory for one record, which is nobody else's.
        unsafe { record.write(thread) };
        self.threads = record;
        record
    }

    /// The thread has begun; what it is to run, and with what.
    pub(super) fn begin_thread(&mut self, thread: &mut Thread) -> (Option<Start>, *mut c_void) {
        thread.id = current_id();
        (thread.start, thread.argument)
    }

    /// Takes a record out of the list. Destructors that are left can never run and are forgotten.
    ///
    /// # Safety
    /// The record is in the list, and nobody uses it afterwards.
    pub(super) unsafe fn remove_thread(&mut self, thread: *mut Thread) {
        let mut link = &raw mut self.threads;
        // SAFETY: `link` points to the head or to the `next` of a record in the list, all alive under the lock.
        unsafe {
            while !(*link).is_null() && *link != thread {
                link = &raw mut (**link).next;
            }
            if (*link).is_null() {
                return;
            }
            *link = (*thread).next;
            while self.pop_destructor(&mut *thread, None).is_some() {}
            (*thread).next = self.spare_threads;
        }
        self.spare_threads = thread;
    }

    fn threads(&self) -> impl Iterator<Item = &Thread> {
        // SAFETY: Records in the list are alive while the lock is held, and `self` is borrowed from the lock.
        let follow = |thread: *mut Thread| unsafe { thread.as_ref() };
        std::iter::successors(follow(self.threads), move |thread| follow(thread.next))
    }

    // === Destructors ===

    /// Whether there was memory for it.
    pub(super) fn push_destructor(
        &mut self,
        thread: &mut Thread,
        image: ImageId,
        destroy: Destroy,
        object: *mut c_void,
    ) -> bool {
        let Some(place) = take_spare(&mut self.spare_destructors) else { return false };
        let destructor = Destructor { next: thread.destructors, image: image.0, destroy, object };
        // SAFETY: `take_spare` gives memory for one entry, which is nobody else's.
        unsafe { place.write(destructor) };
        thread.destructors = place;
        true
    }

    /// The newest destructor of the thread's that belongs to `image` (or to any). The thread counts as running it until it takes the
    /// next or [`Tables::rest`]s.
    pub(super) fn take_destructor(
        &mut self,
        thread: &mut Thread,
        image: Option<ImageId>,
    ) -> Option<Taken> {
        thread.running = 0;
        let (owner, taken) = self.pop_destructor(thread, image)?;
        thread.running = owner;
        Some(taken)
    }

    /// The thread runs no destructor any more.
    pub(super) fn rest(&mut self, thread: &mut Thread) {
        thread.running = 0;
    }

    fn pop_destructor(
        &mut self,
        thread: &mut Thread,
        image: Option<ImageId>,
    ) -> Option<(u64, Taken)> {
        let mut link = &raw mut thread.destructors;
        // SAFETY: `link` points to the head or to the `next` of an entry in this list, all alive under the lock.
        unsafe {
            while let Some(entry) = (*link).as_mut() {
                if image.is_none_or(|image| image.0 == entry.image) {
                    *link = entry.next;
                    entry.next = self.spare_destructors;
                    self.spare_destructors = entry;
                    return Some((entry.image, (entry.destroy, entry.object)));
                }
                link = &raw mut entry.next;
            }
        }
        None
    }
}

impl Opening {
    // A name that is too long is not looked up: what constructors register is then the C library's, and pins.
    fn new(image: ImageId, name: &CStr) -> Option<Opening> {
        let bytes = name.to_bytes_with_nul();
        let mut copy = [0; NAME_BYTES_MAX];
        copy.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Opening { image, name: copy })
    }

    fn name(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.name).unwrap_or_default()
    }
}

impl Thread {
    const fn new(id: u32) -> Thread {
        Thread {
            next: ptr::null_mut(),
            id,
            started_by: 0,
            destructors: ptr::null_mut(),
            running: 0,
            values: [0; KEYS_MAX / 64],
            start: None,
            argument: ptr::null_mut(),
        }
    }

    fn destructors_of(&self, image: ImageId) -> usize {
        // SAFETY: Entries of a record in the list are alive while the lock is held, as it is for whoever reaches a record.
        let follow = |entry: *mut Destructor| unsafe { entry.as_ref() };
        std::iter::successors(follow(self.destructors), |entry| follow(entry.next))
            .filter(|entry| entry.image == image.0)
            .count()
    }

    fn keys_with_values(&self) -> impl Iterator<Item = usize> {
        (0..KEYS_MAX).filter(|key| self.values[key / 64] & (1 << (key % 64)) != 0)
    }

    fn set_value(&mut self, key: usize, has_value: bool) {
        let bit = 1 << (key % 64);
        match has_value {
            true => self.values[key / 64] |= bit,
            false => self.values[key / 64] &= !bit,
        }
    }
}

/// Records that can be strung together while nobody uses them.
trait Linked {
    /// # Safety
    /// `record` points to memory for one record.
    unsafe fn link(record: *mut Self) -> *mut *mut Self;
}

impl Linked for Thread {
    unsafe fn link(record: *mut Self) -> *mut *mut Self {
        // SAFETY: By the caller.
        unsafe { &raw mut (*record).next }
    }
}

impl Linked for Destructor {
    unsafe fn link(record: *mut Self) -> *mut *mut Self {
        // SAFETY: By the caller.
        unsafe { &raw mut (*record).next }
    }
}

fn take_spare<T: Linked>(spare: &mut *mut T) -> Option<*mut T> {
    if spare.is_null() {
        *spare = map_chunk()?;
    }
    let taken = *spare;
    // SAFETY: What is in the list of spare records is memory for one, with its link written.
    *spare = unsafe { *T::link(taken) };
    Some(taken)
}

fn map_chunk<T: Linked>() -> Option<*mut T> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    const CHUNK_BYTES: usize = 16 * 1024;
    // SAFETY: The kernel chooses the address, so no memory in use is replaced.
    let chunk = unsafe {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        mmap_anonymous(ptr::null_mut(), CHUNK_BYTES, protection, MapFlags::PRIVATE).ok()?
    };
    let first = chunk.cast::<T>();
    let count = CHUNK_BYTES / size_of::<T>();
    for index in 0..count {
        // SAFETY: `count` records fit in the chunk, which is fresh and page-aligned.
        unsafe {
            let next = if index + 1 < count { first.add(index + 1) } else { ptr::null_mut() };
            T::link(first.add(index)).write(next);
        }
    }
    Some(first)
}

fn current_id() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}
