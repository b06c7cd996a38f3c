//! Programs that the host may be told to go on as, good ones and others, and what there is to see of the upgrade.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use medusa_tests::{CtlOutput, Folder, Process, Server, Tree, wait_until};

use crate::PATIENCE;

/// The program of the tree under another name, in a file of its own. A plugin that is fickle fails in one that is called `bad`.
pub(crate) fn copy(folder: &Folder, name: &str) -> PathBuf {
    let path = folder.path(name);
    fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("a folder can be made");
    let new = path.with_extension("new");
    fs::copy(Tree::get().program(), &new)
        .and_then(|_| fs::rename(&new, &path))
        .expect("a program can be copied");
    path
}

/// A program that answers for itself as the real one does, and does `rest` when it is to be the server.
pub(crate) fn script(folder: &Folder, name: &str, rest: &str) -> PathBuf {
    let real = Tree::get().program();
    let text = format!(
        "#!/bin/sh\nif [ \"$1\" = preflight ]; then exec '{0}' \"$@\"; fi\nreal='{0}'\n{rest}\n",
        real.display()
    );
    file(folder, name, text.as_bytes(), 0o755)
}

/// A file with this mode.
pub(crate) fn file(folder: &Folder, name: &str, bytes: &[u8], mode: u32) -> PathBuf {
    folder.write(name, bytes);
    let path = folder.path(name);
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is the test's own");
    path
}

/// What the host says to the order.
#[track_caller]
pub(crate) fn order(server: &Server, binary: Option<&Path>) -> CtlOutput {
    let binary = binary.map(|path| path.to_str().expect("a plain name").to_owned());
    let words = ["--binary".to_owned()].into_iter().zip(binary).flat_map(|(a, b)| [a, b]);
    server.ctl(["upgrade-host".to_owned()].into_iter().chain(words))
}

/// Has the host go on as a program, which it does.
#[track_caller]
pub(crate) fn upgrade(server: &Server, binary: &Path) {
    let said = order(server, Some(binary));
    assert!(said.succeeded().starts_with("upgraded from "), "{said:?}");
}

/// Has it go on as the program that it is.
#[track_caller]
pub(crate) fn again(server: &Server) {
    upgrade(server, &Tree::get().program());
}

/// The program that a process runs.
#[track_caller]
pub(crate) fn program_of(process: Process) -> PathBuf {
    fs::read_link(format!("/proc/{}/exe", process.pid())).expect("it runs")
}

/// The children of a process, those that have ended and not been waited for among them.
#[track_caller]
pub(crate) fn children(process: Process) -> Vec<u32> {
    let pid = process.pid();
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Waits until it has none.
#[track_caller]
pub(crate) fn no_children(process: Process) {
    wait_until("the children to end, and to be waited for", PATIENCE, || {
        children(process).is_empty()
    });
}

/// Whether somebody has locked `lock` in the server's folder.
#[track_caller]
pub(crate) fn is_locked(server: &Server) -> bool {
    let file = fs::File::open(server.folder().path("lock")).expect("it was locked once");
    file.try_lock().is_err()
}
