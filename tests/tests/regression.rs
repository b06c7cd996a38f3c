//! What was wrong once: a test for each, named for it.

use medusa_tests::{Canary, Client, Server};

/// `liar` behind a server of HTTP, with a canary.
fn liar_behind_web() -> Server {
    Server::start(&format!(
        "{}[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
         [[plugin]]\nname = \"liar\"\nlibrary = \"liar\"\nattach = \"web\"\n",
        Canary::CONFIGURATION
    ))
}

/// An unload dropped the handler and told nobody: the client waited until its own patience was at its end, and a body
/// that was being pulled kept the library mapped.
#[test]
fn whoever_waits_for_an_extension_hears_of_its_unload() {
    let server = liar_behind_web();
    let mut clients = ["never", "stuck", "endless"].map(|lie| {
        let mut client = Client::connect(server.address("web"));
        client.send(format!("GET /lie/{lie} HTTP/1.1\r\nHost: test\r\n\r\n"));
        client
    });
    assert_eq!(Client::connect(server.address("web")).get("/lie/honest").text(), "the truth");
    let unloaded = server.ctl_json(["unload", "liar", "--now"]);
    assert_eq!(
        (&unloaded["result"], &unloaded["mapped"]),
        (&"unloaded".into(), &false.into()),
        "{unloaded}"
    );
    let [never, stuck, endless] = clients.each_mut().map(|client| client.try_response(false));
    assert!(never.as_ref().is_ok_and(|answer| answer.status >= 500), "{never:?}");
    assert!(stuck.is_err(), "a body that broke off has to look broken: {stuck:?}");
    assert!(endless.is_err(), "a body that broke off has to look broken");
    Canary::of(&server).sings();
}

/// The sentence was lost on its way: the operator read "cannot load" twice, and no reason.
#[test]
fn a_refused_library_says_why() {
    let server = Server::start(Canary::CONFIGURATION);
    server.folder().write("plugins/text.so", "text");
    let output = server.ctl(["load", "text", "--library", "text"]);
    output.refused("not a shared library: it begins like text");
    assert_eq!(output.stderr.matches("cannot load").count(), 1, "{output:#?}");
}
