//! Failures after the numbered steps of the two protocols (ARCHITECTURE.md has both), for the tests that see to it that the old one goes on.
//!
//! Only a program with the feature `faults` has them, and none that is released has that. `MEDUSA_FAULTS` names a file, which is looked
//! at after each step: a line `STEP KIND` in it asks for a failure there.

/// A step is done. Fails if a test wants it to.
///
/// # Errors
/// A test wants one here.
///
/// # Panics
/// As above.
#[cfg(feature = "faults")]
pub fn after(step: &str) -> Result<(), String> {
    let Some(file) = std::env::var_os("MEDUSA_FAULTS") else { return Ok(()) };
    let wanted = std::fs::read_to_string(file).unwrap_or_default();
    let mut lines = wanted.lines().filter_map(|line| line.split_once(' '));
    let Some((_, kind)) = lines.find(|(wanted, _)| *wanted == step) else { return Ok(()) };
    let reason = format!("a test wants it to fail after `{step}`");
    match kind {
        "panic" => panic!("{reason}"),
        "abort" => std::process::abort(),
        "exit" => crate::sys::exec::end_at_once(3),
        "hang" => loop {
            std::thread::park();
        },
        _ => Err(reason),
    }
}

/// A step is done.
///
/// # Errors
/// None without the feature `faults`.
#[cfg(not(feature = "faults"))]
#[inline]
pub fn after(_step: &str) -> Result<(), String> {
    Ok(())
}
