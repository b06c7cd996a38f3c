//! The functions themselves: each looks whose the call is, and passes on what is nobody's.
//!
//! They run anywhere, before `main` and at a thread's very end, so they neither allocate nor use thread-locals with destructors.

use std::{
    ffi::{CStr, c_int, c_void},
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use libc::{pthread_attr_t, pthread_key_t, pthread_t};

use super::{ImageId, clean, tables};

/// The destructor of a thread-local or of a key.
pub(super) type Destroy = unsafe extern "C" fn(*mut c_void);
/// What a thread runs. It may unwind: `pthread_exit` and cancellation do.
pub(super) type Start = unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void;

type AtExit = unsafe extern "C" fn(Destroy, *mut c_void, *mut c_void) -> c_int;
type KeyCreate = unsafe extern "C" fn(*mut pthread_key_t, Option<Destroy>) -> c_int;
type KeyDelete = unsafe extern "C" fn(pthread_key_t) -> c_int;
type SetSpecific = unsafe extern "C" fn(pthread_key_t, *const c_void) -> c_int;
type Create =
    unsafe extern "C" fn(*mut pthread_t, *const pthread_attr_t, Start, *mut c_void) -> c_int;

/// A function of the C library's, found on first use.
struct Real {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

static AT_EXIT: Real = Real::named(c"__cxa_thread_atexit_impl");
static KEY_CREATE: Real = Real::named(c"pthread_key_create");
static KEY_DELETE: Real = Real::named(c"pthread_key_delete");
static SET_SPECIFIC: Real = Real::named(c"pthread_setspecific");
static CREATE: Real = Real::named(c"pthread_create");

impl Real {
    const fn named(name: &'static CStr) -> Real {
        Real { name, address: AtomicPtr::new(ptr::null_mut()) }
    }

    fn address(&self) -> *mut c_void {
        let known = self.address.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: The name ends in NUL. RTLD_NEXT is what follows the object that holds this code, that is, the C library.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        if found.is_null() {
            // No C library that Rust's std runs on lacks these, and nothing could be reported from here.
            std::process::abort();
        }
        self.address.store(found, Ordering::Relaxed);
        found
    }
}

/// Whether libraries that are opened from now on bind to the functions below.
pub(super) fn are_in_front() -> bool {
    #[cfg(target_env = "gnu")]
    let ours: [(&CStr, *const ()); 5] = [
        (AT_EXIT.name, interposed::__cxa_thread_atexit_impl as *const ()),
        (KEY_CREATE.name, interposed::pthread_key_create as *const ()),
        (KEY_DELETE.name, interposed::pthread_key_delete as *const ()),
        (SET_SPECIFIC.name, interposed::pthread_setspecific as *const ()),
        (CREATE.name, interposed::pthread_create as *const ()),
    ];
    #[cfg(not(target_env = "gnu"))]
    let ours: [(&CStr, *const ()); 1] = [(c"", ptr::null())];
    ours.into_iter().all(|(name, address)| {
        // SAFETY: The name ends in NUL; RTLD_DEFAULT searches as the dynamic linker does for a library's references.
        let bound = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        !bound.is_null() && ptr::eq(bound.cast_const().cast(), address)
    })
}

/// Registers a destructor of the host's own, run at the current thread's end.
pub(super) fn at_thread_exit(destroy: Destroy, object: *mut c_void) {
    static HOST: u8 = 0;
    // SAFETY: The function has this type (Itanium C++ ABI, "thread_local" support); HOST lies in the executable, which is never
    // unmapped, and neither is `destroy`.
    unsafe {
        let real = std::mem::transmute::<*mut c_void, AtExit>(AT_EXIT.address());
        real(destroy, object, (&raw const HOST).cast_mut().cast());
    }
}

/// Makes a key; none if the process has no more.
pub(super) fn create_key(destroy: Option<Destroy>) -> Option<pthread_key_t> {
    let mut key = 0;
    // SAFETY: The function has this type (POSIX); `key` is ours to write to.
    let error = unsafe {
        let real = std::mem::transmute::<*mut c_void, KeyCreate>(KEY_CREATE.address());
        real(&raw mut key, destroy)
    };
    (error == 0).then_some(key)
}

/// Gives a key back; 0, or an errno.
pub(super) fn delete_key(key: pthread_key_t) -> c_int {
    // SAFETY: The function has this type (POSIX); a key that does not exist is an error and nothing worse.
    unsafe {
        let real = std::mem::transmute::<*mut c_void, KeyDelete>(KEY_DELETE.address());
        real(key)
    }
}

/// Sets the current thread's value under a key; 0, or an errno.
pub(super) fn set_value(key: pthread_key_t, value: *const c_void) -> c_int {
    // SAFETY: The function has this type (POSIX); a key that does not exist is an error and nothing worse.
    unsafe {
        let real = std::mem::transmute::<*mut c_void, SetSpecific>(SET_SPECIFIC.address());
        real(key, value)
    }
}

/// The current thread's value under a key.
pub(super) fn value(key: pthread_key_t) -> *mut c_void {
    // SAFETY: A key that does not exist has the value null (glibc).
    unsafe { libc::pthread_getspecific(key) }
}

/// The executable exports these by `build.rs`.
#[cfg(target_env = "gnu")]
mod interposed {
    use super::*;

    #[unsafe(no_mangle)]
    pub(super) unsafe extern "C" fn __cxa_thread_atexit_impl(
        destroy: Destroy,
        object: *mut c_void,
        dso: *mut c_void,
    ) -> c_int {
        if let Some(image) = tables::owner_of([dso as usize, destroy as usize])
            && clean::keep_destructor(image, destroy, object)
        {
            return 0;
        }
        // SAFETY: The caller's arguments, unchanged, to the function that it meant.
        unsafe {
            let real = std::mem::transmute::<*mut c_void, AtExit>(AT_EXIT.address());
            real(destroy, object, dso)
        }
    }

    #[unsafe(no_mangle)]
    pub(super) unsafe extern "C" fn pthread_key_create(
        key: *mut pthread_key_t,
        destroy: Option<Destroy>,
    ) -> c_int {
        let address = destroy.map_or(0, |destroy| destroy as usize);
        let Some(image) = tables::owner_of([address, key as usize]) else {
            // SAFETY: The caller's arguments, unchanged, to the function that it meant.
            return unsafe {
                let real = std::mem::transmute::<*mut c_void, KeyCreate>(KEY_CREATE.address());
                real(key, destroy)
            };
        };
        match clean::create_key_for(image, destroy) {
            Some(made) => {
                // SAFETY: POSIX: the caller's pointer is to a key that may be written.
                unsafe { key.write(made) };
                0
            }
            None => libc::EAGAIN,
        }
    }

    #[unsafe(no_mangle)]
    pub(super) unsafe extern "C" fn pthread_key_delete(key: pthread_key_t) -> c_int {
        if tables::is_owned(key) {
            tables::lock().forget_key(key);
        }
        delete_key(key)
    }

    #[unsafe(no_mangle)]
    pub(super) unsafe extern "C" fn pthread_setspecific(
        key: pthread_key_t,
        value: *const c_void,
    ) -> c_int {
        let error = set_value(key, value);
        if error == 0 && tables::is_owned(key) {
            clean::note_value(key, !value.is_null());
        }
        error
    }

    #[unsafe(no_mangle)]
    pub(super) unsafe extern "C" fn pthread_create(
        thread: *mut pthread_t,
        attributes: *const pthread_attr_t,
        start: Start,
        argument: *mut c_void,
    ) -> c_int {
        match tables::owner_of([start as usize, 0]) {
            // SAFETY: The caller's arguments, unchanged, to the function that it meant.
            None => unsafe { create_thread(thread, attributes, start, argument) },
            // SAFETY: The same, with the start routine wrapped.
            Some(image) => unsafe { create_for(image, thread, attributes, start, argument) },
        }
    }

    unsafe fn create_for(
        image: ImageId,
        thread: *mut pthread_t,
        attributes: *const pthread_attr_t,
        start: Start,
        argument: *mut c_void,
    ) -> c_int {
        // Counted before it runs, so that there is no moment at which it is alive and not counted.
        let record = tables::lock().add_thread(image, start, argument);
        if record.is_null() {
            return libc::EAGAIN;
        }
        // SAFETY: `run_thread` takes the record, which lives until the thread ends.
        let error = unsafe { create_thread(thread, attributes, clean::run_thread, record.cast()) };
        if error != 0 {
            // SAFETY: The record came from `add_thread` just now, and no thread was started that knows it.
            unsafe { tables::lock().remove_thread(record) };
        }
        error
    }

    unsafe fn create_thread(
        thread: *mut pthread_t,
        attributes: *const pthread_attr_t,
        start: Start,
        argument: *mut c_void,
    ) -> c_int {
        // SAFETY: The function has this type (POSIX), and the arguments are its caller's.
        unsafe {
            let real = std::mem::transmute::<*mut c_void, Create>(CREATE.address());
            real(thread, attributes, start, argument)
        }
    }
}
