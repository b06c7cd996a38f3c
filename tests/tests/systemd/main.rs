//! medusa as a service of systemd, which the tests play: sockets that are passed, and sockets that are kept; what it says of itself.

mod manager;

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::Stdio,
    time::Duration,
};

use medusa_tests::{Client, Folder, Server, wait_until};
use rustix::{
    process::Signal,
    time::{ClockId, clock_gettime},
};

use crate::manager::{Manager, no_socket};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server of HTTP on these addresses.
fn web(listen: &[&str]) -> String {
    format!(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = {listen:?}\n[plugin.config]\nhealth = \"/up\"\n"
    )
}

/// An address with a port that is known beforehand, of this test alone.
fn own_address(test: u8) -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    (Ipv4Addr::new(127, 100 + test, high, low), 8080).into()
}

const ASK: &[u8] = b"GET /up HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Reads the answer to [`ASK`].
#[track_caller]
fn is_answered(mut stream: impl Read) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the connection ends in order");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// One that has asked, and waits.
fn tcp_client(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).expect("somebody listens there");
    client.write_all(ASK).expect("the kernel takes it");
    client
}

fn unix_client(path: &Path) -> UnixStream {
    let mut client = UnixStream::connect(path).expect("somebody listens there");
    client.write_all(ASK).expect("the kernel takes it");
    client
}

/// Whether no program that the server starts would have its sockets.
fn sockets_are_its_own(server: &Server) -> bool {
    let process = server.process();
    let of_sockets =
        process.descriptors().into_iter().filter(|it| it.target.starts_with("socket:"));
    let mut flags = of_sockets.filter_map(|it| {
        // One may be closed while we look.
        let text =
            fs::read_to_string(format!("/proc/{}/fdinfo/{}", process.pid(), it.number)).ok()?;
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:"))?.trim().to_owned();
        Some(i64::from_str_radix(&flags, 8).expect("it is octal"))
    });
    // O_CLOEXEC.
    flags.all(|flags| flags & 0o2_000_000 != 0)
}

#[test]
fn clients_that_came_before_the_server_are_served() {
    let folder = Folder::new();
    let tcp = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = tcp.local_addr().expect("it is bound");
    let path = folder.path("web.sock");
    let unix = UnixListener::bind(&path).expect("the folder is ours");
    let (early_tcp, early_unix) = (tcp_client(address), unix_client(&path));

    let manager = Manager::at(&folder.path("notify"));
    let service = manager.service().pass("tcp", tcp).pass("unix", unix);
    let listen = web(&[&address.to_string(), "unix:web.sock"]);
    let mut server = folder.start_by(&listen, |folder| service.command(folder));
    is_answered(early_tcp);
    is_answered(early_unix);
    server.wait_for_log(&format!("listening on {address} by the socket `tcp` that was passed"));
    assert!(sockets_are_its_own(&server));
    // They are the manager's: not given to it, and there for whoever is loaded next.
    assert!(manager.next().has("READY=1"));
    server.ctl(["unload", "web"]).succeeded();
    let between = tcp_client(address);
    server.ctl(["load", "web"]).succeeded();
    is_answered(between);
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    assert!(manager.next().has("STOPPING=1"));
    assert!(path.exists(), "the file is the manager's, too");
}

#[test]
fn a_socket_of_ipv6_can_be_passed() {
    let Ok(socket) = TcpListener::bind("[::1]:0") else {
        return medusa_tests::skip("this machine has no IPv6");
    };
    let address = socket.local_addr().expect("it is bound");
    let early = tcp_client(address);
    let folder = Folder::new();
    let service = Manager::at(&folder.path("notify")).service().pass("v6", socket);
    let _server = folder.start_by(&web(&[&address.to_string()]), |folder| service.command(folder));
    is_answered(early);
}

#[test]
fn what_is_passed_and_wanted_by_nobody_is_closed_and_named() {
    let folder = Folder::new();
    let socket = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = socket.local_addr().expect("it is bound");
    let manager = Manager::at(&folder.path("notify"));
    let service = manager.service().pass("stray", socket).pass("file", no_socket());
    let server = folder.start_by(&web(&["127.0.0.1:0"]), |folder| service.command(folder));
    assert!(manager.next().has("READY=1"));
    server.wait_for_log(&format!("the socket `stray` on {address} that was passed is closed"));
    server.wait_for_log("the descriptor `file` that was passed is closed: it is no socket");
    assert!(TcpStream::connect(address).is_err(), "nobody listens there any more");
}

#[test]
fn what_is_passed_to_another_process_is_not_touched() {
    let folder = Folder::new();
    let socket = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = socket.local_addr().expect("it is bound");
    let manager = Manager::at(&folder.path("notify"));
    let service = manager.service().pass("theirs", socket).for_another_process();
    let listen = web(&[&address.to_string()]);
    let _server = folder.start_by(&listen, |folder| service.command(folder));
    let ready = manager.next();
    assert!(ready.has("READY=1"), "{ready:?}");
    assert_eq!(ready.value("STATUS"), "serving: no listeners; failed: web");
}

#[test]
fn the_manager_is_told_where_the_server_is_in_its_life() {
    let manager = Manager::abstract_for("life");
    let configuration = web(&["127.0.0.1:0"]) + "[[plugin]]\nname = \"gone\"\nlibrary = \"gone\"\n";
    let service = manager.service();
    let mut server = Folder::new().start_by(&configuration, |folder| service.command(folder));
    let address = server.address("web");
    let ready = manager.next();
    assert!(ready.has("READY=1"), "{ready:?}");
    assert_eq!(ready.value("STATUS"), format!("serving: web on {address}; failed: gone"));

    let now_us = || {
        let now = clock_gettime(ClockId::Monotonic);
        now.tv_sec * 1_000_000 + now.tv_nsec / 1000
    };
    let before = now_us();
    server.folder().configure(&web(&["127.0.0.1:0"]));
    server.signal(Signal::HUP);
    let reloading = manager.next();
    assert!(reloading.has("RELOADING=1"), "{reloading:?}");
    let at: i64 = reloading.value("MONOTONIC_USEC").parse().expect("it is a number");
    assert!((before..=now_us()).contains(&at), "{at}");
    let ready = manager.next();
    assert!(ready.has("READY=1"), "{ready:?}");
    server.wait_for_log("the configuration is applied");

    server.signal(Signal::TERM);
    let stopping = manager.next();
    assert!(stopping.has("STOPPING=1"), "{stopping:?}");
    assert_eq!(stopping.value("STATUS"), "SIGTERM: draining");
    assert!(server.wait().success());
}

#[test]
fn a_configuration_with_a_mistake_ends_the_reload_too() {
    let folder = Folder::new();
    let manager = Manager::at(&folder.path("notify"));
    let service = manager.service();
    let server = folder.start_by(&web(&["127.0.0.1:0"]), |folder| service.command(folder));
    assert!(manager.next().has("READY=1"));
    server.folder().configure("[[plugin]]\n");
    server.signal(Signal::HUP);
    assert!(manager.next().has("RELOADING=1"));
    assert!(manager.next().has("READY=1"));
    assert_eq!(Client::connect(server.address("web")).get("/up").status, 200);
}

#[test]
fn a_loop_that_does_not_turn_says_nothing_to_the_watchdog() {
    let folder = Folder::new();
    let manager = Manager::at(&folder.path("notify"));
    let service = manager.service().with("WATCHDOG_USEC", "100000");
    let configuration = "[[plugin]]\nname = \"unruly\"\nlibrary = \"unruly\"\n";
    let mut server = folder.start_by(configuration, |folder| service.command(folder));
    for _ in 0..3 {
        manager.wait_for("WATCHDOG=1");
    }
    let mut stall = server.ctl_command();
    stall.args(["unruly", "do", "stall", "600000"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut stall = stall.spawn().expect("it can be run");
    server.wait_for_log("the plugin blocks the loop");
    assert!(manager.hears_nothing(Duration::from_secs(1)));
    // As systemd does then.
    server.signal(Signal::ABORT);
    assert!(!server.wait().success());
    assert!(stall.wait().is_ok_and(|status| !status.success()), "it was not done");
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let folder = Folder::new();
    let manager = Manager::at(&folder.path("notify"));
    let service = manager.service().with("WATCHDOG_USEC", "50000").with("WATCHDOG_PID", "1");
    let _server = folder.start_by(&web(&["127.0.0.1:0"]), |folder| service.command(folder));
    manager.wait_for("READY=1");
    assert!(manager.hears_nothing(Duration::from_millis(300)));
}

#[test]
fn clients_outlast_a_server_that_is_killed() {
    let folder = Folder::new();
    let (address, path) = (own_address(1), folder.path("web.sock"));
    let manager = Manager::at(&folder.path("notify"));
    let listen = web(&[&address.to_string(), "unix:web.sock"]);
    let service = manager.service();
    let mut server = folder.start_by(&listen, |folder| service.command(folder));
    let (tcp_name, tcp) = manager.next().stored();
    let (unix_name, unix) = manager.next().stored();
    assert_ne!(tcp_name, unix_name);
    assert!(manager.next().has("READY=1"));

    server.signal(Signal::KILL);
    assert!(!server.wait().success());
    let (early_tcp, early_unix) = (tcp_client(address), unix_client(&path));
    let copy = |socket: &std::os::fd::OwnedFd| socket.try_clone().expect("it can be copied");
    let again = || manager.service().pass(&tcp_name, copy(&tcp)).pass(&unix_name, copy(&unix));
    let command = again().command(server.folder());
    server.start_again(command);
    is_answered(early_tcp);
    is_answered(early_unix);
    // The manager has them still.
    assert!(manager.next().has("READY=1"));

    // An end in order keeps them as well, for a restart.
    server.signal(Signal::TERM);
    assert!(manager.next().has("STOPPING=1"));
    assert!(server.wait().success());
    let (early_tcp, early_unix) = (tcp_client(address), unix_client(&path));
    let command = again().command(server.folder());
    server.start_again(command);
    is_answered(early_tcp);
    is_answered(early_unix);
    assert!(manager.next().has("READY=1"));

    // What is closed for good is closed there too.
    server.ctl(["unload", "web"]).succeeded();
    let mut removed = Vec::new();
    for _ in 0..2 {
        let message = manager.next();
        assert!(message.has("FDSTOREREMOVE=1"), "{message:?}");
        removed.push(message.value("FDNAME").to_owned());
    }
    assert_eq!(removed, [tcp_name, unix_name]);
    drop((tcp, unix));
    assert!(TcpStream::connect(address).is_err() && !path.exists());
}

#[test]
fn clients_outlast_a_server_that_crashes_too_often() {
    let folder = Folder::new();
    let address = own_address(3);
    let manager = Manager::at(&folder.path("notify"));
    let bad = ["a", "b", "c", "d"].map(|name| {
        format!("[[plugin]]\nname = \"{name}\"\nlibrary = \"unruly\"\nattach = \"web\"\npath = \"/{name}\"\n")
    });
    let configuration = web(&[&address.to_string()]) + &bad.concat();
    let service = manager.service();
    let mut server = folder.start_by(&configuration, |folder| service.command(folder));
    let (name, socket) = manager.next().stored();
    assert!(manager.next().has("READY=1"));
    for bad in ["a", "b", "c"] {
        crash(address, bad);
        let ready = manager.next();
        assert!(ready.has("READY=1"), "it goes on, and says so: {ready:?}");
        is_answered(tcp_client(address));
    }
    crash(address, "d");
    let status = server.wait();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(11), "{status:?}");
    // It waits where the manager listens meanwhile.
    let early = tcp_client(address);
    let command = manager.service().pass(&name, socket).command(server.folder());
    server.start_again(command);
    is_answered(early);
    assert!(manager.next().has("READY=1"));
}

/// Has a plugin take the process down.
#[track_caller]
fn crash(address: SocketAddr, name: &str) {
    let mut culprit = TcpStream::connect(address).expect("it listens");
    let request = format!("GET /{name}/unruly/segfault HTTP/1.1\r\nHost: a\r\n\r\n");
    culprit.write_all(request.as_bytes()).expect("it is open");
    // It is closed, without an answer.
    let mut answer = Vec::new();
    let _ = culprit.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{}", answer.escape_ascii());
}

#[test]
fn the_managers_reload_lasts_until_the_next_program_serves_or_this_one_goes_on() {
    let manager = Manager::abstract_for("upgrade");
    let service = manager.service();
    let server = Folder::new().start_by(&web(&["127.0.0.1:0"]), |folder| service.command(folder));
    assert!(manager.next().has("READY=1"));
    for fault in ["", "host.frozen error", "host.begun error"] {
        server.folder().write("faults", fault);
        server.signal(Signal::USR2);
        let reloading = manager.next();
        assert!(reloading.has("RELOADING=1"), "{fault}: {reloading:?}");
        assert_eq!(reloading.value("STATUS"), "going on as another program");
        let ready = manager.next();
        assert!(ready.has("READY=1"), "{fault}: {ready:?}");
        assert!(ready.value("STATUS").starts_with("serving: web"), "{ready:?}");
    }
}

/// Its clients would not find it: another one is bound, and the old one given up.
#[test]
fn a_kept_socket_whose_file_is_gone_is_bound_anew() {
    let folder = Folder::new();
    let path = folder.path("web.sock");
    let manager = Manager::at(&folder.path("notify"));
    let service = manager.service();
    let listen = web(&["unix:web.sock"]);
    let mut server = folder.start_by(&listen, |folder| service.command(folder));
    let (name, socket) = manager.next().stored();
    server.signal(Signal::KILL);
    assert!(!server.wait().success());
    fs::remove_file(&path).expect("it was left there");
    let command = manager.service().pass(&name, socket).command(server.folder());
    server.start_again(command);
    manager.wait_for("FDSTOREREMOVE=1");
    assert_eq!(manager.next().stored().0, name);
    is_answered(unix_client(&path));
}

#[test]
fn what_was_kept_for_an_address_that_is_no_longer_configured_is_given_up() {
    let folder = Folder::new();
    let address = own_address(2);
    let manager = Manager::at(&folder.path("notify"));
    let service = manager.service();
    let listen = web(&[&address.to_string()]);
    let mut server = folder.start_by(&listen, |folder| service.command(folder));
    let (name, socket) = manager.next().stored();
    server.signal(Signal::KILL);
    assert!(!server.wait().success());
    server.folder().configure(&web(&["127.0.0.1:0"]));
    let command = manager.service().pass(&name, socket).command(server.folder());
    server.start_again(command);
    assert_eq!(manager.wait_for("FDSTOREREMOVE=1").value("FDNAME"), name);
    server.wait_for_log(&format!("the socket `{name}` on {address} that was passed is closed"));
    wait_until("the address to be free", PATIENCE, || TcpStream::connect(address).is_err());
}

#[test]
fn the_monitors_socket_can_be_passed_if_it_is_closed_to_others() {
    let folder = Folder::new();
    folder.write("run/keep", "");
    let path = folder.socket();
    let socket = UnixListener::bind(&path).expect("the folder is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let copy = socket.try_clone().expect("it can be copied");
    let manager = Manager::at(&folder.path("notify"));
    let service = manager.service().pass("monitor", copy);
    let mut server = folder.start_by(&web(&["127.0.0.1:0"]), |folder| service.command(folder));
    server.wait_for_log("the monitor listens by the socket");
    server.ctl(["status"]).succeeded();
    server.signal(Signal::TERM);
    assert!(server.wait().success() && path.exists());

    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("it is ours");
    let mut command = manager.service().pass("monitor", socket).command(server.folder());
    let output = command.output().expect("a shell can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("SocketMode=0600"), "{said}");
}
