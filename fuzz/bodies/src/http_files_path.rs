//! Paths of requests: whatever is let through names something beneath the root.

use crate::path::{self, DotFiles};

/// One path.
///
/// # Panics
/// The promise above is broken.
pub fn check(input: &str) {
    if let Ok(target) = path::target(input, DotFiles::Served) {
        assert!(!target.path.contains(&0));
        assert!(
            target.path.is_empty()
                || target
                    .path
                    .split(|byte| *byte == b'/')
                    .all(|name| !matches!(name, b"" | b"." | b".."))
        );
        let again: Vec<String> =
            target.path.split(|byte| *byte == b'/').map(path::encode).collect();
        let again = path::target(&format!("/{}", again.join("/")), DotFiles::Served)
            .expect("an encoded path is good");
        assert_eq!(again.path, target.path);
    }
    if let Ok(target) = path::target(input, DotFiles::Hidden) {
        let hidden = |(depth, name): (usize, &[u8])| {
            name.starts_with(b".") && (depth > 0 || name != b".well-known")
        };
        assert!(!target.path.split(|byte| *byte == b'/').enumerate().any(hidden));
    }
}
