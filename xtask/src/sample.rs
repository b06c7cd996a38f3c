//! The sample configuration, which `build` leaves in the tree and `run` serves.

use std::fmt::Write as _;

use crate::tree::Tree;

/// Where the sample site is served unless somebody else is there already.
pub(crate) const HTTP_PORT: u16 = 8080;

/// The text, for the plugins that the tree holds.
pub(crate) fn configuration(tree: &Tree, http_port: u16) -> String {
    let remark = "# The sample configuration. `cargo xtask build` and `run` write it anew: copy it before you change it.\n\
        # Relative paths are relative to this file.\n\n";
    remark.to_owned() + &settings(tree, http_port)
}

/// The same for a tree that nobody builds anew.
pub(crate) fn for_others(tree: &Tree) -> String {
    let remark = "# The sample configuration: a site on loopback. Relative paths are relative to this file.\n\n";
    remark.to_owned() + &settings(tree, HTTP_PORT)
}

fn settings(tree: &Tree, http_port: u16) -> String {
    let mut text = String::from(
        "[host]\nplugin_dir = \"plugins\"\nstate_dir = \"state\"\n\n\
         [monitor]\nsocket = \"run/medusa.sock\"\n",
    );
    if tree.has_plugin("http") {
        write!(text, "\n[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:{http_port}\"]\n")
            .expect("writing to a String cannot fail");
    }
    if tree.has_plugin("http") && tree.has_plugin("http-files") {
        text.push_str(
            "\n[[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\npath = \"/\"\n\
             [plugin.config]\nroot = \"site\"\nlisting = true\n",
        );
    }
    if tree.has_plugin("http") && tree.has_plugin("http-status") {
        text.push_str(
            "\n# What the server does: a page, and status.json, metrics and health beneath it, for programs on this machine.\n\
             [[plugin]]\nname = \"status\"\nlibrary = \"http-status\"\nattach = \"web\"\npath = \"/status\"\n",
        );
    }
    text
}
