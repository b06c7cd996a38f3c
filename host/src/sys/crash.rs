//! What outlives a crash of this process: a memory file that is mapped and kept up to date, and the handler of fatal signals that executes
//! this program anew with it.
//!
//! The memory has a slot for each descriptor, which says whether a connection rests there and how it can be gone on with; the numbers of
//! the descriptors that go over beside those; the names of those whose code runs; and what the handler found. Whoever writes to it does so
//! by plain stores. What the numbers mean is known above.

#![allow(unsafe_code)] // Maps memory, and handles signals.

mod handler;
mod stack;

use std::{
    fs::File,
    io,
    os::{
        fd::{IntoRawFd as _, RawFd},
        unix::fs::FileExt,
    },
    ptr,
    sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap};
use serde::{Deserialize, Serialize};

pub use self::handler::{
    arm, arm_back, disarm, disarmed, has_turned, leave_time, misses, of_host, panicked, stalls,
    turned, working_for,
};
pub use self::stack::{give_stack, take_stack};
use crate::sys::{exec, memfd};

/// The form of the memory: a program that has another cannot go on with it.
pub const FORM: u8 = 2;
/// Tells the file from others; its form follows.
const MAGIC: [u8; 7] = *b"medusaC";
/// What is kept of the words of a panic.
const PANIC_BYTES: usize = 256;
/// How many names are known at a time, those of the newest.
const NAMES: usize = 1024;
/// Bytes of a name; the configuration allows no more.
const NAME_BYTES: usize = 64;
/// Most descriptors that go over beside those of connections.
const DESCRIPTORS_MAX: usize = 16 * 1024;
/// So many crashes within [`LOOP_NS`] are answered by another start; one more ends the process.
pub const CRASHES_MAX: usize = 3;
const LOOP_NS: u64 = 60_000_000_000;

/// The beginning of the memory. All of it is zero at first.
#[repr(C)]
struct Header {
    magic: AtomicU64,
    slots: AtomicU32,
    record_bytes: AtomicU32,
    /// One more than the highest descriptor that ever had a slot.
    slots_used: AtomicU32,
    descriptors: AtomicU32,
    /// The memory file that says what the descriptors are.
    memory: AtomicI32,
    /// The one that will say it next: two take turns, so that one is whole at any time.
    spare: AtomicI32,
    /// The file for the mapping list and the stack.
    dump: AtomicI32,
    name_last: AtomicU64,
    id_last: AtomicU64,
    crashes: AtomicU64,
    times_ns: [AtomicU64; CRASHES_MAX],
    report: Report,
    descriptor: [AtomicI32; DESCRIPTORS_MAX],
    names: [Name; NAMES],
}

#[repr(C)]
struct Report {
    signal: AtomicI32,
    code: AtomicI32,
    address: AtomicU64,
    instruction: AtomicU64,
    stack: AtomicU64,
    whose: AtomicU64,
    thread: AtomicU32,
    stalled_ms: AtomicU32,
    thread_name: [AtomicU64; 2],
    time_s: AtomicU64,
    at_ns: AtomicU64,
    maps_bytes: AtomicU32,
    stack_bytes: AtomicU32,
    panic: [AtomicU64; PANIC_BYTES / 8],
}

#[repr(C)]
struct Name {
    id: AtomicU64,
    bytes: [AtomicU64; NAME_BYTES / 8],
}

/// There may be very many: two words each.
#[repr(C)]
struct Slot {
    /// Its number, and the place of its listener in the lowest 16 bits.
    names: AtomicU64,
    /// When it was opened, in [`OPENED_MS`]; from [`OWNER_SHIFT`] on whose it is; then [`KIND_SHIFT`]; and [`RESTS`].
    state: AtomicU64,
}

const LISTENER_BITS: u32 = 16;
const OPENED_MS: u64 = 100;
const OWNER_SHIFT: u32 = 32;
const OWNER_MAX: u64 = (1 << 24) - 1;
const KIND_SHIFT: u32 = 56;
const KIND_MASK: u64 = 3 << KIND_SHIFT;
const RESTS: u64 = 1 << 63;

/// What stands before a record: its length.
const RECORD_HEAD: usize = 8;

impl Slot {
    fn state(&self) -> u64 {
        self.state.load(Ordering::Acquire)
    }

    fn is_resting(&self) -> bool {
        self.state() & RESTS != 0
    }

    fn keeps(&self, keeps: Keeps) -> bool {
        (self.state() & KIND_MASK) >> KIND_SHIFT == keeps as u64
    }

    /// Only the loop writes it, so this need not be one atomic step.
    fn set_resting(&self, rests: bool) {
        let state = self.state.load(Ordering::Relaxed);
        let state = if rests { state | RESTS } else { state & !RESTS };
        self.state.store(state, Ordering::Release);
    }
}

/// How a connection at rest can be gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// It cannot.
    Nothing = 0,
    /// As one that has no state.
    NoState = 1,
    /// With its record.
    Record = 2,
}

/// What is kept of a connection.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its descriptor.
    pub descriptor: RawFd,
    /// Whose it is, by a number that has a name.
    pub owner: u64,
    /// Its number.
    pub id: u64,
    /// When it was opened.
    pub opened_ms: u64,
    /// The place of its listener.
    pub listener: u32,
    /// Its state, if there is any.
    pub record: Option<Vec<u8>>,
}

/// What the process has crashed with.
#[derive(Clone, Debug, Default)]
pub struct Crash {
    /// The signal.
    pub signal: i32,
    /// Where memory was accessed.
    pub address: u64,
    /// Where code ran.
    pub instruction: u64,
    /// Where the stack was.
    pub stack: u64,
    /// Whose code ran, by number; 0 for nobody's.
    pub whose: u64,
    /// The thread.
    pub thread: u32,
    /// Its name.
    pub thread_name: String,
    /// How long the loop had stood still, if that was it.
    pub stalled_ms: u32,
    /// What the host said as it panicked, if that was it.
    pub panic: String,
    /// When, in seconds since 1970.
    pub time_s: u64,
    /// When, on the system's monotonic clock.
    pub at_ns: u64,
    /// How many there were since the first start.
    pub count: u64,
    /// The mapping list.
    pub maps: String,
    /// What was on the stack, from its end.
    pub stack_words: Vec<u64>,
}

static TABLE: AtomicPtr<Header> = AtomicPtr::new(ptr::null_mut());
/// Its memory file.
static FILE: AtomicI32 = AtomicI32::new(-1);

fn table() -> Option<&'static Header> {
    // SAFETY: What is stored is a mapping that is as long as the header and more, is never unmapped, and holds atomics only.
    unsafe { TABLE.load(Ordering::Acquire).as_ref() }
}

impl Header {
    fn slot(&self, descriptor: RawFd) -> Option<&Slot> {
        let at = u32::try_from(descriptor).ok()?;
        if at >= self.slots.load(Ordering::Relaxed) {
            return None;
        }
        // SAFETY: So many slots follow the header in the mapping, and they hold atomics only.
        Some(unsafe { &*ptr::from_ref(self).add(1).cast::<Slot>().add(at as usize) })
    }

    /// The place of a descriptor's record, which has `record_bytes` behind its head.
    fn record(&self, descriptor: RawFd) -> Option<*mut u8> {
        let at = self.slot(descriptor).and(usize::try_from(descriptor).ok())?;
        let slots = self.slots.load(Ordering::Relaxed) as usize;
        let bytes = record_room(self.record_bytes.load(Ordering::Relaxed));
        // SAFETY: So many records follow the slots in the mapping.
        Some(unsafe {
            let records = ptr::from_ref(self).add(1).cast::<Slot>().add(slots).cast::<u8>();
            records.add(at * bytes).cast_mut()
        })
    }
}

fn record_room(record_bytes: u32) -> usize {
    (RECORD_HEAD + record_bytes as usize).next_multiple_of(RECORD_HEAD)
}

fn length(slots: u32, record_bytes: u32) -> usize {
    size_of::<Header>() + slots as usize * (size_of::<Slot>() + record_room(record_bytes))
}

/// Makes the memory, with slots for descriptors below `slots` and records of up to `record_bytes`. Pages that are not used cost nothing.
/// Answers the descriptor of its file.
///
/// # Errors
/// There is no memory, or no descriptor.
pub fn begin(slots: u32, record_bytes: u32) -> io::Result<RawFd> {
    let file = File::from(memfd::create("medusa:parked")?);
    file.set_len(length(slots, record_bytes) as u64)?;
    let header = map(&file, length(slots, record_bytes))?;
    // SAFETY: The mapping is as long as that, and zero, which is what all of it may be.
    let table = unsafe { &*header };
    table.slots.store(slots, Ordering::Relaxed);
    table.record_bytes.store(record_bytes, Ordering::Relaxed);
    table.memory.store(memfd::create("medusa:picture")?.into_raw_fd(), Ordering::Relaxed);
    table.spare.store(memfd::create("medusa:picture")?.into_raw_fd(), Ordering::Relaxed);
    table.dump.store(memfd::create("medusa:dump")?.into_raw_fd(), Ordering::Relaxed);
    let [m, e, d, u, s, a, c] = MAGIC;
    table.magic.store(u64::from_le_bytes([m, e, d, u, s, a, c, FORM]), Ordering::Relaxed);
    TABLE.store(header, Ordering::Release);
    let file = file.into_raw_fd();
    FILE.store(file, Ordering::Relaxed);
    Ok(file)
}

/// Takes the memory up that this process had before it crashed.
///
/// # Errors
/// It is none, or that of a program which has another form.
pub fn take_up(descriptor: RawFd) -> io::Result<()> {
    exec::set_inherited(descriptor, false)?;
    let file = std::mem::ManuallyDrop::new(File::from(exec::take(descriptor)?));
    let length_there = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let none = || io::Error::other("it is no table of medusa's");
    let mut magic = [0; 8];
    file.read_exact_at(&mut magic, 0)?;
    match magic {
        [magic @ .., FORM] if magic == MAGIC => {}
        [magic @ .., form] if magic == MAGIC => {
            return Err(io::Error::other(format!("its table is of form {form}, and not {FORM}")));
        }
        _ => return Err(none()),
    }
    if length_there < size_of::<Header>() {
        return Err(none());
    }
    let header = map(&file, length_there)?;
    // SAFETY: The mapping is at least as long as the header.
    let table = unsafe { &*header };
    let load = |number: &AtomicU32| number.load(Ordering::Relaxed);
    let expected = length(load(&table.slots), load(&table.record_bytes));
    if length_there != expected {
        return Err(none());
    }
    TABLE.store(header, Ordering::Release);
    FILE.store(descriptor, Ordering::Relaxed);
    Ok(())
}

fn map(file: &File, length: usize) -> io::Result<*mut Header> {
    let (protection, flags) =
        (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::NORESERVE);
    // SAFETY: The kernel chooses the address, so that no memory in use is replaced; the mapping stays for good.
    let address = unsafe { mmap(ptr::null_mut(), length, protection, flags, file, 0)? };
    Ok(address.cast())
}

/// The most bytes that a record may have; 0 if none is kept.
#[must_use]
pub fn record_bytes_max() -> usize {
    table().map_or(0, |table| table.record_bytes.load(Ordering::Relaxed) as usize)
}

/// Says how the connection of a descriptor could be gone on with once it rests, see [`rest`]. It does not rest now. False if there is
/// no place for that.
pub fn keep(kept: &Kept, keeps: Keeps, record: &[u8]) -> bool {
    let Some(table) = table() else { return false };
    let Some(slot) = table.slot(kept.descriptor) else { return false };
    let fits = record.len() <= table.record_bytes.load(Ordering::Relaxed) as usize
        && kept.owner <= OWNER_MAX;
    if keeps == Keeps::Nothing || !fits {
        if !slot.keeps(Keeps::Nothing) {
            slot.state.store(0, Ordering::Release);
        }
        return fits;
    }
    slot.state.store(0, Ordering::Release);
    let listener = u16::try_from(kept.listener).unwrap_or(u16::MAX);
    slot.names.store(kept.id << LISTENER_BITS | u64::from(listener), Ordering::Relaxed);
    if keeps == Keeps::Record
        && let Some(place) = table.record(kept.descriptor)
    {
        // SAFETY: The place has so many bytes behind its head, as was looked at above; nobody else of this process refers to them, and it
        // is aligned to its head.
        unsafe {
            place.cast::<u64>().write(record.len() as u64);
            ptr::copy_nonoverlapping(record.as_ptr(), place.add(RECORD_HEAD), record.len());
        }
    }
    let opened = u32::try_from(kept.opened_ms / OPENED_MS).unwrap_or(u32::MAX);
    let state = u64::from(opened) | kept.owner << OWNER_SHIFT | (keeps as u64) << KIND_SHIFT;
    slot.state.store(state, Ordering::Release);
    let used = u32::try_from(kept.descriptor).unwrap_or(0) + 1;
    // Only the loop writes it.
    if table.slots_used.load(Ordering::Relaxed) < used {
        table.slots_used.store(used, Ordering::Relaxed);
    }
    true
}

/// The connection of a descriptor rests as it was kept.
pub fn rest(descriptor: RawFd) {
    if let Some(slot) = table().and_then(|table| table.slot(descriptor))
        && !slot.keeps(Keeps::Nothing)
    {
        slot.set_resting(true);
    }
}

/// It does not, or is not there any more.
pub fn rise(descriptor: RawFd) {
    if let Some(slot) = table().and_then(|table| table.slot(descriptor))
        && slot.is_resting()
    {
        slot.set_resting(false);
    }
}

/// All connections that rest.
#[must_use]
pub fn resting() -> Vec<Kept> {
    let Some(table) = table() else { return Vec::new() };
    let used = RawFd::try_from(table.slots_used.load(Ordering::Relaxed)).unwrap_or(0);
    let all = (0..used).filter_map(|descriptor| Some((descriptor, table.slot(descriptor)?)));
    all.filter(|(_, slot)| slot.is_resting())
        .map(|(descriptor, slot)| {
            let (names, state) = (slot.names.load(Ordering::Relaxed), slot.state());
            let listener = match names as u16 {
                // As one that came in by none.
                u16::MAX => u32::MAX,
                listener => listener.into(),
            };
            Kept {
                descriptor,
                owner: state >> OWNER_SHIFT & OWNER_MAX,
                id: names >> LISTENER_BITS,
                opened_ms: u64::from(state as u32) * OPENED_MS,
                listener,
                record: record_of(table, descriptor, slot),
            }
        })
        .collect()
}

fn record_of(table: &Header, descriptor: RawFd, slot: &Slot) -> Option<Vec<u8>> {
    if !slot.keeps(Keeps::Record) {
        return None;
    }
    let max = table.record_bytes.load(Ordering::Relaxed) as usize;
    let place = table.record(descriptor)?;
    // SAFETY: The place has a head, and at least so many bytes behind it; nobody writes to them meanwhile.
    Some(unsafe {
        let length = usize::try_from(place.cast::<u64>().read()).unwrap_or(0).min(max);
        std::slice::from_raw_parts(place.add(RECORD_HEAD), length).to_vec()
    })
}

/// Has a number stand for whoever has this name.
pub fn set_name(id: u64, name: &str) {
    let Some(table) = table() else { return };
    let place = &table.names[usize::try_from(id).unwrap_or(0) % NAMES];
    place.id.store(0, Ordering::Release);
    for (place, word) in place.bytes.iter().zip(words::<{ NAME_BYTES / 8 }>(name)) {
        place.store(word, Ordering::Relaxed);
    }
    place.id.store(id, Ordering::Release);
    table.name_last.fetch_max(id, Ordering::Relaxed);
}

/// Who has this number, if that was said not too long ago.
#[must_use]
pub fn name(id: u64) -> Option<String> {
    let place = &table()?.names[usize::try_from(id).ok()? % NAMES];
    if id == 0 || place.id.load(Ordering::Acquire) != id {
        return None;
    }
    let words = place.bytes.iter().map(|word| word.load(Ordering::Relaxed));
    Some(text(words))
}

/// The highest number that has ever had a name.
#[must_use]
pub fn name_last() -> u64 {
    table().map_or(0, |table| table.name_last.load(Ordering::Relaxed))
}

/// The highest number of a connection.
pub fn set_id_last(id: u64) {
    if let Some(table) = table() {
        table.id_last.store(id, Ordering::Relaxed);
    }
}

/// The highest number of a connection that was set.
#[must_use]
pub fn id_last() -> u64 {
    table().map_or(0, |table| table.id_last.load(Ordering::Relaxed))
}

/// As much of a text as has room.
fn words<const COUNT: usize>(text: &str) -> [u64; COUNT] {
    let mut bytes = text.bytes();
    std::array::from_fn(|_| {
        u64::from_ne_bytes(std::array::from_fn(|_| bytes.next().unwrap_or_default()))
    })
}

fn text(words: impl Iterator<Item = u64>) -> String {
    let mut bytes: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// From now on these descriptors go over, and these bytes say what they are. Where that cannot be, nothing has changed.
///
/// # Errors
/// There is no memory for the bytes, or the descriptors are too many.
pub fn set_memory(bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
    let none = || io::Error::other("there is no table");
    let table = table().ok_or_else(none)?;
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::Error::other("there are too many libraries and listeners"));
    }
    let next = table.spare.load(Ordering::Relaxed);
    let file = std::mem::ManuallyDrop::new(File::from(exec::take(next)?));
    file.set_len(0)?;
    file.write_all_at(bytes, 0)?;
    // In between, none beside those that rest goes over.
    table.descriptors.store(0, Ordering::Release);
    table.spare.store(table.memory.swap(next, Ordering::AcqRel), Ordering::Relaxed);
    for (place, descriptor) in table.descriptor.iter().zip(descriptors) {
        place.store(*descriptor, Ordering::Relaxed);
    }
    let count = u32::try_from(descriptors.len()).unwrap_or(0);
    table.descriptors.store(count, Ordering::Release);
    Ok(())
}

/// The memory file that says what the descriptors are, as bytes.
///
/// # Errors
/// There is none.
pub fn memory() -> io::Result<Vec<u8>> {
    let none = || io::Error::other("nothing was kept");
    let descriptor = table().ok_or_else(none)?.memory.load(Ordering::Acquire);
    let file = std::mem::ManuallyDrop::new(File::from(exec::take(descriptor)?));
    read(&file)
}

fn read(file: &File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Every descriptor that went over, but for those of connections.
#[must_use]
pub fn descriptors() -> Vec<RawFd> {
    let Some(table) = table() else { return Vec::new() };
    let count = table.descriptors.load(Ordering::Acquire) as usize;
    let own = [&table.memory, &table.spare, &table.dump];
    let all = own.into_iter().chain(table.descriptor.iter().take(count));
    all.map(|descriptor| descriptor.load(Ordering::Relaxed)).filter(|it| *it >= 0).collect()
}

/// How often the process has crashed, and when last: what tells a loop of crashes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crashes {
    /// Since the first start.
    pub count: u64,
    /// The times of the last [`CRASHES_MAX`], on the system's monotonic clock, each at its number's remainder.
    times_ns: [u64; CRASHES_MAX],
}

/// The crashes that there were.
#[must_use]
pub fn crashes() -> Crashes {
    let number = |number: &AtomicU64| number.load(Ordering::Relaxed);
    table().map_or_else(Crashes::default, |table| Crashes {
        count: number(&table.crashes),
        times_ns: table.times_ns.each_ref().map(number),
    })
}

/// Goes on counting from the crashes that there were before this image.
pub fn set_crashes(crashes: &Crashes) {
    let Some(table) = table() else { return };
    for (place, time_ns) in table.times_ns.iter().zip(crashes.times_ns) {
        place.store(time_ns, Ordering::Relaxed);
    }
    table.crashes.store(crashes.count, Ordering::Relaxed);
}

/// What the process has crashed with last.
#[must_use]
pub fn last() -> Crash {
    let Some(table) = table() else { return Crash::default() };
    let report = &table.report;
    let number = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let (maps, stack_words) = dumped(table).unwrap_or_default();
    Crash {
        signal: report.signal.load(Ordering::Relaxed),
        address: number(&report.address),
        instruction: number(&report.instruction),
        stack: number(&report.stack),
        whose: number(&report.whose),
        thread: report.thread.load(Ordering::Relaxed),
        thread_name: text(report.thread_name.iter().map(number)),
        stalled_ms: report.stalled_ms.load(Ordering::Relaxed),
        panic: text(report.panic.iter().map(number)),
        time_s: number(&report.time_s),
        at_ns: number(&report.at_ns),
        count: number(&table.crashes),
        maps,
        stack_words,
    }
}

fn dumped(table: &Header) -> io::Result<(String, Vec<u64>)> {
    let descriptor = table.dump.load(Ordering::Relaxed);
    let file = std::mem::ManuallyDrop::new(File::from(exec::take(descriptor)?));
    let mut maps = vec![0; table.report.maps_bytes.load(Ordering::Relaxed) as usize];
    file.read_exact_at(&mut maps, 0)?;
    let mut stack = vec![0; table.report.stack_bytes.load(Ordering::Relaxed) as usize];
    file.read_exact_at(&mut stack, maps.len() as u64)?;
    let words = stack.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word));
    Ok((String::from_utf8_lossy(&maps).into_owned(), words.collect()))
}

/// What a signal is called.
#[must_use]
pub fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGBUS => "SIGBUS",
        libc::SIGILL => "SIGILL",
        libc::SIGFPE => "SIGFPE",
        libc::SIGABRT => "SIGABRT",
        libc::SIGALRM => "SIGALRM",
        _ => "a signal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rests_is_there_and_what_does_not_is_not() {
        let file = begin(1000, 100).unwrap();
        let kept = |descriptor| Kept {
            descriptor,
            owner: 77,
            id: 1 << 40,
            opened_ms: 123_456,
            listener: 3,
            record: None,
        };
        assert!(keep(&kept(900), Keeps::Record, &[7; 100]));
        assert!(keep(&Kept { listener: u32::MAX, ..kept(901) }, Keeps::NoState, &[]));
        assert!(!keep(&kept(902), Keeps::Record, &[7; 101]));
        assert!(!keep(&kept(1000), Keeps::NoState, &[]));
        assert!(resting().is_empty());
        (899..1100).for_each(rest);
        // As another program has it.
        take_up(file).unwrap();
        let all = resting();
        assert_eq!(all.iter().map(|it| it.descriptor).collect::<Vec<_>>(), [900, 901]);
        assert_eq!((all[0].owner, all[0].id, all[0].opened_ms), (77, 1 << 40, 123_400));
        assert_eq!((all[0].listener, all[1].listener), (3, u32::MAX));
        assert_eq!((all[0].record.as_deref(), &all[1].record), (Some(&[7; 100][..]), &None));
        rise(900);
        assert!(keep(&kept(901), Keeps::Nothing, &[]));
        rest(901);
        assert!(resting().is_empty());

        set_name(5, "five");
        set_name(5 + NAMES as u64, "another");
        assert_eq!((name(5), name(5 + NAMES as u64)), (None, Some("another".to_owned())));
        assert_eq!(name(0), None);
    }
}
