//! The configuration as an operator meets it: what is refused before it is loaded, and what settings mean.

use medusa_tests::Server;
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// A pipe was opened and read on the loop: `config check` hung, and so did everything else, for good.
#[test]
fn a_pipe_in_the_place_of_a_library_stops_nobody() {
    let server = Server::start("");
    let pipe = server.folder().path("pipe.so");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    server.folder().configure("[[plugin]]\nname = \"a\"\nlibrary = \"./pipe.so\"\n");
    server.ctl(["config", "check"]).refused("not a regular file");
    server.ctl(["config", "apply"]).refused("not a regular file");
    let pipe = pipe.to_str().unwrap();
    server.ctl(["load", "b", "--library", pipe]).refused("not a regular file");
    server.folder().medusa(["check", "--config", "medusa.toml"], "").refused("medusa.toml:3");
    server.folder().medusa(["plugin", "inspect", "pipe.so"], "").refused("not a regular file");
    server.ctl(["status"]).succeeded();
}

#[test]
fn a_library_that_is_not_there_is_told_with_those_that_are() {
    let server = Server::start("");
    server.ctl(["load", "a", "--library", "ehco"]).refused("did you mean `echo`?");
    let output = server.ctl(["load", "a", "--library", "weather"]);
    output.refused("`http-files`");
    output.refused("/plugins; the libraries there are");
    server.ctl(["load", "a", "--library", "./weather.so"]).refused("no library at all");
    let folder = server.folder();
    folder.medusa(["plugin", "inspect", "plugins/htp.so"], "").refused("did you mean `http`?");
    folder.medusa(["plugin", "inspect", "none/http.so"], "").refused("there is no folder none");
}
