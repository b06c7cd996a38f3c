//! Builds of a plugin that answer with their number.
//!
//! The tree's plugins are compiled with the build id `build-00000000`, which is in their manifest and in a header field of
//! their answers. A build of another number is the same library with that id overwritten.

use std::{fs, path::PathBuf};

use medusa_tests::Tree;

const COMPILED: &str = "build-00000000";

pub(crate) struct Builds {
    library: Vec<u8>,
    places: Vec<usize>,
    folder: PathBuf,
}

impl Builds {
    /// Builds of the tree's plugin `name`, to be left in `folder`.
    pub(crate) fn of(name: &str, folder: PathBuf) -> Builds {
        let library = fs::read(Tree::get().library(name)).expect("the tree can be read");
        let windows = library.windows(COMPILED.len()).enumerate();
        let places: Vec<_> =
            windows.filter(|(_, it)| *it == COMPILED.as_bytes()).map(|(at, _)| at).collect();
        assert!(
            places.len() >= 2,
            "{name} has no build id; the tree of `cargo xtask test` is built with MEDUSA_BUILD_ID={COMPILED}"
        );
        fs::create_dir(&folder).expect("a folder can be made");
        Builds { library, places, folder }
    }

    /// Writes the build of that number, and answers its path.
    pub(crate) fn write(&self, number: u64) -> String {
        let mut library = self.library.clone();
        let id = format!("build-{number:08}");
        for place in &self.places {
            library[*place..*place + id.len()].copy_from_slice(id.as_bytes());
        }
        // Two names by turns: the file of the build before last is replaced.
        let path = self.folder.join(format!("{}.so", number % 2));
        fs::write(path.with_extension("new"), library)
            .and_then(|()| fs::rename(path.with_extension("new"), &path))
            .expect("a build can be written");
        path.to_str().expect("a temporary folder has a plain name").to_owned()
    }
}

/// The number in a build id.
pub(crate) fn number(id: &str) -> Option<u64> {
    id.strip_prefix("build-")?.parse().ok()
}
