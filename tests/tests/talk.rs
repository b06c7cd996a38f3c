//! The line chat, as those who talk see it, and as it goes on while the plugin is upgraded.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use medusa_tests::{Server, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

struct Talker {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Talker {
    fn connect(address: SocketAddr) -> Talker {
        let stream = TcpStream::connect(address).expect("talk listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero is taken");
        let reader = BufReader::new(stream.try_clone().expect("a descriptor can be copied"));
        let mut talker = Talker { stream, reader };
        talker.hears("your nick:");
        talker
    }

    /// One who is there under this name, and whom all these have heard come.
    fn enter(address: SocketAddr, nick: &str, others: &mut [&mut Talker]) -> Talker {
        let mut talker = Talker::connect(address);
        talker.types(&format!("{nick}\n"));
        for other in others {
            other.hears(&format!("* somebody is {nick}"));
        }
        talker.types("/who\n");
        let here = talker.line();
        assert!(here.split(' ').any(|it| it == nick), "{nick} in {here:?}");
        talker
    }

    #[track_caller]
    fn types(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("the server takes it");
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("somebody says something");
        line.trim_end_matches('\n').to_owned()
    }

    #[track_caller]
    fn hears(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }

    #[track_caller]
    fn types_and_hears(&mut self, text: &str, line: &str) {
        self.types(&format!("{text}\n"));
        self.hears(line);
    }

    #[track_caller]
    fn is_at_its_end(&mut self) {
        self.hears("");
    }
}

fn serve() -> (Server, SocketAddr) {
    let server = Server::start(
        "[[plugin]]\nname = \"talk\"\nlibrary = \"talk\"\nlisten = [\"127.0.0.1:0\"]\n",
    );
    let address = server.address("talk");
    (server, address)
}

#[test]
fn everybody_hears_and_every_command_answers() {
    let (_server, address) = serve();
    let mut ada = Talker::enter(address, "ada", &mut []);
    let mut bob = Talker::enter(address, "bob", &mut [&mut ada]);
    let mut cy = Talker::enter(address, "cy", &mut [&mut ada, &mut bob]);

    ada.types("hello\r\nagain\n");
    for other in [&mut bob, &mut cy] {
        other.hears("ada: hello");
        other.hears("ada: again");
    }
    bob.types("/me waves\n");
    ada.hears("* bob waves");
    cy.hears("* bob waves");
    cy.types("/msg ada for your ears\n");
    ada.hears("[cy] for your ears");
    bob.types("/nick rob\n");
    ada.hears("* bob is rob");
    cy.hears("* bob is rob");
    bob.types_and_hears("/who", "ada rob cy");
    bob.types_and_hears("/msg bob x", "nobody here is \"bob\"; try /who");
    bob.types_and_hears("/nick ada", "it is taken, or no nick; your nick:");
    bob.types_and_hears("/nick a/b", "it is taken, or no nick; your nick:");
    bob.types("/help\n");
    let help = bob.line();
    assert!(help.starts_with("/nick NAME, /who"), "{help}");
    bob.types_and_hears("/dance", &format!("there is no /dance; {help}"));
    bob.types(&format!("{}\n", "x".repeat(2000)));
    assert!(bob.line().starts_with("there is no /(too"), "nobody hears it");
    // A terminal's own words are not passed on, nor what is no text.
    cy.stream.write_all(b"\x1b[31mred\x07 \xff\n").expect("the server takes it");
    bob.hears("cy: [31mred \u{fffd}");
    ada.hears("cy: [31mred \u{fffd}");
}

#[test]
fn whoever_leaves_is_heard_to_leave_whatever_the_reason() {
    let (server, address) = serve();
    let mut ada = Talker::enter(address, "ada", &mut []);
    let mut quits = Talker::enter(address, "quits", &mut [&mut ada]);
    quits.types("/quit\n");
    ada.hears("* quits has left");
    quits.is_at_its_end();
    let ends = Talker::enter(address, "ends", &mut [&mut ada]);
    ends.stream.shutdown(Shutdown::Write).expect("it is connected");
    ada.hears("* ends has left");
    let drops = Talker::enter(address, "drops", &mut [&mut ada]);
    drop(drops);
    ada.hears("* drops has left");
    let killed = Talker::enter(address, "killed", &mut [&mut ada]);
    let local = killed.stream.local_addr().expect("it is connected").to_string();
    let connections = server.ctl_json(["connections"]);
    let id = connections.as_array().into_iter().flatten().find(|it| it["peer"] == local);
    server.ctl(["kill", &id.expect("it is there")["id"].to_string()]).succeeded();
    ada.hears("* killed has left");
    // One without a nick comes and goes unheard.
    drop(Talker::connect(address));
    ada.types_and_hears("/who", "ada");
}

#[test]
fn an_upgrade_keeps_who_is_there_what_was_said_and_half_a_line() {
    let (server, address) = serve();
    let mut ada = Talker::enter(address, "ada", &mut []);
    let mut bob = Talker::enter(address, "bob", &mut [&mut ada]);
    let mut nameless = Talker::connect(address);
    let mut typed = "ada\n/who\n".len();
    for round in 0..5 {
        ada.types("half a li");
        typed += "half a li".len();
        wait_until("the half line to be read", PATIENCE, || {
            let all = server.ctl_json(["connections"]);
            let all = all.as_array().expect("a list");
            all.iter().all(|it| it["state"] == "parked")
                && all.iter().any(|it| it["received_bytes"] == typed)
        });
        let upgraded = server.ctl_json(["upgrade", "talk"]);
        assert_eq!(
            (&upgraded["result"], &upgraded["handed_over"]),
            (&"upgraded".into(), &3.into())
        );
        bob.types_and_hears("/who", "ada bob");
        ada.types("ne\n");
        typed += "ne\n".len();
        bob.hears("ada: half a line");
        bob.types(&format!("round {round}\n"));
        ada.hears(&format!("bob: round {round}"));
    }
    nameless.types("cy\n");
    ada.hears("* somebody is cy");
    bob.hears("* somebody is cy");
    drop(ada);
    bob.hears("* ada has left");
    nameless.hears("* ada has left");
    wait_until("the old generations to go", PATIENCE, || server.plugin("talk").len() == 1);
}
