//! The heap of one plugin: every block is on a list, so that what the plugin leaks can be counted, and freed with it.
//!
//! Memory comes from the system's allocator. Before each block lies a header of 32 bytes with its neighbours on the list.
//! One spinlock guards the list; a plugin lives on one thread nearly all of its time, so it is nearly always free, and
//! the counters are updated under it without atomic additions.

// An allocator.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::UnsafeCell,
    ptr::{self, NonNull},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use medusa_abi::data::HeapCounters;

/// The heap of one plugin; [`export_plugin!`](crate::export_plugin) makes it the plugin's global allocator.
pub struct Heap {
    locked: AtomicBool,
    /// The newest block. Only touched under the lock.
    first: UnsafeCell<*mut Header>,
    counters: HeapCounters,
}

// SAFETY: `first` and the headers behind it are touched under the lock only; the rest is atomic.
unsafe impl Sync for Heap {}

/// Lies right before each block.
#[repr(C)]
struct Header {
    previous: *mut Header,
    next: *mut Header,
    /// Bytes in the block, as asked for; with the bit `ASIDE` if it is not counted.
    size: usize,
    /// Where the system's block begins: before the header, for blocks of a great alignment.
    base: *mut u8,
}

const HEADER_BYTES: usize = size_of::<Header>();

/// What the system's allocator gives without being asked, and what keeps a block behind its header aligned.
const SYSTEM_ALIGN: usize = 16;

/// Marks the size of a block that is not counted. No block is so large: a layout's size fits an `isize`.
const ASIDE: usize = 1 << (usize::BITS - 1);

const _: () = assert!(HEADER_BYTES == 32 && HEADER_BYTES.is_multiple_of(SYSTEM_ALIGN));

impl Heap {
    /// An empty heap.
    #[must_use]
    pub const fn new() -> Heap {
        Heap {
            locked: AtomicBool::new(false),
            first: UnsafeCell::new(ptr::null_mut()),
            counters: HeapCounters {
                blocks: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                bytes_peak: AtomicU64::new(0),
            },
        }
    }

    /// What it holds, for the host to read at any time.
    #[must_use]
    pub const fn counters(&'static self) -> *const HeapCounters {
        &raw const self.counters
    }

    /// Runs `set_up`, and counts none of the blocks that it leaves behind, now or when they grow: they belong to the image,
    /// whose standard library and `tracing` keep global state for good. They are freed with the rest.
    ///
    /// Nothing else may use the heap meanwhile: the first call into the library is the time for it.
    pub(crate) fn set_aside(&self, set_up: impl FnOnce()) {
        let before = self.lock(|first| *first);
        set_up();
        self.lock(|first| {
            let mut header = *first;
            // New blocks come first.
            while header != before && !header.is_null() {
                // SAFETY: Headers on the list are those of live blocks, and the lock is held.
                let block = unsafe { &mut *header };
                if block.size & ASIDE == 0 {
                    self.uncount(block.size);
                    block.size |= ASIDE;
                }
                header = block.next;
            }
        });
    }

    /// Frees every block that is left. Touches no thread-local and no standard library.
    ///
    /// # Safety
    /// Nothing may use a block of this heap from here on: it is the last call into the library.
    pub unsafe fn release(&self) {
        let mut header = self.lock(|first| std::mem::replace(first, ptr::null_mut()));
        while let Some(block) = NonNull::new(header) {
            // SAFETY: Every header on the list is that of a live block, whose last use this is.
            unsafe {
                header = block.as_ref().next;
                libc::free(block.as_ref().base.cast());
            }
        }
        self.counters.blocks.store(0, Ordering::Relaxed);
        self.counters.bytes.store(0, Ordering::Relaxed);
    }

    /// Runs `f` with the head of the list, alone.
    #[inline]
    fn lock<R>(&self, f: impl FnOnce(&mut *mut Header) -> R) -> R {
        while self.locked.swap(true, Ordering::Acquire) {
            let mut spins = 0u32;
            while self.locked.load(Ordering::Relaxed) {
                std::hint::spin_loop();
                spins += 1;
                if spins.is_multiple_of(64) {
                    // The owner may be waiting for this very processor.
                    // SAFETY: No preconditions.
                    unsafe { libc::sched_yield() };
                }
            }
        }
        // SAFETY: The lock is ours, and `f` cannot panic: all of them below move words only.
        let result = f(unsafe { &mut *self.first.get() });
        self.locked.store(false, Ordering::Release);
        result
    }

    /// Puts a block on the list, and counts it.
    ///
    /// # Safety
    /// `header` must point at a header of memory that is ours.
    #[inline]
    unsafe fn link(&self, header: *mut Header, size: usize, base: *mut u8) {
        self.lock(|first| {
            let next = *first;
            // SAFETY: The caller's promise; the neighbour is on the list, hence alive.
            unsafe {
                header.write(Header { previous: ptr::null_mut(), next, size, base });
                if !next.is_null() {
                    (*next).previous = header;
                }
            }
            *first = header;
            if size & ASIDE != 0 {
                return;
            }
            let add = |counter: &AtomicU64, n: u64| {
                // Not `fetch_add`: the lock keeps other writers away, and readers need no more than a recent value.
                let value = counter.load(Ordering::Relaxed).wrapping_add(n);
                counter.store(value, Ordering::Relaxed);
                value
            };
            add(&self.counters.blocks, 1);
            let bytes = add(&self.counters.bytes, size as u64);
            if bytes > self.counters.bytes_peak.load(Ordering::Relaxed) {
                self.counters.bytes_peak.store(bytes, Ordering::Relaxed);
            }
        });
    }

    /// Takes a block off the list.
    ///
    /// # Safety
    /// `header` must be that of a block on the list.
    #[inline]
    unsafe fn unlink(&self, header: *mut Header) {
        self.lock(|first| {
            // SAFETY: The caller's promise; neighbours are on the list, hence alive.
            let size = unsafe {
                let Header { previous, next, size, .. } = *header;
                if previous.is_null() {
                    *first = next;
                } else {
                    (*previous).next = next;
                }
                if !next.is_null() {
                    (*next).previous = previous;
                }
                size
            };
            if size & ASIDE == 0 {
                self.uncount(size);
            }
        });
    }

    /// Takes a block out of the count. Called under the lock.
    #[inline]
    fn uncount(&self, size: usize) {
        let counters = &self.counters;
        let blocks = counters.blocks.load(Ordering::Relaxed).wrapping_sub(1);
        counters.blocks.store(blocks, Ordering::Relaxed);
        let bytes = counters.bytes.load(Ordering::Relaxed).wrapping_sub(size as u64);
        counters.bytes.store(bytes, Ordering::Relaxed);
    }

    /// # Safety
    /// As [`GlobalAlloc::alloc`].
    #[inline]
    unsafe fn allocate(&self, layout: Layout, zeroed: bool) -> *mut u8 {
        if layout.align() > SYSTEM_ALIGN {
            // SAFETY: The caller's promise.
            return unsafe { self.allocate_aligned(layout, zeroed) };
        }
        let Some(total) = layout.size().checked_add(HEADER_BYTES) else { return ptr::null_mut() };
        // SAFETY: No preconditions.
        let base = unsafe { if zeroed { libc::calloc(1, total) } else { libc::malloc(total) } };
        if base.is_null() {
            return ptr::null_mut();
        }
        // SAFETY: The block has room for the header and, behind it, for what was asked for.
        unsafe {
            self.link(base.cast(), layout.size(), base.cast());
            base.cast::<u8>().add(HEADER_BYTES)
        }
    }

    /// # Safety
    /// As [`GlobalAlloc::alloc`].
    #[cold]
    unsafe fn allocate_aligned(&self, layout: Layout, zeroed: bool) -> *mut u8 {
        // A whole alignment before the block: the header lies at its end.
        let before = layout.align().max(HEADER_BYTES);
        let Some(total) = layout.size().checked_add(before) else { return ptr::null_mut() };
        let mut base = ptr::null_mut();
        // SAFETY: The alignment is a power of two and a multiple of a pointer's size.
        if unsafe { libc::posix_memalign(&mut base, layout.align(), total) } != 0 {
            return ptr::null_mut();
        }
        // SAFETY: `before` bytes lie in the block; the header ends where they do, and is aligned as 32 bytes are.
        unsafe {
            let block = base.cast::<u8>().add(before);
            if zeroed {
                ptr::write_bytes(block, 0, layout.size());
            }
            self.link(block.sub(HEADER_BYTES).cast(), layout.size(), base.cast());
            block
        }
    }
}

impl Default for Heap {
    fn default() -> Heap {
        Heap::new()
    }
}

// SAFETY: Blocks come from the system's allocator with room for a header before them, are aligned as asked for, and are
// freed by the address that the system gave. Nothing here unwinds.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: The caller's promise.
        unsafe { self.allocate(layout, false) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: The caller's promise.
        unsafe { self.allocate(layout, true) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: `block` is one of this heap's, so its header lies before it.
        unsafe {
            let header = block.sub(HEADER_BYTES).cast::<Header>();
            self.unlink(header);
            libc::free((*header).base.cast());
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if layout.align() > SYSTEM_ALIGN {
            // SAFETY: The caller's promise: the new size is not zero and does not overflow with this alignment.
            unsafe {
                let new = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
                if !new.is_null() {
                    ptr::copy_nonoverlapping(block, new, layout.size().min(new_size));
                    self.dealloc(block, layout);
                }
                return new;
            }
        }
        let Some(total) = new_size.checked_add(HEADER_BYTES) else { return ptr::null_mut() };
        // SAFETY: As in `dealloc`. The block is off the list while the system may move it: the neighbours' pointers to it
        // would be followed by other threads meanwhile.
        unsafe {
            let header = block.sub(HEADER_BYTES).cast::<Header>();
            self.unlink(header);
            let aside = (*header).size & ASIDE;
            let base = libc::realloc(header.cast(), total);
            if base.is_null() {
                self.link(header, layout.size() | aside, header.cast());
                return ptr::null_mut();
            }
            self.link(base.cast(), new_size | aside, base.cast());
            base.cast::<u8>().add(HEADER_BYTES)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(heap: &Heap) -> (u64, u64) {
        let counters = &heap.counters;
        (counters.blocks.load(Ordering::Relaxed), counters.bytes.load(Ordering::Relaxed))
    }

    #[test]
    fn blocks_of_every_alignment_are_usable_grow_and_are_freed() {
        let heap = Heap::new();
        for align in [1, 2, 8, 16, 32, 64, 4096] {
            let layout = Layout::from_size_align(100, align).unwrap();
            // SAFETY: The layouts are the blocks' own throughout.
            unsafe {
                let block = heap.alloc_zeroed(layout);
                assert_eq!(block as usize % align, 0);
                assert!((0..100).all(|i| *block.add(i) == 0));
                ptr::write_bytes(block, 7, 100);
                let block = heap.realloc(block, layout, 5000);
                assert_eq!(block as usize % align, 0);
                assert!((0..100).all(|i| *block.add(i) == 7));
                assert_eq!(counts(&heap), (1, 5000));
                heap.dealloc(block, Layout::from_size_align(5000, align).unwrap());
            }
            assert_eq!(counts(&heap), (0, 0));
        }
        assert_eq!(heap.counters.bytes_peak.load(Ordering::Relaxed), 5100);
    }

    #[test]
    fn what_is_left_is_released() {
        let heap = Heap::new();
        for size in 1..200 {
            // SAFETY: The blocks are not used after the release.
            unsafe { heap.alloc(Layout::from_size_align(size, 1 << (size % 8)).unwrap()) };
        }
        assert_eq!(counts(&heap).0, 199);
        // SAFETY: As above.
        unsafe { heap.release() };
        assert_eq!(counts(&heap), (0, 0));
    }

    #[test]
    fn what_is_set_aside_is_not_counted_and_is_released() {
        let heap = Heap::new();
        let layout = Layout::from_size_align(100, 8).unwrap();
        // SAFETY: The layouts are the blocks' own, and none is used after the release.
        unsafe {
            let before = heap.alloc(layout);
            let (mut kept, mut freed) = (ptr::null_mut(), ptr::null_mut());
            heap.set_aside(|| (kept, freed) = (heap.alloc(layout), heap.alloc(layout)));
            assert_eq!(counts(&heap), (1, 100));
            heap.dealloc(freed, layout);
            let grown = heap.realloc(kept, layout, 5000);
            assert_eq!(counts(&heap), (1, 100), "it grows uncounted");
            heap.dealloc(before, layout);
            assert_eq!(counts(&heap), (0, 0));
            assert!(!grown.is_null());
            assert!(!heap.lock(|first| first.is_null()), "it is on the list, to be freed");
            heap.release();
        }
        assert_eq!(counts(&heap), (0, 0));
    }

    #[test]
    fn two_threads_share_it() {
        let heap = Heap::new();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for size in 1..2000 {
                        let layout = Layout::from_size_align(size, 8).unwrap();
                        // SAFETY: The layouts are the blocks' own.
                        unsafe {
                            let block = heap.alloc(layout);
                            let block = heap.realloc(block, layout, size + 1);
                            heap.dealloc(block, Layout::from_size_align(size + 1, 8).unwrap());
                        }
                    }
                });
            }
        });
        assert_eq!(counts(&heap), (0, 0));
    }
}
