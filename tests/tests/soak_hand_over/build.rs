//! Builds of a plugin, each with an id of its own, and some with another version of kept state.
//!
//! Both stand in the manifest, which is text in a section of the library, and are overwritten there. So a build that writes state in
//! version 2 says so, and keeps it in the same shape: what is proven here is which versions the host lets go over into which. That a
//! shape can change is shown by `hand_over.rs` for sessions, and by `toolbox.rs` for other state.

use std::{fs, path::PathBuf};

use medusa_tests::Tree;

/// The build id that the tree's plugins are compiled with.
const COMPILED: &str = "build-00000000";

pub(crate) struct Builds {
    library: Vec<u8>,
    folder: PathBuf,
}

impl Builds {
    /// Builds of the tree's plugin `name`, to be left in `folder`.
    pub(crate) fn of(name: &str, folder: PathBuf) -> Builds {
        let library = fs::read(Tree::get().library(name)).expect("the tree can be read");
        fs::create_dir(&folder).expect("a folder can be made");
        Builds { library, folder }
    }

    /// Writes the build of that number, which writes `state` in that version if it keeps any, and answers its path.
    pub(crate) fn write(&self, number: u64, state: u32) -> String {
        let mut library = self.library.clone();
        let ids = replace(&mut library, COMPILED, &id(number));
        assert!(ids > 0, "the tree of `cargo xtask test` is built with MEDUSA_BUILD_ID={COMPILED}");
        replace(
            &mut library,
            "\"writes\":1,\"reads\":[1,2]",
            &format!("\"writes\":{state},\"reads\":[1,2]"),
        );
        // Two names by turns: the file of the build before last is replaced.
        let path = self.folder.join(format!("{}.so", number % 2));
        fs::write(path.with_extension("new"), library)
            .and_then(|()| fs::rename(path.with_extension("new"), &path))
            .expect("a build can be written");
        path.to_str().expect("a temporary folder has a plain name").to_owned()
    }
}

/// The id of a build.
pub(crate) fn id(number: u64) -> String {
    format!("build-{number:08}")
}

/// The number in a build id.
pub(crate) fn number(id: &str) -> Option<u64> {
    id.strip_prefix("build-")?.parse().ok()
}

/// Overwrites each `from` with a `to` of the same length. Answers how many there were.
fn replace(library: &mut [u8], from: &str, to: &str) -> usize {
    assert_eq!(from.len(), to.len());
    let windows = library.windows(from.len()).enumerate();
    let places: Vec<_> =
        windows.filter(|(_, it)| *it == from.as_bytes()).map(|(at, _)| at).collect();
    for place in &places {
        library[*place..*place + to.len()].copy_from_slice(to.as_bytes());
    }
    places.len()
}
