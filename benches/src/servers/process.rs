//! What a server costs, from `/proc`: all of its processes and threads.

use std::fs;

use crate::Result;

/// A process and its children, theirs too.
pub(super) fn family(id: u32) -> Vec<u32> {
    let mut family = vec![id];
    let mut next = 0;
    while let Some(id) = family.get(next).copied() {
        let tasks = names(&format!("/proc/{id}/task"));
        for task in tasks {
            let children = fs::read_to_string(format!("/proc/{id}/task/{task}/children"));
            let children = children.unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|it| it.parse::<u32>().ok()));
        }
        next += 1;
    }
    family
}

/// Nanoseconds on a core so far, of all threads, from the scheduler's own count.
///
/// The threads of all servers here live as long as they do: nothing is lost with one that ends.
pub(super) fn cpu_ns(id: u32) -> Result<u64> {
    let mut sum = 0;
    for id in family(id) {
        for task in names(&format!("/proc/{id}/task")) {
            let path = format!("/proc/{id}/task/{task}/schedstat");
            let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
            let spent = text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok());
            sum += spent.ok_or_else(|| format!("{path} says {text:?}"))?;
        }
    }
    Ok(sum)
}

/// Bytes of memory that are its own, with its share of what it has in common with others (PSS).
pub(super) fn memory_bytes(id: u32) -> Result<u64> {
    let mut sum = 0;
    for id in family(id) {
        let path = format!("/proc/{id}/smaps_rollup");
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let kib =
            text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
        let kib = kib.and_then(|it| it.parse::<u64>().ok());
        sum += 1024 * kib.ok_or_else(|| format!("{path} has no Pss"))?;
    }
    Ok(sum)
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
