//! What this process holds: memory, descriptors, threads.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::sys::maps;

/// Resident memory, in bytes.
///
/// # Errors
/// `/proc` is not mounted.
pub fn resident_bytes() -> io::Result<u64> {
    // proc(5): statm is "size resident shared text lib data dt", in pages.
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    let pages = pages.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// How many descriptors are open.
///
/// # Errors
/// `/proc` is not mounted, or no descriptor is left to look.
pub fn descriptor_count() -> io::Result<usize> {
    // Linux 6.2 and later tell it as the folder's size; to list very many would keep the loop.
    match fs::metadata("/proc/self/fd")?.len() {
        0 => {}
        count => return Ok(usize::try_from(count).unwrap_or(usize::MAX)),
    }
    // The descriptor that reads the folder is in it.
    Ok(fs::read_dir("/proc/self/fd")?.count() - 1)
}

/// Has as many descriptors allowed as the process may have, and says in the log how many; and opens what has to be readable when
/// none is left. To be called once, before anything else needs one.
pub fn prepare_descriptors() {
    if let Err(error) = maps::keep_open() {
        tracing::warn!("the mapping list cannot be opened: {error}; no plugin can be loaded");
    }
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let allowed = if raised.is_ok() { maximum } else { current };
    // None stands for "no limit"; Linux has none such for descriptors.
    let allowed = allowed.unwrap_or(u64::MAX);
    tracing::info!(descriptors_max = allowed, "the process may have {allowed} descriptors");
}

/// How many threads run.
///
/// # Errors
/// `/proc` is not mounted.
pub fn thread_count() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}

/// The name of one of this process's threads, by its kernel id; none when it has ended.
pub fn thread_name(thread: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/self/task/{thread}/comm")).ok()?;
    Some(name.trim_end_matches('\n').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted() {
        assert!(resident_bytes().unwrap() > 100 * 1024);
        assert!(descriptor_count().unwrap() >= 3);
        assert!(thread_count().unwrap() >= 1);
        assert_eq!(thread_name(u32::MAX), None);
        let name = std::thread::Builder::new()
            .name("named".into())
            .spawn(|| thread_name(rustix::thread::gettid().as_raw_nonzero().get() as u32))
            .unwrap();
        assert_eq!(name.join().unwrap().as_deref(), Some("named"));
    }
}
