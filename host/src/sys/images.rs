//! The images that the dynamic linker has mapped, as it states them itself.

// Walks the dynamic linker's list by its callback.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_int, c_void},
    ops::Range,
};

use libc::dl_phdr_info;

/// Where the image lies that was opened by exactly this name: from the first byte of its first segment to the last of its last, in
/// whole pages.
///
/// Neither allocates nor locks anything but the linker's list, so a constructor may ask.
pub fn range_by_name(name: &CStr) -> Option<Range<usize>> {
    let mut found = None;
    visit(&mut |info| {
        // SAFETY: The linker's names are null or end in NUL, and live while its list is locked, as it is during the visit.
        let matches =
            !info.dlpi_name.is_null() && unsafe { CStr::from_ptr(info.dlpi_name) } == name;
        if matches {
            found = range(info);
        }
        matches
    });
    found
}

/// Whether an image lies at these addresses, or over a part of them.
pub fn is_at(addresses: &Range<usize>) -> bool {
    let mut found = false;
    visit(&mut |info| {
        let overlaps =
            |range: Range<usize>| range.start < addresses.end && addresses.start < range.end;
        found |= range(info).is_some_and(overlaps);
        found
    });
    found
}

/// Calls `look` for each image until it says that this was enough.
fn visit(look: &mut dyn FnMut(&dl_phdr_info) -> bool) {
    unsafe extern "C" fn each(info: *mut dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
        // SAFETY: `data` is the reference below; the linker passes a valid entry.
        let (look, info) =
            unsafe { (&mut *data.cast::<&mut dyn FnMut(&dl_phdr_info) -> bool>(), &*info) };
        c_int::from(look(info))
    }
    let mut look = look;
    // SAFETY: `each` gets back the pointer to `look`, which outlives the call; neither of the two closures above unwinds.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut look).cast()) };
}

fn range(info: &dl_phdr_info) -> Option<Range<usize>> {
    let page = rustix::param::page_size();
    // SAFETY: The linker states a valid list of program headers with each image.
    let headers =
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let loads = headers.iter().filter(|header| header.p_type == libc::PT_LOAD).map(|header| {
        let start = (info.dlpi_addr + header.p_vaddr) as usize;
        (start, start + header.p_memsz as usize)
    });
    let (start, end) = loads.reduce(|all, load| (all.0.min(load.0), all.1.max(load.1)))?;
    Some(start / page * page..end.next_multiple_of(page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_an_image() {
        let here = the_executable_is_an_image as *const () as usize;
        assert!(is_at(&(here..here + 1)));
        assert!(!is_at(&(16..32)));
        assert!(range_by_name(c"").unwrap().contains(&here));
        assert_eq!(range_by_name(c"no such image"), None);
    }
}
